"""Objectives of adaptation: adversaries, pseudo-labels, prepared batches."""
