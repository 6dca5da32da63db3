"""Objectives of feature losses."""
