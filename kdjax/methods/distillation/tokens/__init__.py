"""Methods that compare tokens."""
