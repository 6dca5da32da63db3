"""What all experiments share: flags, run folder, progress, tables, plots."""
