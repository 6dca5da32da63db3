"""Optimizers, schedules and rules of gradients."""
