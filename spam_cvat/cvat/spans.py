"""One CVAT track frame by frame: what a human sees between the keyframes.

In: a track as CVAT's JSON gives it (``{label_id, frame, shapes: [...]}``). Out: boxes and properties per frame, what
differs between two versions of a track, and a track composed of frames of several. Pure functions; frames count as in
the CVAT task, from 0.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Two boxes that differ by less are the same box: CVAT stores doubles, we send hundredths of a pixel.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Span:
    """A track over the frames it is defined on.

    Attributes:
        start: first frame.
        box: (n, 4) float64, x1 y1 x2 y2 in pixels per frame; a row of NaN where the track is outside.
        key: (n,) index into ``shapes`` of the keyframe in effect.
        is_key: (n,) whether the frame is itself a keyframe.
        shapes: the keyframes in frame order, attributes carried forward.
        properties: (K,) per shape what must agree besides the box: occluded, rotation, mutable attributes.
    """

    start: int
    box: NDArray[np.float64]
    key: NDArray[np.intp]
    is_key: NDArray[np.bool_]
    shapes: tuple[Mapping[str, Any], ...]
    properties: tuple[tuple[Any, ...], ...]

    @property
    def stop(self) -> int:
        """One past the last frame."""
        return self.start + len(self.box)

    @property
    def visible(self) -> NDArray[np.intp]:
        """Frames with a box."""
        return np.flatnonzero(~np.isnan(self.box[:, 0])) + self.start

    def at(self, frame: int) -> NDArray[np.float64] | None:
        """The box in a frame, (4,), or None where there is none."""
        row = frame - self.start
        if not 0 <= row < len(self.box) or np.isnan(self.box[row, 0]):
            return None
        return self.box[row]

    def window(self, start: int, stop: int) -> NDArray[np.float64]:
        """Boxes of frames start .. stop - 1, (stop - start, 4); NaN where there is none."""
        out = np.full((max(stop - start, 0), 4), np.nan)
        low, high = max(start, self.start), min(stop, self.stop)
        if high > low:
            out[low - start : high - start] = self.box[low - self.start : high - self.start]
        return out

    def property_at(self, frame: int) -> tuple[Any, ...]:
        """What is said of the box besides its place; empty where there is no box."""
        return () if self.at(frame) is None else self.properties[self.key[frame - self.start]]


def attribute_values(items: Sequence[Mapping[str, Any]]) -> dict[int, str]:
    """Attribute values by spec id: the server returns them in any order."""
    return {int(item["spec_id"]): str(item["value"]) for item in items}


def attribute_list(values: Mapping[int, str]) -> list[dict[str, Any]]:
    """The JSON form of :func:`attribute_values`."""
    return [{"spec_id": spec, "value": value} for spec, value in sorted(values.items())]


def shape_box(shape: Mapping[str, Any]) -> NDArray[np.float64]:
    """(4,) box around a shape's points; NaN for a shape without points (a skeleton)."""
    points = np.asarray(shape.get("points") or [], np.float64)
    if len(points) < 4:
        return np.full(4, np.nan)
    x, y = points[0::2], points[1::2]
    return np.array([x.min(), y.min(), x.max(), y.max()])


def read_span(track: Mapping[str, Any], start: int, stop: int) -> Span:
    """A track over frames start .. stop (both included, as a CVAT job counts).

    Boxes are linear between keyframes, also towards a keyframe that is outside, as CVAT draws them; the last keyframe
    holds until ``stop`` unless it is outside. Keyframes after ``stop`` count as where the line leads to.
    """
    shapes = _carried(track.get("shapes", ()))
    if not shapes:
        return Span(start, np.zeros((0, 4)), np.zeros(0, np.intp), np.zeros(0, bool), (), ())
    frames = np.array([shape["frame"] for shape in shapes])
    boxes = _shape_boxes(shapes)
    outside = np.array([bool(shape.get("outside")) for shape in shapes])
    first, last = max(start, int(frames[0])), int(frames[-1] if outside[-1] else stop)
    grid = np.arange(first, min(last, stop) + 1)
    key = np.searchsorted(frames, grid, side="right") - 1
    right = np.minimum(key + 1, len(shapes) - 1)
    step = np.maximum(frames[right] - frames[key], 1)
    share = ((grid - frames[key]) / step)[:, None]
    dense = boxes[key] * (1 - share) + boxes[right] * share
    dense[outside[key]] = np.nan
    return Span(
        start=first,
        box=dense,
        key=key,
        is_key=frames[key] == grid,
        shapes=tuple(shapes),
        properties=tuple(_all_properties(shapes)),
    )


def _carried(shapes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Keyframes by frame, the later of two in one frame, each with all mutable attributes in effect."""
    by_frame = {int(shape["frame"]): shape for shape in shapes}
    out: list[dict[str, Any]] = []
    raw: Any = None
    values: list[dict[str, Any]] = []
    for _, shape in sorted(by_frame.items()):
        given = shape.get("attributes")
        if given and given != raw:
            raw = given
            values = attribute_list(attribute_values(values) | attribute_values(given))
        out.append({**shape, "attributes": values})
    return out


def _shape_boxes(shapes: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """(n, 4) :func:`shape_box` of each; upright rectangles, which is nearly all there is, in one go."""
    points = [shape.get("points") or () for shape in shapes]
    if any(len(item) != 4 for item in points):
        return np.stack([shape_box(shape) for shape in shapes])
    corners = np.array(points, np.float64)
    return np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)


def _all_properties(shapes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Any, ...]]:
    """Per shape what must agree besides the box; ``shapes`` share the lists of attributes that did not change."""
    last: Any = None
    attributes: tuple[tuple[int, str], ...] = ()
    for shape in shapes:
        if shape["attributes"] is not last:
            last = shape["attributes"]
            attributes = tuple(sorted(attribute_values(last).items()))
        yield bool(shape.get("occluded")), float(shape.get("rotation") or 0.0), attributes


def differing_frames(a: Span, b: Span, *, boxes_only: bool = False) -> NDArray[np.intp]:
    """Frames in which two versions of a track show different things, ascending.

    A box that is in one and not in the other differs; so does one that moved by more than :data:`TOLERANCE`, or (unless
    ``boxes_only``) whose occlusion, rotation or mutable attributes changed.
    """
    if not len(a.box) or not len(b.box):
        return (b if not len(a.box) else a).visible
    start, stop = min(a.start, b.start), max(a.stop, b.stop)
    left, right = a.window(start, stop), b.window(start, stop)
    here, there = ~np.isnan(left[:, 0]), ~np.isnan(right[:, 0])
    both = here & there
    differs = here != there
    differs[both] = (np.abs(left[both] - right[both]) > TOLERANCE).any(1)
    if not boxes_only:
        rows = np.flatnonzero(both & ~differs)
        codes = {value: code for code, value in enumerate(dict.fromkeys((*a.properties, *b.properties)))}
        code_a = np.array([codes[value] for value in a.properties])[a.key[rows + start - a.start]]
        code_b = np.array([codes[value] for value in b.properties])[b.key[rows + start - b.start]]
        differs[rows] = code_a != code_b
    return np.flatnonzero(differs) + start


def compose(sources: Sequence[Span], pick: NDArray[np.intp], start: int) -> list[dict[str, Any]]:
    """Keyframes of a track that takes each frame from one of several spans.

    Args:
        sources: the spans.
        pick: (n,) per frame from ``start`` on which source it comes from; -1 for no box. A source without a box in the
            frame gives none either.
        start: first frame of ``pick``; the last is the end of the job.

    Returns:
        CVAT shapes without ids that show exactly the picked boxes: every keyframe of a source in its own frames, and
        keyframes where the source changes; closed with ``outside`` where boxes end before the last frame.
    """
    n = len(pick)
    boxes = np.full((n, 4), np.nan)
    key = np.zeros(n, np.intp)
    is_key = np.zeros(n, bool)
    for index, span in enumerate(sources):
        rows = np.flatnonzero(pick == index)
        rows = rows[(rows + start >= span.start) & (rows + start < span.stop)]
        local = rows + start - span.start
        boxes[rows], key[rows], is_key[rows] = span.box[local], span.key[local], span.is_key[local]
    run = np.where(np.isnan(boxes[:, 0]), -1, pick)
    border = np.append(True, np.diff(run) != 0)
    visible = run >= 0
    wanted = visible & (is_key | border | np.append(border[1:], True))
    shapes: list[dict[str, Any]] = []
    for row in np.flatnonzero(wanted | (border & ~visible)):
        if visible[row]:
            origin = sources[run[row]].shapes[key[row]]
            shapes.append(
                {
                    "type": "rectangle",
                    "frame": int(row + start),
                    "points": [float(value) for value in boxes[row]] if is_key[row] else boxes[row].round(2).tolist(),
                    "outside": False,
                    "occluded": bool(origin.get("occluded")),
                    "rotation": float(origin.get("rotation") or 0.0),
                    "z_order": int(origin.get("z_order") or 0),
                    "attributes": list(origin["attributes"]),
                }
            )
        elif shapes:
            shapes.append({**shapes[-1], "frame": int(row + start), "outside": True})
    return shapes
