"""Self-training on unlabeled target examples."""
