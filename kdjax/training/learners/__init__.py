"""Learners: one front door for each area."""
