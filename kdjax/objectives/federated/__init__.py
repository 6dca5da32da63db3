"""Objectives of federated learning."""
