"""The parts that all experiments share: flags, run folder, tables, plots."""
