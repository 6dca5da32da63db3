"""Losses of domain discriminators and of pairs of classifiers."""
