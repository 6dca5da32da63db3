"""Objectives of language models and of transformers."""
