"""Probabilities of links brought to the clip at hand, without labels.

In: a clip, linked through all levels. Out: the same, with the probabilities of each stage moved by one number.

Calibration on generated scenes makes probabilities right on the average scene. How many of a level's candidates hold
differs from video to video, though, with the detector and with how people move; and once all levels are through, the
final tracks say how many held, with more context than the level had. So each stage's log odds are moved until about as
many links are expected as the tracks confirm: logistic regression on the tracks with the intercept alone, drawn to 0
(maximum a posteriori), so that a few links move nothing. All probabilities of a stage move together and stay in their
order; no single link becomes sure of itself because it was taken.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq

from spam_cvat.annotation import Level
from spam_cvat.hierarchy.calibration import logit, sigmoid
from spam_cvat.hierarchy.edge_labels import true_links
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.levels import LIKE, UNTANGLE_AFTER, ClipResult, Policy, stage_name

Floats = NDArray[np.float64]

# Precision of the prior of a stage's intercept around 0.
PRIOR = 20.0
# Stages that stay as they are: nearly all of their links are clear, and taken as they say.
SETTLED = {stage_name("level", 0)} | {stage_name("crossings", level) for level in UNTANGLE_AFTER}


def recalibrate(clip: Clip, found: ClipResult, policy: Policy) -> ClipResult:
    """Move each stage's probabilities to what the clip's tracks say of its links.

    Args:
        clip: the boxes.
        found: the clip, linked without answers.
        policy: by which it was linked. Boxes of tracks that its gate does not let pass belong to nobody.
    """
    real = found.passing(policy)
    track = np.zeros(len(clip), np.int64)
    inside = np.flatnonzero(found.node >= 0)
    track[inside] = np.where(real[found.node[inside]], found.node[inside] + 1, 0)
    shift = {}
    for level in found.levels:
        if level.stage not in SETTLED and len(level.edge):
            held = true_links(level, clip.frame, track)
            shift[level.stage] = intercept(logit(level.probability.astype(np.float64)), held)
    return replace(found, levels=tuple(shifted(level, shift) for level in found.levels), shift=shift)


def intercept(log_odds: Floats, held: NDArray[np.bool_], prior: float = PRIOR) -> float:
    """What to add to ``log_odds`` (E,) so that they expect about as many links as ``held`` (E,), drawn to 0."""
    reach = len(held) / prior  # the slope of the prior alone outweighs all links there
    return float(brentq(lambda d: (sigmoid(log_odds + d) - held).sum() + prior * d, -reach, reach)) if reach else 0.0


def shifted(level: Level, shift: Mapping[str, float]) -> Level:
    """A record with the shift of its stage, or of the stage that it is calibrated like."""
    by = shift.get(LIKE.get(level.stage, level.stage))
    if by is None:
        return level
    moved = sigmoid(logit(level.probability.astype(np.float64)) + by)
    return replace(level, probability=moved.astype(np.float32))
