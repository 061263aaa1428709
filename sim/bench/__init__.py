"""Benchmarks of others, each in an environment of its own behind a pipe; see docs/benchmarks.md."""
