"""Checks of arguments, and errors that name them."""
