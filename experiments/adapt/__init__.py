"""Adapts a classifier from labelled source to unlabelled target images."""
