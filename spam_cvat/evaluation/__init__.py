"""Scores of tracks against ground truth, equal to TrackEval's: HOTA, CLEAR MOT and Identity."""

from spam_cvat.evaluation.scores import PRESETS, Scores, combine, evaluate, evaluate_files

__all__ = ["PRESETS", "Scores", "combine", "evaluate", "evaluate_files"]
