"""Learns classes with the help of teachers of other classes."""
