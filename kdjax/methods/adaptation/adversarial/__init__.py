"""Methods of adversarial adaptation."""
