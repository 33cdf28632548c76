"""Charts as inline SVG: no library, no network, readable in light and dark and in print.

In: numbers. Out: SVG text whose colours are CSS classes of the page that holds it (``s0`` .. ``s3`` for series, ``ok``,
``other``, ``missed``, ``axis``, ``grid``), with a title and a description for those who cannot see it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from numpy.typing import NDArray

from spam_cvat.evaluation.matching import Coverage
from spam_cvat.tracks import Tracks


def element(name: str, content: str | None = None, **attributes: object) -> str:
    """One SVG element; underscores in attribute names stand for hyphens, ``cls`` for ``class``.

    >>> element("circle", cls="s0", r=2.0)
    '<circle class="s0" r="2"/>'
    """
    parts = []
    for key, value in attributes.items():
        key = "class" if key == "cls" else key.replace("_", "-")
        text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
        parts.append(f" {key}={quoteattr(text)}")
    head = f"<{name}{''.join(parts)}"
    return f"{head}/>" if content is None else f"{head}>{content}</{name}>"


def _text(x: float, y: float, text: str, **attributes: object) -> str:
    return element("text", escape(text), x=float(x), y=float(y), **attributes)


def _svg(width: int, height: int, title: str, description: str, parts: Sequence[str]) -> str:
    named = element("title", escape(title)) + element("desc", escape(description))
    return element("svg", named + "".join(parts), viewBox=f"0 0 {width} {height}", role="img", aria_label=title)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from low to high, about ``count`` of them.

    >>> ticks(0, 3.3)
    [0.0, 1.0, 2.0, 3.0]
    """
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10 ** np.floor(np.log10(raw))
    step = power * min((m for m in (1, 2, 5, 10) if m * power >= raw * 0.999), default=10)
    first = np.ceil(low / step - 1e-9) * step
    return [round(float(v), 10) + 0.0 for v in np.arange(first, high + 1e-9 * step, step)]


def curve(x: Sequence[float], series: Mapping[str, Sequence[float]], x_label: str, y_label: str, title: str) -> str:
    """Lines over common x; y is in 0..1 and shown in percent. Lines are named at their right end."""
    width, height, left, right, top, low = 720, 360, 58, 92, 16, 48
    values = [v for line in series.values() for v in line]
    y_low = max(0.0, np.floor(20 * (min(values) - 0.02)) / 20)
    y_high = min(1.0, np.ceil(20 * (max(values) + 0.02)) / 20)
    x_high = max(x) or 1.0

    def place(px: float, py: float) -> tuple[float, float]:
        return (
            left + (width - left - right) * px / x_high,
            height - low - (height - low - top) * (py - y_low) / max(y_high - y_low, 1e-9),
        )

    parts = []
    for tick in ticks(y_low, y_high):
        _, y = place(0, tick)
        parts.append(element("line", cls="grid", x1=left, x2=width - right, y1=y, y2=y))
        parts.append(_text(left - 8, y + 4, f"{100 * tick:.0f}", cls="axis", text_anchor="end"))
    for tick in ticks(0, x_high):
        at, y = place(tick, y_low)
        parts.append(element("line", cls="grid", x1=at, x2=at, y1=y, y2=y + 5))
        parts.append(_text(at, y + 20, f"{tick:g}", cls="axis", text_anchor="middle"))
    parts.append(_text((left + width - right) / 2, height - 8, x_label, cls="axis", text_anchor="middle"))
    middle = (top + height - low) / 2
    turned = f"rotate(-90 14 {middle:.0f})"
    parts.append(_text(14, middle, y_label, cls="axis", text_anchor="middle", transform=turned))
    ends = _spread([place(x[-1], line[-1])[1] for line in series.values()], 17)
    for index, ((name, line), end) in enumerate(zip(series.items(), ends, strict=True)):
        points = [place(px, py) for px, py in zip(x, line, strict=True)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py in points)
        parts.append(element("polyline", cls=f"line s{index}", points=path))
        for (px, py), at, value in zip(points, x, line, strict=True):
            note = element("title", escape(f"{name} {100 * value:.1f} at {at:g}"))
            parts.append(element("circle", note, cls=f"dot s{index}", cx=px, cy=py, r=3.6))
        parts.append(_text(width - right + 9, end + 5, f"{name} {100 * line[-1]:.1f}", cls=f"name s{index}"))
    told = "; ".join(f"{name} from {100 * line[0]:.1f} to {100 * line[-1]:.1f}" for name, line in series.items())
    return _svg(width, height, title, told, parts)


def _spread(positions: Sequence[float], gap: float) -> list[float]:
    """The positions moved apart to at least ``gap``, in their order, around where they were."""
    out = np.array(positions, float)
    order = np.argsort(out, kind="stable")
    for _ in range(50):
        for a, b in pairwise(order):
            lack = gap - (out[b] - out[a])
            if lack > 1e-6:
                out[a] -= lack / 2
                out[b] += lack / 2
    return [float(v) for v in out]


def _runs(values: NDArray[np.integer], frame: NDArray[np.integer]) -> Iterator[tuple[int, int, int]]:
    """Runs of equal values at successive frames: first frame, frame after the last, value."""
    change = np.flatnonzero((np.diff(values) != 0) | (np.diff(frame) != 1)) + 1
    bounds = [0, *change.tolist(), len(values)]
    for start, stop in pairwise(bounds):
        yield int(frame[start]), int(frame[stop - 1]) + 1, int(values[start])


def timeline(truth: Tracks, coverage: Coverage, title: str) -> str:
    """One bar a true person: who the labels say it is over time, whether that is right, and where it is missed."""
    people = [int(person) for person in truth.ids]
    people.sort(key=lambda person: (int(truth.frame[truth.rows(person)][0]), person))
    width, left, right_margin, bar, step, top = 720, 34, 18, 13, 19, 6
    height = top + step * len(people) + 30
    scale = (width - left - right_margin) / max(truth.video.num_frames, 1)
    parts = []
    right = coverage.right(truth.track)
    for index, person in enumerate(people):
        rows = truth.rows(person)
        y = top + step * index
        parts.append(_text(left - 8, y + bar - 2, str(index + 1), cls="axis", text_anchor="end"))
        for start, stop, track in _runs(coverage.track[rows], truth.frame[rows]):
            good = bool(right[rows][np.searchsorted(truth.frame[rows], start)])
            kind = "missed" if not track else "ok" if good else "other"
            said = "missed" if not track else f"track {track}" + ("" if good else ", not this person's")
            note = element("title", escape(f"person {index + 1}, frames {start}-{stop - 1}: {said}"))
            x, wide = left + start * scale, max((stop - start) * scale, 1.0)
            parts.append(element("rect", note, cls=kind, x=x, y=y, width=wide, height=bar))
            # Colour alone must not carry the meaning: another identity also stands lower and has its number.
            if kind == "other" and wide > 22:
                parts.append(_text(x + wide / 2, y + bar - 3, str(track), cls="on", text_anchor="middle"))
    for tick in ticks(0, truth.video.num_frames):
        x = left + tick * scale
        parts.append(_text(x, height - 8, f"{tick:g}" if tick else "frame 0", cls="axis", text_anchor="middle"))
    total = max(len(truth), 1)
    missed = int((coverage.track == 0).sum())
    told = (
        f"{len(people)} people, {len(truth)} boxes: {100 * right.sum() / total:.0f} % under the right identity, "
        f"{100 * (total - missed - right.sum()) / total:.0f} % under another, {100 * missed / total:.0f} % missed."
    )
    return _svg(width, height, title, told, parts)


def paths(tracks: Tracks, colours: Mapping[int, str], title: str, picture: str = "") -> str:
    """Where everybody's feet went, over a faint picture (a data URI); a dot where a track ends."""
    video = tracks.video
    parts = []
    if picture:
        parts.append(element("image", href=picture, width=video.width, height=video.height, opacity=0.45))
    for identity in tracks.ids.tolist():
        rows = tracks.rows(identity)
        box = tracks.box[rows]
        feet = np.stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]], 1)
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in feet)
        colour = colours.get(identity, "#888888")
        note = element("title", f"track {identity}, frames {tracks.frame[rows][0]}-{tracks.frame[rows][-1]}")
        parts.append(element("polyline", note, cls="path", points=points, stroke=colour))
        parts.append(element("circle", cx=float(feet[-1, 0]), cy=float(feet[-1, 1]), r=4.5, fill=colour))
    return _svg(video.width, video.height, title, f"Paths of {len(tracks.ids)} tracks.", parts)


@dataclass(frozen=True)
class Reliability:
    """Stated against observed frequency.

    Attributes:
        name: of what was stated.
        stated: (B,) mean probability of each bin that holds anything.
        observed: (B,) how often it was true.
        count: (B,) how many.
        error: expected calibration error.
    """

    name: str
    stated: NDArray[np.float64]
    observed: NDArray[np.float64]
    count: NDArray[np.int64]
    error: float

    @classmethod
    def of(
        cls, name: str, probability: NDArray[np.floating], truth: NDArray[np.bool_], bins: int = 10
    ) -> "Reliability":
        """Bins of equal width (Guo et al., ICML 2017)."""
        index = np.minimum((np.asarray(probability, np.float64) * bins).astype(np.int64), bins - 1)
        count = np.bincount(index, minlength=bins)
        used = count > 0
        stated = np.bincount(index, weights=probability, minlength=bins)[used] / count[used]
        observed = np.bincount(index, weights=truth.astype(np.float64), minlength=bins)[used] / count[used]
        error = float((np.abs(stated - observed) * count[used]).sum() / max(count.sum(), 1))
        return cls(name, stated, observed, count[used], error)


def reliability(data: Reliability) -> str:
    """The diagram: points on the diagonal mean what they say; their area is how many there are."""
    size, left, low, top = 300, 46, 44, 10
    inner = size - left - 12

    def place(x: float, y: float) -> tuple[float, float]:
        return left + inner * x, top + (size - low - top) * (1 - y)

    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(tick, tick)
        parts.append(element("line", cls="grid", x1=left, x2=left + inner, y1=y, y2=y))
        parts.append(_text(left - 7, y + 4, f"{100 * tick:.0f}", cls="axis", text_anchor="end"))
        parts.append(_text(x, size - low + 18, f"{100 * tick:.0f}", cls="axis", text_anchor="middle"))
    (x1, y1), (x2, y2) = place(0, 0), place(1, 1)
    parts.append(element("line", cls="diagonal", x1=x1, y1=y1, x2=x2, y2=y2))
    most = max(int(data.count.max(initial=1)), 1)
    for stated, observed, count in zip(data.stated, data.observed, data.count, strict=True):
        x, y = place(float(stated), float(observed))
        note = element("title", f"{count} stated at {100 * stated:.0f} %, true in {100 * observed:.0f} %")
        radius = 3 + 9 * float(np.sqrt(count / most))
        parts.append(element("circle", note, cls="dot s0", cx=x, cy=y, r=radius, fill_opacity=0.75))
    parts.append(_text(left + inner / 2, size - 6, "stated, %", cls="axis", text_anchor="middle"))
    middle = (top + size - low) / 2
    turned = f"rotate(-90 13 {middle:.0f})"
    parts.append(_text(13, middle, "true, %", cls="axis", text_anchor="middle", transform=turned))
    told = f"Expected calibration error {100 * data.error:.1f} points over {int(data.count.sum())} probabilities."
    return _svg(size, size, f"Calibration: {data.name}", told, parts)
