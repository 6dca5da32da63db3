"""Compares distillation methods on pairs of networks, with several seeds."""
