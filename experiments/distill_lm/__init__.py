"""Distils a language model into a smaller one, by text and by tokens."""
