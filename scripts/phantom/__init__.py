"""Synthetic sagittal spine MR volumes (phantoms) with labels, for demos and tests without patient data."""
