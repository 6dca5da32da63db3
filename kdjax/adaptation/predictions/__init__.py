"""Losses on unlabeled predictions."""
