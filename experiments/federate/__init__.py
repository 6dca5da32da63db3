"""Trains clients that keep their data: accuracy against bytes."""
