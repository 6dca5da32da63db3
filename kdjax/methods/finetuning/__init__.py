"""Objectives of fine-tuning: heads that stay, projectors, queues."""
