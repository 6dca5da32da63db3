"""Objectives of generalization, their batches and their gradient rules."""
