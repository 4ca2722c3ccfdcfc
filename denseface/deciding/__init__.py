"""From measurements to decisions: thresholds, and pictures to leave out."""
