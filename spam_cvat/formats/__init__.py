"""Formats: MOTChallenge text and CVAT tracks, read and written without loss."""
