"""Distills a real sentence encoder into students of two and three layers."""
