"""Networks of sound, and their front ends."""
