"""Measurements of a labelled spine: of every structure, and of the whole; tables of a folder."""
