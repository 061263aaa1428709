"""Noise schedules, explicit time grids and samplers as pure functions."""
