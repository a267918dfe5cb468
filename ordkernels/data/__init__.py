"""Loaders for the real data sets that the benchmarks and the demo use."""

from .kuairand import kuairand, kuairand_features, n_ids

__all__ = ["kuairand", "kuairand_features", "n_ids"]
