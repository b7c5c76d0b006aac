"""From a scan to its label map: inferers, postprocessing, and what happens before the first scan."""
