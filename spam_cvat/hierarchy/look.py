"""What a difference in looks means in this very scene.

In: a clip and its tracklets. Out: a :class:`SceneLook` that turns cosine distances into the scene's own units.

Embedding networks differ in how far apart they put two pictures of one person, and so do scenes: on one square all wear
coats, on another a lens blurs everybody. Both distances can be measured without labels: two boxes of one tracklet some
time apart show one person, two boxes of one frame show two. In units of these, 0 is as alike as one person and 1 as
unlike as two, whatever the network, and how well the two can be told apart says what an unlikeness is worth.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.motion_fit import Members

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Boxes of one tracklet are compared this many boxes apart, where it is long enough; neighbours are too much alike.
APART = 8
SAMPLES = 3000
# Boxes that overlap more than this show two people each.
CLEAR = 0.3
# What to expect before anything is seen, and for how many comparisons that counts.
PRIOR_SAME, PRIOR_OTHER, PRIOR_COUNT = 0.15, 0.5, 20
SMALLEST_UNIT = 0.02


@dataclass(frozen=True)
class SceneLook:
    """How far apart looks are in a scene.

    Attributes:
        same: median cosine distance of two boxes of one person.
        other: median cosine distance of two people.
        separation: 0 looks say nothing .. 1 they tell everybody apart (Somers' D, twice the area under the curve less
            one); 0 where there are no looks.
    """

    same: float = PRIOR_SAME
    other: float = PRIOR_OTHER
    separation: float = 0.0

    def units(self, cosine: Floats) -> Floats:
        """Cosine distances (...,) as 0 for one person .. 1 for two, cut at -1 and 3."""
        unit = max(self.other - self.same, SMALLEST_UNIT)
        return np.clip((cosine - self.same) / unit, -1.0, 3.0)


def measure_look(clip: Clip, members: Members) -> SceneLook:
    """Compare boxes inside tracklets and boxes of one frame, see the module's first lines."""
    if clip.embedding is None:
        return SceneLook()
    clear = clip.has_embedding & (clip.overlap < CLEAR) & (clip.cover < CLEAR)
    place = np.arange(len(members.row))
    end = members.start[members.owner] + members.count[members.owner] - 1
    early, late = members.row, members.row[np.minimum(place + APART, end)]
    one = np.stack([early, late], axis=1)[(clip.frame[late] - clip.frame[early]) * 2 >= APART]
    node = np.full(len(clip), -1, np.int64)
    node[members.row] = members.owner
    rows = np.flatnonzero(clear & (node >= 0))
    two = np.stack([rows[:-1], rows[1:]], axis=1)
    two = two[(clip.frame[two[:, 0]] == clip.frame[two[:, 1]]) & (node[two[:, 0]] != node[two[:, 1]])]
    same, other = (_distances(clip, pairs[clear[pairs].all(1)]) for pairs in (one, two))
    return SceneLook(
        _towards(same, PRIOR_SAME),
        _towards(other, PRIOR_OTHER),
        _separation(same, other) * min(len(same), len(other)) / (min(len(same), len(other)) + PRIOR_COUNT),
    )


def _distances(clip: Clip, pairs: Ints) -> Floats:
    """Cosine distances of some of the pairs, spread over the clip. (P, 2) -> (at most twice SAMPLES,)"""
    assert clip.embedding is not None
    some = pairs[:: max(len(pairs) // SAMPLES, 1)]
    return 1 - np.einsum("pd,pd->p", clip.embedding[some[:, 0]], clip.embedding[some[:, 1]]).astype(np.float64)


def _towards(values: Floats, prior: float) -> float:
    middle = float(np.median(values)) if len(values) else prior
    return (len(values) * middle + PRIOR_COUNT * prior) / (len(values) + PRIOR_COUNT)


def _separation(same: Floats, other: Floats) -> float:
    """How much oftener a distance of two people is the larger one than the smaller one, at least 0."""
    if not len(same) or not len(other):
        return 0.0
    below = np.searchsorted(np.sort(same), other, side="left") / len(same)
    above = 1 - np.searchsorted(np.sort(same), other, side="right") / len(same)
    return max(float(np.mean(below - above)), 0.0)
