"""Counts -> figures: confusion, metrics with intervals, calibration, plots. Opens no file."""
