"""Trains on several domains and tests on a domain that was never seen."""
