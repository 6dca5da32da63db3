"""Losses on tokens of transformers."""
