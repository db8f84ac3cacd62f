"""Benchmarks of the algorithms against each other and against the baselines, on real data."""
