"""Follows images that rotate step by step from a source to a target."""
