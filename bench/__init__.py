"""Measurements of this project beside its peers, on one machine in one run: ``python -m bench``."""
