"""Training with MONAI's engines: the step, its handlers, pseudo-labels, pictures."""
