"""`benchmark bad_input`, `kills`, `growth`, `versions`: what the bundle survives."""
