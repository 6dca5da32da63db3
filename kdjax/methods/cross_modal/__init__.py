"""Methods of cross-modal learning."""
