"""Methods that compare features."""
