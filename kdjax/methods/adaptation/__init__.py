"""Methods of domain adaptation."""
