"""Detectors: candidate boxes from pixels, at a threshold low enough to miss little."""
