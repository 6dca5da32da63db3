"""Objectives of logit losses."""
