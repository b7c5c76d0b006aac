"""From a folder of scans to a datalist."""
