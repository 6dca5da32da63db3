"""Methods of self-training."""
