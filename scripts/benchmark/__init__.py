"""Benchmarks: `accuracy` trains and scores methods under equal conditions, `speed` times what users wait for."""
