"""Adapts a classifier from labeled source to unlabeled target images."""
