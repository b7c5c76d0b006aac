"""Objectives of stage 1."""
