"""The report: one HTML page that shows what a run did, and opens anywhere without a network.

In: scores, pictures, questions, the quality-against-clicks curve. Out: ``report.html`` with everything inline. Nothing
here runs the engine: who has results fills in a :class:`Report`, leaves out what there is none of, and writes it.
"""

import base64
import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from spam_cvat import charts
from spam_cvat.charts import Reliability
from spam_cvat.evaluation.matching import Coverage, cover
from spam_cvat.tracks import Tracks

Image = NDArray[np.uint8]
Colour = tuple[int, int, int]  # BGR

UNKNOWN: Colour = (235, 235, 235)
TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Picture:
    """An image of the page: (h, w, 3) uint8 BGR, what it shows in words, and a caption."""

    image: Image
    alt: str
    caption: str = ""

    @property
    def uri(self) -> str:
        """The image as a data URI."""
        return data_uri(self.image)


@dataclass(frozen=True)
class Figure:
    """One headline number: what it is, the value, what it was before, and a remark."""

    name: str
    value: str
    before: str = ""
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One row of the score table, in the unit to be shown."""

    name: str
    meaning: str
    before: str
    after: str
    better: bool | None = None


@dataclass(frozen=True)
class QuestionKind:
    """How one kind of question went: its name, what it asks, how many, clicks, and replies by value."""

    kind: str
    asks: str
    count: int
    clicks: float
    replies: Mapping[str, int]


@dataclass(frozen=True)
class Report:
    """Everything the page shows; what is empty is left out.

    Attributes:
        title: of the page.
        lead: one paragraph: what was done, to what.
        figures: headline numbers.
        pairs: frames before and after review.
        video: a video file beside the page, before and after side by side; its name.
        clicks: x of the curve, clicks spent.
        curve: y of the curve by score's name, 0..1.
        full_clicks: what full manual work costs, for the curve's caption.
        truth: ground truth, for who is who over time.
        before: tracks before review.
        after: tracks after review.
        backdrop: a frame to lay the paths over.
        rows: the score table.
        kinds: questions by kind.
        sheets: question sheets, captioned with the reply given.
        calibration: reliability of probabilities.
        seconds: stage by stage.
        files: what lies beside the page: name, what it is.
        facts: how it was made: name, value.
        caveats: what these figures do not say.
    """

    title: str
    lead: str
    figures: Sequence[Figure] = ()
    pairs: Sequence[tuple[Picture, Picture]] = ()
    video: str = ""
    clicks: Sequence[float] = ()
    curve: Mapping[str, Sequence[float]] = field(default_factory=dict)
    full_clicks: float = 0.0
    truth: Tracks | None = None
    before: Tracks | None = None
    after: Tracks | None = None
    backdrop: Image | None = None
    rows: Sequence[Row] = ()
    kinds: Sequence[QuestionKind] = ()
    sheets: Sequence[Picture] = ()
    calibration: Sequence[Reliability] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    caveats: Sequence[str] = ()


def write_report(path: str | Path, report: Report) -> Path:
    """Write the page; what it needs is inside it, apart from the video, which lies beside it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template("report.html").render(report=report, **_charts(report))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _charts(report: Report) -> dict[str, object]:
    """The page's charts as safe markup; an empty string where there is nothing to draw."""
    out: dict[str, object] = {"curve": "", "timelines": [], "paths": "", "calibration": []}
    if len(report.clicks) > 1:
        line = charts.curve(report.clicks, report.curve, "clicks spent", "score, %", "Quality against clicks")
        out["curve"] = Markup(line)
    if report.truth is not None:
        named = [("Before review", report.before), ("After review", report.after)]
        out["timelines"] = [
            (name, Markup(charts.timeline(report.truth, cover(report.truth, tracks), f"{name}: who is who over time")))
            for name, tracks in named
            if tracks is not None
        ]
    if report.after is not None and len(report.after):
        # White would vanish on paper.
        palette = identity_colours(report.after, report.truth).items()
        colours = {track: _css(colour) if colour != UNKNOWN else "#8b9299" for track, colour in palette}
        backdrop = data_uri(report.backdrop) if report.backdrop is not None else ""
        out["paths"] = Markup(charts.paths(report.after, colours, "Paths after review", backdrop))
    out["calibration"] = [(data, Markup(charts.reliability(data))) for data in report.calibration]
    return out


# --- pictures ----------------------------------------------------------------------------------------------------


def data_uri(image: Image, quality: int = 86) -> str:
    """A (h, w, 3) BGR image as a JPEG data URI."""
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"an image of shape {image.shape} cannot be encoded")
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def colour_of(number: int) -> Colour:
    """A bright BGR colour for the number-th identity; neighbours differ most (golden-ratio hues)."""
    hue = (0.08 + 0.61803398875 * number) % 1.0
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.35 * ((number // 3) % 2), 0.95)
    return round(255 * blue), round(255 * green), round(255 * red)


def identity_colours(tracks: Tracks, truth: Tracks | None = None) -> dict[int, Colour]:
    """A colour for each track. With ground truth, a track that stands for a person has that person's colour, the same
    before and after review, and every other track (a fragment, a mixture, nobody) is white.
    """
    if truth is None:
        return {int(track): colour_of(int(track)) for track in tracks.ids}
    owner = cover(truth, tracks).owner
    return {int(t): colour_of(owner[int(t)]) if int(t) in owner else UNKNOWN for t in tracks.ids}


def _css(colour: Colour) -> str:
    return "#{2:02x}{1:02x}{0:02x}".format(*colour)


def draw_tracks(
    image: Image, tracks: Tracks, frame: int, colours: Mapping[int, Colour] | None = None, trail: int = 25
) -> Image:
    """A copy of the frame with each track's box, number, and path of the feet over the last ``trail`` frames."""
    colours = colours if colours is not None else identity_colours(tracks)
    out = image.copy()
    recent = tracks.select((tracks.frame <= frame) & (tracks.frame > frame - trail))
    for identity in recent.ids.tolist():
        rows = recent.rows(identity)
        box, colour = recent.box[rows], colours.get(identity, UNKNOWN)
        feet = np.stack([(box[:, 0] + box[:, 2]) / 2, box[:, 3]], 1)
        cv2.polylines(out, [np.rint(feet * 8).astype(np.int32)], False, colour, 1, cv2.LINE_AA, 3)
    for row in np.flatnonzero(recent.frame == frame):
        _draw_box(out, recent.box[row], int(recent.track[row]), colours.get(int(recent.track[row]), UNKNOWN))
    return out


def _draw_box(image: Image, box: NDArray[np.floating], number: int, colour: Colour) -> None:
    x1, y1, x2, y2 = np.rint(box).astype(int).tolist()
    cv2.rectangle(image, (x1, y1), (x2, y2), (0, 0, 0), 3, cv2.LINE_AA)
    cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
    text, scale = str(number), 0.45
    (wide, high), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    left, top = max(x1 - 1, 0), max(y1 - high - 7, 0)
    cv2.rectangle(image, (left, top), (left + wide + 7, top + high + 7), colour, -1)
    at = (left + 4, top + high + 3)
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, scale, (15, 15, 15), 1, cv2.LINE_AA)


def telling_frames(truth: Tracks, before: Coverage, after: Coverage, count: int = 3, apart: int = 20) -> list[int]:
    """Frames in which review put most boxes under their right identity, at least ``apart`` frames from each other."""
    gain = after.right(truth.track).astype(int) - before.right(truth.track)
    total = np.bincount(truth.frame, weights=gain, minlength=truth.video.num_frames)
    chosen: list[int] = []
    for frame in np.argsort(-total, kind="stable").tolist():
        if all(abs(frame - other) >= apart for other in chosen):
            chosen.append(frame)
        if len(chosen) == count:
            break
    return sorted(chosen)
