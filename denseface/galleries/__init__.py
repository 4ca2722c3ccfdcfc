"""Galleries: embeddings with names, searched, merged and clustered."""
