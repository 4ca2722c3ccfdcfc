"""Embeddings of pictures, and galleries of them."""
