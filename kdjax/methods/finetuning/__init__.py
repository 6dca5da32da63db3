"""Methods of fine-tuning."""
