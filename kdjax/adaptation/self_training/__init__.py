"""Self-training on unlabelled target examples."""
