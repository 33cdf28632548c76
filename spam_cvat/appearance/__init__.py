"""Appearance: one vector per box, near for the same object and far for others."""
