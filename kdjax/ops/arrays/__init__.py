"""Distances, masks, moments, NaN, sizes and gradients of arrays."""
