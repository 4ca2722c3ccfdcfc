"""The options of a training run: the one list of them, and how names, keys and tables become values."""
