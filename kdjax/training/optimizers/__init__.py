"""Optimizers, schedules and recipes."""
