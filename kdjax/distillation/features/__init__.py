"""Losses on feature maps and embeddings."""
