"""Fine-tunes real sentence encoders on a few labels, and ranks teachers."""
