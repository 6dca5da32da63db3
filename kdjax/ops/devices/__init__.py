"""Collectives, mesh axes, export, and chunks that bound memory."""
