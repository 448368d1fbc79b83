"""Benchmarks: ours and the stock component, one after the other, each on a fresh control plane."""
