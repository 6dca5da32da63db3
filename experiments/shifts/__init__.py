"""Compares adaptation methods without networks on four shifts of 2-D data."""
