"""Methods that compare relations between examples."""
