"""Distillation losses on relations between the examples of a batch."""
