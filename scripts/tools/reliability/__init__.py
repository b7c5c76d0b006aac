"""`benchmark bad_input`, `verdicts`, `kills`, `growth`, `versions`: what the bundle survives."""
