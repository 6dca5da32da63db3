"""Distillation losses on feature maps and embeddings."""
