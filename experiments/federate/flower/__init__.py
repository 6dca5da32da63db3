"""Runs clients as processes of Flower; compares them with the simulation."""
