"""The part that runs inside a benchmark's own environment.

Started by path as ``python .../guest/launch.py``; needs Python 3.10, numpy and the benchmark, and never imports the rest
of robopolicy, whose dependencies are not installed there.
"""
