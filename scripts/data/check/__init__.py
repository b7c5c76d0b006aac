"""Checks of scans, labels and datalists before a run spends hours on them."""
