"""Shared by tests and benchmarks: `timing`."""
