"""What surrounds a run: its command line, its record, its model file, its process."""
