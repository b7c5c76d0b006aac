"""Infrastructure of a bundle run: command-line overrides, run record, model file, subprocess launch."""
