"""Objectives of collaborative learning."""
