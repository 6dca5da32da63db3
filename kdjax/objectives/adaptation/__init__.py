"""Objectives of adaptation: discriminators, second classifiers, pseudo-labels."""
