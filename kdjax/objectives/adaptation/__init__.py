"""Objectives of adaptation: discriminators, classifiers, pseudo-labels."""
