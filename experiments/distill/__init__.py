"""Distils a teacher into small students that see few examples."""
