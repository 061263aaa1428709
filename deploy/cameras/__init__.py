"""Cameras of real robots; each file one way to get pictures."""
