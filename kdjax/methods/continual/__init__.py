"""Objectives of continual learning."""
