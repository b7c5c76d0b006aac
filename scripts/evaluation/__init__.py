"""Scores of label maps, case by case."""
