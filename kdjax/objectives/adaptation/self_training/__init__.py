"""Objectives of self-training."""
