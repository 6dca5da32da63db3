"""Networks of sound, and what they read."""
