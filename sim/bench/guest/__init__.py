"""The part that runs inside a benchmark's own environment.

Started by path as ``python .../guest/launch.py``; needs Python 3.10, numpy and the benchmark. Of robopolicy it imports
this package only: the dependencies of the rest are not installed there.
"""
