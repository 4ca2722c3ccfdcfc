"""Build, inspect and unpack training and verification sets."""
