"""Where a tracklet's ends are, where they move, how sure that is, and how well this very scene can be predicted.

In: a clip and an identity per row. Out: for the head and the tail of each tracklet a position, velocity and size by
weighted regression over the nearest boxes, with their covariance; and the scene's own prediction errors by gap.

A whole-tracklet mean velocity is wrong after every turn, one step's velocity is mostly noise. So two windows are
fitted, a short and a long one, older boxes counting less and less, with a prior that things stand still. How far to
trust either is measured in the scene itself, without labels: inside tracklets the future is known, so predict it from
the past over 1, 2, 4, ... frames and take the median error. On a street the long window wins, in a dance none does,
and a residual divided by the scene's own error means the same in both.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from spam_cvat.hierarchy.geometry import Clip

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Memory of the short and the long window in seconds, and the most boxes that either looks at.
MEMORY = (0.15, 0.7)
MAX_WINDOW = 40
# Ends fitted together: few enough that what is computed of them stays in the processor's cache.
FIT_BLOCK = 2048
# Standing still is the prior: velocities of about one box height a second. Boxes jitter by 4 % of their height.
VELOCITY_PRIOR = 1.0
JITTER = 0.04
# Prediction errors are tabulated at these gaps in frames for the short, the long and the standing-still model.
GAPS = np.array([1, 2, 4, 8, 16, 32, 64])
MODELS = len(MEMORY) + 1
ERROR_SAMPLES = 3000
ERROR_PRIOR_COUNT = 20


@dataclass(frozen=True)
class Members:
    """Rows of a clip grouped by tracklet, each group in frame order.

    Attributes:
        row: (M,) rows of the clip, tracklet by tracklet.
        start: (T,) where each tracklet begins in ``row``.
        count: (T,) boxes of each tracklet.
    """

    row: Ints
    start: Ints
    count: Ints

    @classmethod
    def of(cls, node: Ints) -> "Members":
        """Group rows by their tracklet number 0 .. T - 1; rows with -1 belong to none."""
        rows = np.flatnonzero(node >= 0)
        order = rows[np.argsort(node[rows], kind="stable")]
        count = np.bincount(node[rows]) if len(rows) else np.zeros(0, np.int64)
        return cls(order, np.cumsum(count) - count, count)

    def __len__(self) -> int:
        """Number of tracklets."""
        return len(self.count)

    @property
    def first(self) -> Ints:
        """(T,) row of each tracklet's first box."""
        return self.row[self.start]

    @property
    def last(self) -> Ints:
        """(T,) row of each tracklet's last box."""
        return self.row[self.start + self.count - 1]

    @property
    def owner(self) -> Ints:
        """(M,) tracklet of each entry of ``row``."""
        return np.repeat(np.arange(len(self)), self.count)

    def over(self, operation: np.ufunc, value: Floats) -> Floats:
        """Each tracklet's values put together by ``np.add``, ``np.minimum`` or ``np.maximum``. (M,) -> (T,)."""
        # Every tracklet has a box, so that none of the ranges is empty.
        return operation.reduceat(value, self.start) if len(self) else np.zeros(0)

    def mean(self, value: Floats) -> Floats:
        """Mean of each tracklet's values. (M,) -> (T,)."""
        return self.over(np.add, value) / self.count


@dataclass(frozen=True)
class Ends:
    """One end of each tracklet, fitted with each window.

    Attributes:
        frame: (T,) frame of the end box.
        height: (T,) fitted height in clip pixels; the unit of all lengths here.
        width: (T,) fitted width in clip pixels.
        position: (T, windows, 2) fitted centre in clip pixels.
        velocity: (T, windows, 2) clip pixels a second.
        growth: (T,) change of log height a second.
        covariance: (T, windows, 3) of position, position x velocity and velocity, in heights and seconds.
    """

    frame: Ints
    height: Floats
    width: Floats
    position: Floats
    velocity: Floats
    growth: Floats
    covariance: Floats

    def select(self, index: Ints) -> "Ends":
        """The ends of some tracklets."""
        return Ends(
            self.frame[index],
            self.height[index],
            self.width[index],
            self.position[index],
            self.velocity[index],
            self.growth[index],
            self.covariance[index],
        )


def noise(clip: Clip) -> Floats:
    """(N,) standard deviation of each box's centre in heights: more where boxes overlap or the detector is unsure."""
    return JITTER * (1 + 2 * clip.overlap + 1.5 * (1 - clip.score))


def fit_ends(clip: Clip, at: Ints, available: Ints, row: Ints, direction: int) -> Ends:
    """Fit tracklet ends.

    Args:
        clip: the boxes.
        at: (T,) entry of ``row`` that holds each end box.
        available: (T,) boxes of the tracklet from there on, inwards.
        row: tracklets' rows in frame order, see :class:`Members`.
        direction: -1 for tails (the window lies before the end box), 1 for heads.
    """
    exactness = 1 / noise(clip) ** 2
    blocks = [
        _fit_block(clip, exactness, at[k : k + FIT_BLOCK], available[k : k + FIT_BLOCK], row, direction)
        for k in range(0, max(len(at), 1), FIT_BLOCK)
    ]
    if len(blocks) == 1:
        return blocks[0]
    return Ends(*(np.concatenate([getattr(block, part.name) for block in blocks]) for part in fields(Ends)))


def _fit_block(clip: Clip, exactness: Floats, at: Ints, available: Ints, row: Ints, direction: int) -> Ends:
    width = int(min(available.max(initial=1), MAX_WINDOW))
    inside = np.arange(width) < available[:, None]
    index = row[at[:, None] + direction * np.where(inside, np.arange(width), 0)]  # (T, W)
    end = row[at]
    centre, scale = clip.box[end, :2], clip.box[end, 3:]
    tau = (clip.frame[index] - clip.frame[end][:, None]) / clip.fps
    precision = np.where(inside, exactness[index], 0.0)
    powers = np.stack([np.ones_like(tau), tau, tau * tau], axis=1)  # (T, 3, W)
    value = np.take(clip.measures, index, axis=0)  # (T, W, 5)
    position, velocity, covariance = [], [], []
    for memory in MEMORY:
        weight = precision * np.exp(-np.abs(tau) / memory)
        moment = (powers * weight[:, None]) @ value  # (T, 3, 5): of time's powers and the values
        s0, s1, s2 = moment[:, 0, 0], moment[:, 1, 0], moment[:, 2, 0] + VELOCITY_PRIOR**-2
        # Centres as seen from the end box, in its heights.
        y0 = (moment[:, 0, 1:3] - s0[:, None] * centre) / scale
        y1 = (moment[:, 1, 1:3] - s1[:, None] * centre) / scale
        det = s0 * s2 - s1 * s1
        position.append((s2[:, None] * y0 - s1[:, None] * y1) / det[:, None])
        velocity.append((s0[:, None] * y1 - s1[:, None] * y0) / det[:, None])
        covariance.append(np.stack([s2, -s1, s0], axis=1) / det[:, None])
    # Sizes change slowly, so they are fitted with the longer window, the last one, alone.
    mean = moment[:, 0, 3:] / s0[:, None]
    # The prior on growth is as strong as a quarter of the window's boxes.
    spread = moment[:, 2, 0] - s1 * s1 / s0 + 0.25 * s0 * MEMORY[-1] ** 2
    growth = (moment[:, 1, 4] - s1 * mean[:, 1]) / spread
    return Ends(
        frame=clip.frame[end],
        height=np.exp(mean[:, 1]),
        width=np.exp(mean[:, 0]),
        position=centre[:, None] + np.stack(position, 1) * scale[:, None],
        velocity=np.stack(velocity, 1) * scale[:, None],
        growth=growth,
        covariance=np.stack(covariance, 1),
    )


def tails(clip: Clip, members: Members) -> Ends:
    """The last boxes of all tracklets."""
    return fit_ends(clip, members.start + members.count - 1, members.count, members.row, -1)


def heads(clip: Clip, members: Members) -> Ends:
    """The first boxes of all tracklets."""
    return fit_ends(clip, members.start, members.count, members.row, 1)


@dataclass(frozen=True)
class SceneMotion:
    """How far off predictions are in this scene.

    Attributes:
        log_error: (MODELS, len(GAPS)) log of the median error in heights of the short window, the long window and of
            standing still.
    """

    log_error: Floats

    def error(self, model: int, frames: NDArray[np.number]) -> Floats:
        """Median error in heights over a gap of some frames; beyond the table it grows as between its last entries."""
        x, table = np.log2(np.maximum(frames, 1.0)), np.log2(GAPS)
        slope = (self.log_error[model, -1] - self.log_error[model, -2]) / (table[-1] - table[-2])
        inside = np.interp(x, table, self.log_error[model])
        return np.exp(inside + slope * np.maximum(x - table[-1], 0))


def prior_error(fps: float) -> Floats:
    """What to expect of a scene before anything is seen of it: jitter, and an error that grows with time."""
    seconds = GAPS / fps
    moving = 0.05 + 0.3 * seconds
    return np.log(np.stack([moving, moving, 0.05 + 0.5 * seconds]))


def measure_motion(clip: Clip, members: Members) -> SceneMotion:
    """Predict inside tracklets and see how far off it is, see the module's first lines."""
    prior = prior_error(clip.fps)
    owner = members.owner
    position = np.arange(len(members.row)) - members.start[owner]
    able = np.flatnonzero((position >= 2) & (position < members.count[owner] - 1))
    if not len(able):
        return SceneMotion(prior)
    sample = able[:: max(len(able) // ERROR_SAMPLES, 1)]
    end = fit_ends(clip, sample, position[sample] + 1, members.row, -1)
    key = owner * (clip.num_frames + 1) + clip.frame[members.row]
    log_error = prior.copy()
    for g, gap in enumerate(GAPS):
        wanted = owner[sample] * (clip.num_frames + 1) + end.frame + gap
        found = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
        hit = (key[found] == wanted) & (end.frame + gap < clip.num_frames)
        if not hit.any():
            continue
        target = clip.box[members.row[found[hit]], :2]
        seconds = gap / clip.fps
        for model in range(MODELS):
            window = min(model, len(MEMORY) - 1)
            moved = end.velocity[hit, window] * seconds if model < len(MEMORY) else 0.0
            error = np.linalg.norm(end.position[hit, window] + moved - target, axis=1) / end.height[hit]
            share = hit.sum() / (hit.sum() + ERROR_PRIOR_COUNT)
            log_error[model, g] += share * (np.log(np.median(error) + 1e-3) - log_error[model, g])
    return SceneMotion(np.maximum.accumulate(log_error, axis=1))
