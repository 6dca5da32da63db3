"""Decompositions, optimal transport and small optimization problems."""
