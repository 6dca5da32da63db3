"""Learns one task after the other and measures what is forgotten."""
