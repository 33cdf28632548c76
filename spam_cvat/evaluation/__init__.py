"""Evaluation: HOTA, CLEAR and Identity as TrackEval computes them, and quality against clicks."""
