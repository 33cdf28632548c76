"""Question sheets: one 1280 x 720 picture per question, readable at a glance, answered by one number key.

In: a question, the annotation it is about, and a function that gives frames. Out: a BGR picture. The same input gives
the same picture. The upper left 250 x 60 pixels stay empty: CVAT's page lays the tag's chip there. Colours are those of
Okabe and Ito, told apart by every kind of colour vision; numbers say the same as colours, and are the keys to press.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from spam_cvat.annotation import Annotation
from spam_cvat.detections import Detections
from spam_cvat.errors import InputError
from spam_cvat.review.questions import REPLIES, Question

Picture = NDArray[np.uint8]
Colour = tuple[int, int, int]
Box = NDArray[np.floating]

WIDTH, HEIGHT = 1280, 720
CHIP = (250, 60)
"""Width and height of the corner that stays empty."""

MARGIN = 20
GROUND: Colour = (21, 23, 28)
PANEL: Colour = (38, 41, 50)
TEXT: Colour = (245, 245, 245)
QUIET: Colour = (160, 166, 178)
SUBJECT: Colour = (240, 228, 66)
CANDIDATES: tuple[Colour, ...] = (
    (86, 180, 233),
    (213, 94, 0),
    (0, 190, 140),
    (204, 121, 167),
    (230, 159, 0),
    (245, 245, 245),
)

TITLES = {
    "TRACK": "Is this ONE REAL PERSON all the way?",
    "SAME": "Who is A afterwards?",
    "SWITCH": "At which crop does the PERSON CHANGE?",
    "FIX": "Does the box fit the person?",
}
HINTS = {
    "TRACK": "false: no person in the boxes.  mixed: two people, or a person and then none.",
    "SAME": "The first that shows A again; none if A does not come back among them.",
    "SWITCH": "Press the number of the first crop that shows somebody else, or nobody.",
    "FIX": "Drag the box's edges, then answer.",
}


def needed_frames(question: Question, detections: Detections) -> list[int]:
    """Frames that the sheet of a question shows, ascending; for those who decode many sheets' frames in one go."""
    return sorted(_Plan(question, detections).frames)


def render_sheet(question: Question, annotation: Annotation, frame: Callable[[int], Picture]) -> Picture:
    """Draw the sheet of a question.

    Args:
        question: about detections of the annotation.
        annotation: where the boxes are, and the video's size and rate.
        frame: gives a frame's (height, width, 3) BGR pixels by its number from 0; called once per frame, ascending.

    Returns:
        (720, 1280, 3) uint8 BGR.

    Raises:
        InputError: the question is about detections that the annotation does not have.
    """
    plan = _Plan(question, annotation.detections)
    pixels = {number: frame(number) for number in sorted(plan.frames)}
    canvas = _Canvas()
    _header(canvas, question, plan)
    {"TRACK": _strip, "SWITCH": _strip, "SAME": _pick, "FIX": _fix}[question.kind](canvas, question, plan, pixels)
    return canvas.picture()


def fix_view(detections: Detections) -> tuple[float, float, float]:
    """Where a ``FIX`` sheet shows the frame: left, top, and scale; sheet = (left, top) + scale * video pixels."""
    return _fitted(detections, MARGIN, 116, WIDTH - 2 * MARGIN, HEIGHT - 116 - MARGIN)


class _Plan:
    """Rows and frames of what a sheet shows."""

    def __init__(self, question: Question, detections: Detections) -> None:
        self.detections = detections
        known = {int(identity): row for row, identity in enumerate(detections.id)}
        try:
            self.moments = [known[i] for i in question.moments or question.subject[:1]]
            self.candidate_moments = [[known[i] for i in ids] for ids in question.candidate_moments]
            self.subject = [known[i] for i in question.subject]
            self.candidates = [[known[i] for i in ids] for ids in question.candidates]
        except KeyError as error:
            raise InputError(
                f"question {question.id} is about detection {error.args[0]:016x}, which this annotation does not have; "
                "use the annotation it was chosen from"
            ) from None
        number = detections.frame
        if question.kind == "SAME":
            self.before = int(number[self.subject[-1]])
            self.after = self._after()
            self.wide = [self.before, self.after]
        else:
            self.wide = [int(number[self.moments[0]]), int(number[self.moments[-1]])]
        rows = [*self.moments, *(row for rows in self.candidate_moments for row in rows)]
        self.frames = {int(number[row]) for row in rows} | set(self.wide)

    def _after(self) -> int:
        """The frame shown for afterwards: where most candidates can be seen, the earliest of equal ones."""
        number = self.detections.frame
        spans = [(int(number[rows[0]]), int(number[rows[-1]])) for rows in self.candidates]
        return max((start for start, _ in spans), key=lambda f: (sum(a <= f <= b for a, b in spans), -f))

    def time(self, number: int) -> str:
        """Minutes, seconds and tenths of a frame."""
        tenths = round(number / self.detections.video.fps * 10)
        return f"{tenths // 600}:{tenths // 10 % 60:02d}.{tenths % 10}"


class _Canvas:
    """A picture to draw on; text in the font that Pillow carries, so that it looks the same on every machine."""

    def __init__(self) -> None:
        self.image = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
        self.draw = ImageDraw.Draw(self.image)

    def picture(self) -> Picture:
        return np.ascontiguousarray(np.asarray(self.image)[..., ::-1])

    def text(
        self, x: float, y: float, text: str, size: int, colour: Colour = TEXT, anchor: str = "la", bold: bool = False
    ) -> float:
        """Write, and say how wide it is."""
        font = ImageFont.load_default(size)
        self.draw.text((x, y), text, colour, font, anchor, stroke_width=0.6 if bold else 0, stroke_fill=colour)
        return float(self.draw.textlength(text, font))

    def keycap(self, x: float, y: float, key: str, label: str, colour: Colour = TEXT, size: int = 20) -> float:
        """A key and what it means; gives the x where the next may start."""
        side = size + 10
        self.draw.rounded_rectangle((x, y, x + side, y + side), 6, colour)
        self.text(x + side / 2, y + side / 2, key, size, GROUND, "mm", bold=True)
        return x + side + 8 + self.text(x + side + 8, y + side / 2, label, size, TEXT, "lm") + 24

    def badge(self, x: float, y: float, text: str, colour: Colour, size: int = 20) -> None:
        """A filled label whose upper left corner is at (x, y)."""
        width = max(size + 8.0, float(self.draw.textlength(text, ImageFont.load_default(size))) + 12)
        self.draw.rectangle((x, y, x + width, y + size + 6), colour)
        self.text(x + width / 2, y + (size + 6) / 2, text, size, GROUND, "mm", bold=True)

    def paste(self, picture: Picture, x: float, y: float) -> None:
        self.image.paste(Image.fromarray(np.ascontiguousarray(picture[..., ::-1])), (round(x), round(y)))

    def box(self, corners: Box, colour: Colour, width: int = 3, dashed: bool = False) -> None:
        """A rectangle with a dark rim, so that it can be seen on any ground."""
        x1, y1, x2, y2 = (float(v) for v in corners)
        if dashed:
            for a, b in (((x1, y1), (x2, y1)), ((x2, y1), (x2, y2)), ((x2, y2), (x1, y2)), ((x1, y2), (x1, y1))):
                self._dashes(a, b, colour, width)
            return
        self.draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline=GROUND, width=width + 2)
        self.draw.rectangle((x1, y1, x2, y2), outline=colour, width=width)

    def _dashes(self, a: tuple[float, float], b: tuple[float, float], colour: Colour, width: int) -> None:
        start, stop = np.array(a), np.array(b)
        length = max(float(np.linalg.norm(stop - start)), 1e-6)
        for at in np.arange(0, length, 9):
            piece = [tuple(start + (stop - start) * min(t, length) / length) for t in (at, at + 5)]
            self.draw.line(piece, colour, width)


def _header(canvas: _Canvas, question: Question, plan: _Plan) -> None:
    """Title beside the empty corner, keys below it."""
    canvas.text(CHIP[0] + MARGIN, 12, TITLES[question.kind], 28, SUBJECT, bold=True)
    canvas.text(WIDTH - MARGIN, 20, f"{plan.detections.video.name[:24]}   question {question.id[:6]}", 14, QUIET, "ra")
    x = float(MARGIN)
    shown = set(question.choices)
    crops = [value for value in question.choices if value.startswith("crop ")]
    for key, value in enumerate(REPLIES[question.kind], 1):
        if value not in shown or value in crops[1:-1]:
            continue
        colour, label = TEXT, value
        if value.startswith("cand "):
            colour, label = CANDIDATES[key - 1], ""
        if value in crops:
            label = "crop 2" if len(crops) == 1 else ("..." if value == crops[0] else value)
        following = canvas.keycap(x, 70, str(key), label, colour)
        x = following - (18 if value.startswith("cand ") else 0)
    canvas.text(WIDTH - MARGIN, 78, HINTS[question.kind], 15, QUIET, "ra")


def _strip(canvas: _Canvas, question: Question, plan: _Plan, pixels: dict[int, Picture]) -> None:
    """A film strip of the moments, the first and the last full frame, and when the moments are."""
    count = len(plan.moments)
    gap = 8
    width = min((WIDTH - 2 * MARGIN - gap * (count - 1)) / count, 180)
    top, height = 116, 250
    left = MARGIN + (WIDTH - 2 * MARGIN - count * width - gap * (count - 1)) / 2
    for index, row in enumerate(plan.moments):
        x = left + index * (width + gap)
        _tile(canvas, plan, pixels, row, (x, top, width, height), SUBJECT)
        if question.kind == "SWITCH":
            canvas.badge(x, top, str(index + 1), SUBJECT, 24)
    _timeline(canvas, plan, 408)
    labels = [f"first crop   {plan.time(plan.wide[0])}", f"last crop   {plan.time(plan.wide[1])}"]
    for side, (number, row) in enumerate(zip(plan.wide, (plan.moments[0], plan.moments[-1]), strict=True)):
        scale, x, y = _wide(canvas, plan, pixels, number, side, labels[side], 444)
        _trail(canvas, plan, plan.subject, (x, y, scale), SUBJECT)
        canvas.box(_moved(plan.detections.box[row], (x, y, scale)), SUBJECT)


def _pick(canvas: _Canvas, question: Question, plan: _Plan, pixels: dict[int, Picture]) -> None:
    """The subject's crops, each candidate's, and the full frames before and after."""
    groups = [plan.moments, *plan.candidate_moments]
    tiles, between, gap = sum(len(rows) for rows in groups), 22, 4
    room = WIDTH - 2 * MARGIN - between * (len(groups) - 1) - gap * (tiles - len(groups))
    width = min(room / tiles, 132)
    top, height = 146, 236
    spare = (room - width * tiles) / max(len(groups) - 1, 1)
    x = float(MARGIN)
    last = int(plan.detections.frame[plan.subject[-1]])
    for index, rows in enumerate(groups):
        colour = SUBJECT if index == 0 else CANDIDATES[index - 1]
        canvas.badge(x, 114, "A" if index == 0 else str(index), colour, 20)
        first = int(plan.detections.frame[plan.candidates[index - 1][0]]) if index else last
        when = "before" if index == 0 else f"+{(first - last) / plan.detections.video.fps:.1f} s"
        canvas.text(x + 38, 128, when, 16, colour, "lm")
        for row in rows:
            _tile(canvas, plan, pixels, row, (x, top, width, height), colour)
            x += width + gap
        x += between - gap + min(spare, 60)
    labels = [
        f"before   {plan.time(plan.before)}   frame {plan.before}",
        f"after   {plan.time(plan.after)}   frame {plan.after}   (dashed: comes later or is gone)",
    ]
    scale, left, y = _wide(canvas, plan, pixels, plan.before, 0, labels[0], 434)
    _trail(canvas, plan, plan.subject, (left, y, scale), SUBJECT)
    _named(canvas, _moved(plan.detections.box[plan.subject[-1]], (left, y, scale)), "A", SUBJECT, False)
    scale, left, y = _wide(canvas, plan, pixels, plan.after, 1, labels[1], 434)
    for index, rows in enumerate(plan.candidates):
        frames = plan.detections.frame[rows]
        row = rows[int(np.abs(frames - plan.after).argmin())]
        there = bool(frames[0] <= plan.after <= frames[-1])
        _trail(canvas, plan, rows, (left, y, scale), CANDIDATES[index])
        _named(canvas, _moved(plan.detections.box[row], (left, y, scale)), str(index + 1), CANDIDATES[index], not there)


def _fix(canvas: _Canvas, question: Question, plan: _Plan, pixels: dict[int, Picture]) -> None:
    """The frame as large as it goes, the rest of it darkened; the page draws the box on top."""
    left, top, scale = fix_view(plan.detections)
    video = plan.detections.video
    picture = cv2.resize(
        pixels[plan.wide[0]],
        (round(video.width * scale), round(video.height * scale)),
        interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC,
    )
    canvas.paste(picture.astype(np.uint8), left, top)
    canvas.box(_moved(plan.detections.box[plan.moments[0]], (left, top, scale)), SUBJECT, 2, dashed=True)


def _named(canvas: _Canvas, corners: Box, name: str, colour: Colour, dashed: bool) -> None:
    canvas.box(corners, colour, 3, dashed)
    canvas.badge(float(corners[0]) - 1, max(float(corners[1]) - 22, 0), name, colour, 15)


@dataclass(frozen=True)
class _Crop:
    """A crop as pixels and where its box lies in it."""

    picture: Picture
    box: tuple[float, float, float, float]


def _cut_out(image: Picture, box: Box, width: int, height: int) -> _Crop:
    """The box with its surroundings, scaled to fill a tile; dark where the frame ends."""
    x1, y1, x2, y2 = (float(v) for v in box)
    scale = 0.8 * min(width / (x2 - x1), height / (y2 - y1))
    left, top = (x1 + x2) / 2 - width / scale / 2, (y1 + y2) / 2 - height / scale / 2
    a, b = round(left), round(top)
    c, d = max(a + 1, round(left + width / scale)), max(b + 1, round(top + height / scale))
    rows, columns = image.shape[:2]
    cut = image[max(b, 0) : max(min(d, rows), 0), max(a, 0) : max(min(c, columns), 0)]
    border = (max(-b, 0), max(d - max(rows, b), 0), max(-a, 0), max(c - max(columns, a), 0))
    if not cut.size:
        cut, border = np.full((1, 1, 3), PANEL[0], np.uint8), (0, 0, 0, 0)
    bordered = cv2.copyMakeBorder(cut, *border, cv2.BORDER_CONSTANT, value=PANEL[::-1])
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    zoom_x, zoom_y = width / (c - a), height / (d - b)
    inside = ((x1 - a) * zoom_x, (y1 - b) * zoom_y, (x2 - a) * zoom_x, (y2 - b) * zoom_y)
    return _Crop(cv2.resize(bordered, (width, height), interpolation=way).astype(np.uint8), inside)


def _tile(
    canvas: _Canvas,
    plan: _Plan,
    pixels: dict[int, Picture],
    row: int,
    place: tuple[float, float, float, float],
    colour: Colour,
) -> None:
    """One crop with its box, and below it when it was."""
    x, y, width, height = place
    number = int(plan.detections.frame[row])
    crop = _cut_out(pixels[number], plan.detections.box[row], int(width), int(height))
    canvas.paste(crop.picture, x, y)
    x1, y1, x2, y2 = crop.box
    x, y = round(x), round(y)
    canvas.draw.rectangle((x + x1, y + y1, x + x2, y + y2), outline=colour, width=2)
    canvas.text(x + int(width) / 2, y + height + 5, plan.time(number), 14, QUIET, "ma")


def _wide(
    canvas: _Canvas, plan: _Plan, pixels: dict[int, Picture], number: int, side: int, label: str, top: int
) -> tuple[float, float, float]:
    """A full frame on one side of the lower half; gives scale, left and top of its pixels."""
    half = (WIDTH - 3 * MARGIN) / 2
    room = HEIGHT - top - 8
    x, y, scale = _fitted(plan.detections, MARGIN + side * (half + MARGIN), top, half, room)
    video = plan.detections.video
    size = (round(video.width * scale), round(video.height * scale))
    way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    canvas.paste(cv2.resize(pixels[number], size, interpolation=way).astype(np.uint8), x, y)
    canvas.text(x + size[0] / 2, y - 6, label, 15, QUIET, "mb")
    return scale, x, y


def _fitted(detections: Detections, x: float, y: float, width: float, height: float) -> tuple[float, float, float]:
    """Left, top and scale of a frame centred in a space, its aspect kept."""
    video = detections.video
    scale = min(width / video.width, height / video.height)
    return round(x + (width - video.width * scale) / 2), round(y + (height - video.height * scale) / 2), scale


def _moved(box: Box, view: tuple[float, float, float]) -> Box:
    """A box of the video in a view (left, top, scale) of it."""
    return box.astype(np.float64) * view[2] + np.array([view[0], view[1], view[0], view[1]])


def _trail(canvas: _Canvas, plan: _Plan, rows: Sequence[int], view: tuple[float, float, float], colour: Colour) -> None:
    """Where the feet went."""
    boxes = plan.detections.box[list(rows)].astype(np.float64)
    feet = np.stack([(boxes[:, 0] + boxes[:, 2]) / 2, boxes[:, 3]], 1) * view[2] + np.array(view[:2])
    if len(feet) > 1:
        canvas.draw.line([tuple(point) for point in feet], GROUND, 4, "curve")
        canvas.draw.line([tuple(point) for point in feet], colour, 2, "curve")


def _timeline(canvas: _Canvas, plan: _Plan, y: float) -> None:
    """Where in the video the track lies, a tick per moment."""
    video = plan.detections.video
    left, right = MARGIN + 60, WIDTH - MARGIN - 60
    per_frame = (right - left) / max(video.num_frames - 1, 1)
    frames = plan.detections.frame
    canvas.draw.rounded_rectangle((left, y - 3, right, y + 3), 3, PANEL)
    first, last = left + frames[plan.subject[0]] * per_frame, left + frames[plan.subject[-1]] * per_frame
    canvas.draw.rounded_rectangle((first, y - 3, max(last, first + 2), y + 3), 3, SUBJECT)
    for row in plan.moments:
        x = left + frames[row] * per_frame
        canvas.draw.line([(x, y - 7), (x, y + 7)], SUBJECT, 2)
    canvas.text(left - 8, y, "0:00", 14, QUIET, "rm")
    canvas.text(right + 8, y, plan.time(video.num_frames - 1), 14, QUIET, "lm")
