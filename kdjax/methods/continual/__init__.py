"""Methods of continual learning."""
