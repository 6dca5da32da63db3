"""Methods of domain generalization."""
