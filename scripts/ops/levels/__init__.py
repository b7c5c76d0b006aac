"""Which level a structure has: its tissue type, the order of the spine, and how sure a name is."""
