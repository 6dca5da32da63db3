"""Distills across modalities: Gaussians, halves, spoken digits, captions."""
