"""Objectives of generalization: what several domains have in common."""
