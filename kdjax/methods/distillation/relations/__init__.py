"""Objectives of losses of relations between examples."""
