"""Benchmarks: `accuracy` and `prompts` train and score, `transfer` scores, `speed` times what users wait for."""
