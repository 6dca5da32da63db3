"""Methods of federated learning."""
