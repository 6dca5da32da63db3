"""Fine-tunes a pretrained network on a few labels, and ranks teachers."""
