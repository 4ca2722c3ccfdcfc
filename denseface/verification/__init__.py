"""A model measured on a set."""
