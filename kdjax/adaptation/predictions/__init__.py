"""Losses on unlabelled predictions."""
