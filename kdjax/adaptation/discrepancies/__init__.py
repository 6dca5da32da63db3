"""Discrepancies between the features of two domains."""
