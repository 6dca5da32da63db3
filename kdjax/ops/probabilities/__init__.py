"""Softmax, cross-entropy, divergences and classes."""
