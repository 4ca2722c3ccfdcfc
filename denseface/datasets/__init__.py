"""Make training and verification sets from what people have."""
