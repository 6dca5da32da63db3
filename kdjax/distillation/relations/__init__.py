"""Losses on relations and contrasts between the examples of a batch."""
