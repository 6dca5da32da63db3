"""Trains peers that teach each other, beside independent networks."""
