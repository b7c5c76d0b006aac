"""Exported networks, run in place of the network that they were made of."""
