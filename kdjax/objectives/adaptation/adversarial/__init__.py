"""Objectives of adversarial adaptation."""
