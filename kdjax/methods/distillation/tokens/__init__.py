"""Objectives of losses of tokens."""
