"""Training: the loop, the learner, and where batches come from beyond one pass over the pictures."""
