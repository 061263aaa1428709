"""Readers of other formats: one file per format, see :mod:`robopolicy.data.convert.source`."""
