"""Objectives of cross-modal learning."""
