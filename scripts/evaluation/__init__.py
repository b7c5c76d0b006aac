"""Evaluation of label maps: metrics per case, class and group, and ignite handlers."""
