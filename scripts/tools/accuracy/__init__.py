"""`benchmark accuracy` and its kin: train and score systems under equal conditions."""
