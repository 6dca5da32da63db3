"""Trains small students of a large teacher, directly and step by step."""
