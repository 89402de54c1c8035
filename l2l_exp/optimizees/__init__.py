"""Distributions over problems, as pure functions (layer 0)."""
