"""Objectives: what a method minimises."""
