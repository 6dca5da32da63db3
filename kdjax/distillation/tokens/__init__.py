"""Distillation losses on the tokens of transformers."""
