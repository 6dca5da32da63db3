"""Methods of collaborative learning."""
