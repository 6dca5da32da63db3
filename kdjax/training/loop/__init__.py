"""The loop over data: feeds, programs, progress, checkpoints."""
