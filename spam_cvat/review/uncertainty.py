"""Uncertainty: what the hierarchy is unsure of, per detection, per link of a track and per end of a tracklet.

In: an Annotation (gate and edge probabilities, calibrated and under the one-in one-out constraints) and the clamps that
hold already. Out: arrays that :mod:`spam_cvat.review.selection` turns into questions. SPAM's own rule, the largest edge
entropy at a node, is here beside what the expected gain needs.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.annotation import Annotation, Edges, Level
from spam_cvat.answers import Clamps


def binary_entropy(probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Entropy of yes or no in bits; 0 at 0 and 1. (N,) -> (N,).

    >>> binary_entropy(np.array([0.0, 0.5, 1.0]))
    array([0., 1., 0.])
    """
    p = np.clip(probability.astype(np.float64), 1e-12, 1 - 1e-12)
    return np.round(-(p * np.log2(p) + (1 - p) * np.log2(1 - p)), 9)


def node_entropy(level: Level) -> NDArray[np.float64]:
    """SPAM's association uncertainty, ``uncert(v) = max over u in N(v) of H(p(v, u))``, per node of a level. (V,) bits.

    Nodes without candidate edges have 0.
    """
    out = np.zeros(int(level.node.max(initial=-1)) + 1)
    entropy = binary_entropy(level.probability)
    np.maximum.at(out, level.edge[:, 0], entropy)
    np.maximum.at(out, level.edge[:, 1], entropy)
    return out


def gate_entropy(annotation: Annotation) -> NDArray[np.float64]:
    """Entropy of "is this detection real", in bits. (N,)."""
    return binary_entropy(annotation.gate)


def row_entropy(annotation: Annotation) -> NDArray[np.float64]:
    """Per detection the largest uncertainty of its gate and of its nodes at all levels, in bits. (N,)."""
    out = gate_entropy(annotation)
    for level in annotation.levels:
        inside = level.node >= 0
        if inside.any():
            out[inside] = np.maximum(out[inside], node_entropy(level)[level.node[inside]])
    return out


@dataclass(frozen=True)
class Links:
    """Successive detections of the final tracks, by track and then by time.

    Attributes:
        earlier: (K,) rows of detections.
        later: (K,) rows of detections.
        track: (K,) identities.
        probability: (K,) that both are one person; 1 where a human said so.
    """

    earlier: NDArray[np.int64]
    later: NDArray[np.int64]
    track: NDArray[np.int32]
    probability: NDArray[np.float64]


def links(annotation: Annotation, edges: Edges, clamps: Clamps) -> Links:
    """The links that the final tracks are made of, with what the hierarchy thinks of each.

    A link that was made below the levels kept, or in stitching, has no edge of its own and is believed
    :data:`spam_cvat.annotation.UNKNOWN_LINK`.
    """
    tracks = annotation.tracks
    own = np.flatnonzero(tracks.detection >= 0)
    rows, track = tracks.detection[own], tracks.track[own]
    joined = np.flatnonzero(np.diff(track) == 0)
    earlier, later = rows[joined], rows[joined + 1]
    probability = edges.belief(earlier, later)
    probability[clamps.person[earlier] == clamps.person[later]] = 1.0
    return Links(earlier, later, track[joined], probability)


def real_probability(annotation: Annotation, clamps: Clamps) -> NDArray[np.float64]:
    """Probability that each detection is real, 0 or 1 where a human said so. (N,)."""
    return np.where(clamps.gate >= 0, clamps.gate, annotation.gate.astype(np.float64))


def join_gain(before: ArrayLike, after: ArrayLike) -> NDArray[np.float64]:
    """Boxes whose identity is put right by joining (or cutting) pieces of n and m boxes: 2 n m / (n + m).

    The association part of HOTA counts, per box, the share of its track that agrees; joining two pure pieces of one
    person lifts n boxes by m / (n + m) and m boxes by n / (n + m).
    """
    n, m = np.asarray(before, np.float64), np.asarray(after, np.float64)
    return 2 * n * m / np.maximum(n + m, 1)
