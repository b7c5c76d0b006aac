"""Data: lists, layouts, checks, caches and the streams of training."""
