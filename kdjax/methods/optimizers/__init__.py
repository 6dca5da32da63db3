"""Optax transformations that methods are made of."""
