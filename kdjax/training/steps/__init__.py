"""Passes, steps and evaluation."""
