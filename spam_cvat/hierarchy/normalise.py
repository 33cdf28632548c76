"""A video's candidate boxes as the networks know them: each object once, in the shape of people, in every frame.

In: Detections with comparable confidences (:func:`spam_cvat.detections.comparable`), and warps. Out: the same rows, or
which of them remain, for linking only: tracks are made of the boxes as they were given. What has to be changed is told
from the boxes alone; the detectors and scenes that networks were trained on are left as they are.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from spam_cvat.detections import Detections
from spam_cvat.hierarchy.geometry import accumulate, neighbourhood
from spam_cvat.motion import at_frames

Warps = NDArray[np.float64] | None

# Half of a scene's boxes of people are narrower than a share of their height in this range, on the streets and the
# stages at hand and on the generated scenes that networks are trained on. What lies outside is no scene of people and
# is squeezed until half of its boxes are narrower than this.
PEOPLE, PERSON = (0.3, 0.7), 0.4
# A detector that lists more than this share of its boxes a second time, with an IoU over the first number, does not
# suppress such boxes itself; then those go that overlap a better one by more than the second number. Networks were
# trained on detectors that suppress from 0.3 to 0.7. It is told from about so many boxes.
TWINS, TWIN, SUPPRESSED, SAMPLE = 0.01, 0.75, 0.6, 5_000
# Boxes of this confidence tell the shape, of labels that have more than this share of them.
SHAPED, RARE = 0.5, 0.1
# Detections in so many frames at least tell that a detector looks at every second, third, ... frame only.
LOOKS = 8


def listed_once(detections: Detections) -> NDArray[np.bool_]:
    """Which boxes remain when a detector that lists objects several times is given a non-maximum suppression. (N,)

    Greedy within each frame and label as :func:`spam_cvat.boxes.nms` is, but for the pairs of a whole video at once.
    """
    looked = np.zeros(detections.video.num_frames, bool)
    looked[_frames(detections)[:: len(detections) // SAMPLE + 1]] = True
    some = detections.select(looked[detections.frame])
    shadow = neighbourhood(some)[1]
    out = np.ones(len(detections), bool)
    if (shadow > TWIN).sum() <= TWINS * len(some):
        return out
    *_, pairs, iou = neighbourhood(detections)
    pairs = pairs[iou > SUPPRESSED]
    # Rows of a frame are in falling order of confidence: once it is a box's turn, all better ones have had theirs.
    for better, worse in pairs[np.argsort(pairs[:, 0], kind="stable")].tolist():
        if out[better]:
            out[worse] = False
    return out


def people_shaped(detections: Detections, warps: Warps) -> tuple[Detections, Warps]:
    """The video as it is, or squeezed in x until its boxes have the shape of people, whom the networks know.

    Cars are no people, but move and hide each other much the same. Overlaps do not change by it.

    Args:
        detections: candidate boxes, their confidences comparable.
        warps: (num_frames, 2, 3) camera motion or None.
    """
    sure = detections.score >= SHAPED
    size = (detections.box[:, 2:] - detections.box[:, :2])[sure].astype(np.float64)
    ratio, label = size[:, 0] / size[:, 1], detections.label[sure]
    usual = [np.median(ratio[label == k]) for k in np.unique(label) if (label == k).mean() > RARE]
    # Where there are people among cars, people stay as they are.
    shape = min(usual, key=lambda value: abs(np.log(value / PERSON)), default=PERSON)
    if PEOPLE[0] <= shape <= PEOPLE[1]:
        return detections, warps
    return stretched(detections, warps, PERSON / shape)


def stretched(detections: Detections, warps: Warps, factor: float) -> tuple[Detections, Warps]:
    """The video with everything ``factor`` times as wide, its camera motion too."""
    video = replace(detections.video, width=max(1, round(detections.video.width * factor)))
    box = detections.box * np.array([factor, 1, factor, 1], np.float32)
    if warps is not None:
        # Stretched again what was squeezed before: S W S^-1.
        warps = warps * np.array([[1, factor, factor], [1 / factor, 1, 1]])
    return replace(detections, video=video, box=box), warps


def looked_at(detections: Detections, warps: Warps) -> tuple[Detections, Warps]:
    """The video, or only those of its frames that the detector looks at where it skips all others.

    In a video of every frame, everything would seem to vanish again and again, as false boxes do.
    """
    frames = _frames(detections)
    step = int(np.gcd.reduce(np.diff(frames))) if len(frames) >= LOOKS else 1
    if step == 1:
        return detections, warps
    looks = np.arange(frames[0], frames[-1] + 1, step)
    video = replace(detections.video, num_frames=len(looks), fps=detections.video.fps / step)
    if warps is not None:
        _, from_first = accumulate(warps, detections.video.num_frames)
        warps = at_frames(from_first, looks)
    return replace(detections, video=video, frame=((detections.frame - frames[0]) // step).astype(np.int32)), warps


def _frames(detections: Detections) -> NDArray[np.int64]:
    """The frames that have boxes, ascending."""
    return np.flatnonzero(np.diff(detections.frame_start))
