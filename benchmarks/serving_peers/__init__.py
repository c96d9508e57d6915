"""Servers to compare with, each for an environment of its own; see benchmarks/serving.py."""
