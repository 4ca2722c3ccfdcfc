"""The processes of a distributed run."""
