"""Drawn sagittal spine MR volumes with labels, for demos and tests without patient data."""
