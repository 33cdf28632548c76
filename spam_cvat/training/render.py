"""Pictures for a generated scene: articulated figures before a street, with exact ground truth.

In: a seed (or a :class:`~spam_cvat.training.synthetic.Scene`). Out: frames, or a video file with the true boxes,
identities and visibility of everybody drawn. The figures are plain, but they have heads, shoulders and walking legs
in clothes that differ from the ground, so that a people detector that has never seen them finds most of them, misses
some and is fooled by a lamp post now and then: enough to show and test the whole loop without real pixels.

Boxes are those of the drawn figure, hidden parts included; visibility is the share of its pixels that can be seen.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks
from spam_cvat.training.synthetic import (
    CameraConfig,
    MotionConfig,
    Scene,
    SceneConfig,
    WorldConfig,
    generate_scene,
)

Image = NDArray[np.uint8]
Floats = NDArray[np.floating]
Colour = tuple[float, float, float]  # BGR, 0..255

CLIP = SceneConfig(
    name="clip",
    num_frames=200,
    width=800,
    height=448,
    fps=15,
    people=7,
    world=WorldConfig(
        min_inside=0.3,
        near=5.2,
        far=8.2,
        depth_power=1.0,
        camera_height=2.6,
        horizon=0.26,
        focal=0.72,
        stature_spread=0.04,
        occluders=0,
    ),
    motion=MotionConfig(
        speed=1.0,
        turn=0.15,
        flow=1.0,
        axis=0.0,
        standing=0.1,
        stop_rate=0.06,
        stop_time=2.0,
        groups=0.35,
        stay=40.0,
        agility=0.0,
        posture_height=0.0,
    ),
)
"""The scene of the demonstration: a dozen people at a time, 100 to 200 pixels tall."""

_SUPERSAMPLE = 2
_SHIFT = 4  # fractional bits of OpenCV's drawing coordinates


@dataclass(frozen=True)
class Clip:
    """A rendered video and the truth about it.

    Attributes:
        path: the video file.
        video: its size, rate and length.
        ground_truth: everybody's box in every frame in which any of the figure lies inside the image.
        visibility: (M,) float32, visible share of the figure's pixels; rows as in ``ground_truth``.
        warps: (num_frames, 2, 3) exact camera motion, frame k-1 to frame k.
    """

    path: Path
    video: VideoInfo
    ground_truth: Tracks
    visibility: NDArray[np.float32]
    warps: Floats


@dataclass(frozen=True)
class Frame:
    """One rendered frame: the image, and for each figure in it the identity, box (n, 4) and visible share (n,)."""

    image: Image
    track: NDArray[np.int32]
    box: NDArray[np.float32]
    visibility: NDArray[np.float32]


def render_clip(
    path: str | Path,
    seed: int = 0,
    config: SceneConfig = CLIP,
    *,
    pan: float = 0.0,
    progress: Callable[[int, int], None] | None = None,
) -> Clip:
    """Draw a scene into a video file (H.264); the same seed and configuration give the same pictures.

    Args:
        path: the file to write; its suffix names the container (``.mp4``, ``.mkv``, ``.avi``).
        seed: of the scene and its looks.
        config: the scene; static occluders are not drawn, so it should have none.
        pan: let the camera slide by this share of the image's width a second.
        progress: called after every frame with the frames done and the frames to do.

    Raises:
        InputError: the image's width or height is odd, which the video format cannot hold.
    """
    if pan:
        config = replace(config, camera=replace(config.camera or CameraConfig(), pan=pan))
    scene = generate_scene(seed, config)
    path = Path(path)
    info = replace(scene.detections.video, name=path.stem)
    columns: list[tuple[NDArray[np.int64], Frame]] = []

    def images() -> Iterator[Image]:
        for number, frame in enumerate(render_frames(scene)):
            columns.append((np.full(len(frame.track), number), frame))
            yield frame.image
            if progress:
                progress(number + 1, config.num_frames)

    write_video(path, images(), config.fps)
    moment = np.concatenate([number for number, _ in columns])
    track, box, visible = (
        np.concatenate([getattr(frame, name) for _, frame in columns]) for name in ("track", "box", "visibility")
    )
    order = np.lexsort((moment, track))
    truth = Tracks.create(info, moment, track, box)
    return Clip(path, info, truth, visible[order], scene.exact_warps)


def write_video(path: str | Path, images: Iterable[Image], fps: float) -> None:
    """Write (h, w, 3) uint8 BGR images as H.264 that browsers and CVAT play.

    Raises:
        InputError: the images' width or height is odd, which the format cannot hold.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        # Equal pictures give equal bytes: not so with several threads, nor with x264's macroblock tree, whose AVX-512
        # code gives other quantisers from one run to the next.
        stream.options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        stream.pix_fmt = "yuv420p"
        for number, image in enumerate(images):
            height, width = image.shape[:2]
            if height % 2 or width % 2:
                raise InputError(f"{path}: a video file needs an even width and height, not {width}x{height}")
            if not number:
                stream.width, stream.height = width, height
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="bgr24")))
        container.mux(stream.encode())


def render_frames(scene: Scene) -> Iterator[Frame]:
    """The scene's frames in order. Looks come from the scene's seed."""
    config = scene.config
    rng = np.random.default_rng([scene.seed, 1])
    backdrop = _Backdrop.create(rng, config, scene.exact_warps)
    poses = _poses(scene)
    looks = {int(track): _Look.create(rng) for track in scene.ground_truth.ids}
    grain = rng.normal(0, 2.5, (4, config.height, config.width, 1)).astype(np.float32)
    order = np.lexsort((-scene.depth, scene.ground_truth.frame))
    start = np.searchsorted(scene.ground_truth.frame[order], np.arange(config.num_frames + 1))
    for number in range(config.num_frames):
        rows = order[start[number] : start[number + 1]]
        canvas = backdrop.view(number)
        figures = [
            _figure(scene.ground_truth.box[row], poses, int(row), looks[int(scene.ground_truth.track[row])])
            for row in rows
        ]
        box, visible = _composed(canvas, figures)
        seen = visible >= 0
        image = np.clip(canvas + grain[number % len(grain)], 0, 255).astype(np.uint8)
        yield Frame(
            image, scene.ground_truth.track[rows][seen], box[seen].astype(np.float32), visible[seen].astype(np.float32)
        )


# --- poses -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Poses:
    """Rows as in the scene's ground truth. phase: of the stride; swing: 0 standing .. 1 walking; side: -1..1."""

    phase: Floats
    swing: Floats
    side: Floats  # how far the figure is turned to the left (-1) or right (1); 0 faces the camera or away from it
    away: NDArray[np.bool_]


def _poses(scene: Scene) -> _Poses:
    """Where everybody is turned and in his stride, from how the boxes move over the background."""
    gt, fps = scene.ground_truth, scene.config.fps
    high = (gt.box[:, 3] - gt.box[:, 1]).astype(np.float64)
    foot = np.stack([(gt.box[:, 0] + gt.box[:, 2]) / 2, gt.box[:, 3], np.ones(len(gt))], 1).astype(np.float64)
    phase, swing, side = np.zeros(len(gt)), np.zeros(len(gt)), np.zeros(len(gt))
    away = np.zeros(len(gt), bool)
    for first, last in zip(gt.track_start[:-1], gt.track_start[1:], strict=True):
        rows = slice(int(first), int(last))
        before = np.einsum("nij,nj->ni", scene.exact_warps[gt.frame[rows]][1:], foot[rows][:-1])
        step = np.zeros((last - first, 2))
        step[1:] = foot[rows][1:, :2] - before
        step[:1] = step[1:2] if last - first > 1 else 0
        width = max(1, round(0.4 * fps))
        smooth = np.stack([_averaged(column, width) for column in (step / high[rows, None] * fps).T], 1)
        # A level camera sees motion along the view as a slow shift of the feet: weigh it up.
        speed = np.hypot(smooth[:, 0], 2.5 * smooth[:, 1])
        swing[rows] = np.clip(speed / 0.45, 0, 1)
        phase[rows] = np.cumsum(speed / fps) * 2 * np.pi / 0.75 + 0.7 * gt.track[first]
        side[rows] = np.where(speed > 0.05, np.clip(1.6 * smooth[:, 0] / np.maximum(speed, 0.05), -1, 1), 0)
        away[rows] = smooth[:, 1] < -0.01
    return _Poses(phase, swing, side, away)


def _averaged(values: Floats, width: int) -> Floats:
    """Moving average over ``width`` values, edges repeated."""
    padded = np.pad(values, (width // 2, width - 1 - width // 2), mode="edge")
    return np.convolve(padded, np.ones(width) / width, "valid")


# --- looks -------------------------------------------------------------------------------------------------------

_SHIRTS = [(40, 40, 190), (170, 70, 30), (60, 140, 50), (30, 180, 220), (220, 220, 225), (40, 40, 45), (150, 60, 140)]
_SHIRTS += [(60, 110, 230), (190, 160, 60), (110, 90, 80), (90, 160, 160), (20, 20, 110)]
_TROUSERS = [(90, 50, 30), (45, 40, 40), (60, 75, 95), (110, 110, 115), (30, 30, 32), (120, 140, 160), (70, 60, 40)]
_SKINS = [(150, 185, 230), (120, 160, 210), (85, 125, 180), (60, 90, 140), (45, 65, 100)]
_HAIRS = [(25, 30, 35), (30, 50, 85), (60, 110, 150), (110, 110, 115), (20, 20, 22), (40, 70, 140)]


@dataclass(frozen=True)
class _Look:
    """A person's clothes and build."""

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    shoes: Colour
    sleeves: bool
    stripes: float  # stripes on the shirt's height; 0 for none
    coat: bool
    skirt: bool
    bag: Colour | None
    long_hair: bool
    build: float
    folds: Floats  # (24, 12) brightness of the cloth

    @classmethod
    def create(cls, rng: np.random.Generator) -> "_Look":
        def pick(colours: list[tuple[int, int, int]], spread: float = 18) -> Colour:
            colour = np.array(colours[int(rng.integers(len(colours)))]) + rng.normal(0, spread, 3)
            blue, green, red = np.clip(colour, 8, 247)
            return float(blue), float(green), float(red)

        folds: Floats = cv2.GaussianBlur(rng.normal(1, 0.15, (24, 12)), (0, 0), 0.9).astype(np.float32)
        return cls(
            shirt=pick(_SHIRTS),
            trousers=pick(_TROUSERS, 12),
            skin=pick(_SKINS, 8),
            hair=pick(_HAIRS, 8),
            shoes=pick([(30, 30, 30), (60, 60, 160), (200, 200, 205), (40, 60, 90)]),
            sleeves=bool(rng.random() < 0.65),
            stripes=float(rng.choice([0, 0, 0, 0, 5])),
            coat=bool(rng.random() < 0.2),
            skirt=bool(rng.random() < 0.15),
            bag=pick(_SHIRTS) if rng.random() < 0.3 else None,
            long_hair=bool(rng.random() < 0.35),
            build=float(rng.normal(1, 0.09)),
            folds=folds,
        )


# --- one figure --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Drawn:
    """A figure before it is put into the picture."""

    left: int  # of the patch, in pixels of the image
    top: int
    colour: Floats  # (h, w, 3), multiplied by alpha
    alpha: Floats  # (h, w)
    box: Floats  # (4,) of the figure in the image


class _Sketch:
    """Shapes in body coordinates (x to the right, y down, the body 1 high) on an enlarged patch."""

    def __init__(self, width: int, height: int, place: Callable[[Floats], Floats]) -> None:
        self.colour = np.zeros((height, width, 3), np.uint8)
        self.mask = np.zeros((height, width), np.uint8)
        self.place = place

    def pixels(self, points: Floats) -> NDArray[np.int32]:
        """Body points (n, 2) in OpenCV's fixed-point pixels of the patch."""
        return np.rint(self.place(np.asarray(points, np.float64)) * (1 << _SHIFT)).astype(np.int32)

    def polygon(self, points: Floats, colour: Colour) -> None:
        """Fill a polygon of body points (n, 2)."""
        pixels = [self.pixels(points)]
        cv2.fillPoly(self.mask, pixels, 255, cv2.LINE_8, _SHIFT)
        cv2.fillPoly(self.colour, pixels, colour, cv2.LINE_8, _SHIFT)

    def limb(self, joints: Floats, radii: Floats, colour: Colour) -> None:
        """A tapered tube along joints (n, 2), lit from the upper left."""
        for scale, shade, shift in ((1.0, 0.72, 0.0), (0.66, 1.0, -0.22), (0.3, 1.12, -0.34)):
            tint = tuple(min(255.0, shade * channel) for channel in colour)
            for start, stop, wide, narrow in zip(joints[:-1], joints[1:], radii[:-1], radii[1:], strict=True):
                offset = np.array([shift * wide, 0.5 * shift * wide])
                outline = _capsule(start + offset, stop + offset, scale * wide, scale * narrow)
                self.polygon(outline, (tint[0], tint[1], tint[2]))

    def ellipse(self, centre: tuple[float, float], radii: tuple[float, float], colour: Colour) -> None:
        """A filled ellipse."""
        turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        self.polygon(np.stack([centre[0] + radii[0] * np.cos(turn), centre[1] + radii[1] * np.sin(turn)], 1), colour)


_CAP = np.concatenate([np.linspace(np.pi / 2, 3 * np.pi / 2, 9), np.linspace(-np.pi / 2, np.pi / 2, 9)])


def _capsule(start: Floats, stop: Floats, wide: float, narrow: float) -> Floats:
    """Outline of a tube with round ends, (18, 2)."""
    angle = _CAP + np.arctan2(stop[1] - start[1], stop[0] - start[0])
    outline = np.empty((len(_CAP), 2))
    outline[:, 0], outline[:, 1] = np.cos(angle), np.sin(angle)
    half = len(_CAP) // 2
    outline[:half] = outline[:half] * wide + start
    outline[half:] = outline[half:] * narrow + stop
    return outline


def _chain(root: tuple[float, float], angles: tuple[float, float], lengths: tuple[float, float]) -> Floats:
    """Three joints of a limb that hangs from ``root``; angles from the vertical. (3, 2)"""
    points = [np.array(root)]
    for angle, length in zip(angles, lengths, strict=True):
        points.append(points[-1] + length * np.array([np.sin(angle), np.cos(angle)]))
    return np.stack(points)


def _figure(box: Floats, poses: _Poses, row: int, look: _Look) -> _Drawn:
    """Draw a person so that the feet stand at the box's foot point and the head reaches its top."""
    high = float(box[3] - box[1])
    middle = float(box[0] + box[2]) / 2
    margin = 0.42 * high
    left, top = int(np.floor(middle - margin)), int(np.floor(box[1] - 0.06 * high))
    width, height = int(np.ceil(2 * margin)) + 1, int(np.ceil(1.12 * high)) + 1
    origin = np.array([middle - left, box[1] - top])

    def place(points: Floats) -> Floats:
        return (origin + points * high) * _SUPERSAMPLE - 0.5

    sketch = _Sketch(width * _SUPERSAMPLE, height * _SUPERSAMPLE, place)
    _draw_body(sketch, poses, row, look)
    filled = sketch.mask > 0
    alpha = cv2.resize(sketch.mask, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    # Pixels outside the figure are black, so the average of a pixel's samples is colour times alpha already.
    colour = cv2.resize(sketch.colour, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    folds = cv2.resize(look.folds, (width, height), interpolation=cv2.INTER_CUBIC)
    colour *= np.clip(folds, 0.75, 1.3)[:, :, None]
    ys, xs = np.flatnonzero(filled.any(1)), np.flatnonzero(filled.any(0))
    tight = np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1]) / _SUPERSAMPLE
    return _Drawn(left, top, colour, alpha, tight + np.array([left, top, left, top]))


def _draw_body(sketch: _Sketch, poses: _Poses, row: int, look: _Look) -> None:
    side, swing, phase = float(poses.side[row]), float(poses.swing[row]), float(poses.phase[row])
    turned, facing = abs(side), np.sign(side) if side else 1.0
    stride = 0.32 * swing * np.sin(phase) * facing * max(turned, 0.25)
    bend = [0.75 * swing * max(0.0, float(np.cos(phase + shift))) for shift in (0.0, np.pi)]
    bob = 0.012 * swing * np.cos(2 * phase)
    shoulder = (0.115 - 0.045 * turned) * look.build
    hip = (0.07 - 0.03 * turned) * look.build
    hips = 0.5 + 0.5 * bob
    far_shade = 0.78
    leg_lengths = (0.235, 0.225 - 0.25 * bob)
    legs = []
    for sign, knee in zip((-1.0, 1.0), bend, strict=True):
        thigh = sign * stride - (1 - turned) * sign * 0.02
        # The knee bends backwards: away from where the person looks; seen from the front it shortens the leg.
        shank = thigh - facing * knee * turned
        short = 1 - 0.16 * knee * (1 - turned)
        root = (sign * hip * (1 - 0.6 * turned), hips)
        legs.append(_chain(root, (thigh, shank), (leg_lengths[0] * short, leg_lengths[1] * short)))
    arms = []
    for sign in (-1.0, 1.0):
        upper = -sign * 0.9 * stride - sign * 0.1 * (1 - turned)
        fore = upper + facing * (0.25 + 0.3 * swing) * turned - sign * 0.04 * (1 - turned)
        arms.append(_chain((-sign * shoulder * (1 - 0.7 * turned), 0.205 + bob), (upper, fore), (0.165, 0.15)))
    _draw_arm(sketch, arms[0], look, far_shade)
    for index, leg in enumerate(legs):
        _draw_leg(sketch, leg, look, far_shade if index == 0 and turned > 0.4 else 1.0, facing * turned)
    _draw_torso(sketch, look, shoulder, hip, hips, bob, turned, facing)
    _draw_head(sketch, look, bob, side, bool(poses.away[row]))
    _draw_arm(sketch, arms[1], look, 1.0)


def _shaded(colour: Colour, factor: float) -> Colour:
    blue, green, red = (min(255.0, factor * channel) for channel in colour)
    return blue, green, red


def _draw_leg(sketch: _Sketch, leg: Floats, look: _Look, shade: float, toes: float) -> None:
    bare = look.skirt
    colour = _shaded(look.skin if bare else look.trousers, shade)
    wide = look.build * (0.8 if bare else 1.0)
    sketch.limb(leg, np.array([0.058, 0.044, 0.032]) * wide, colour)
    ankle = leg[-1]
    tip = ankle + np.array([0.055 * toes, 0.016])
    sketch.limb(np.stack([ankle + np.array([-0.012 * np.sign(toes), 0.012]), tip]), np.array([0.026, 0.02]), look.shoes)


def _draw_arm(sketch: _Sketch, arm: Floats, look: _Look, shade: float) -> None:
    sleeve, hand = _shaded(look.shirt, 0.92 * shade), _shaded(look.skin, shade)
    sketch.limb(arm, np.array([0.036, 0.029, 0.023]) * look.build, sleeve if look.sleeves else hand)
    if not look.sleeves:
        sketch.limb(np.stack([arm[0], 0.45 * arm[0] + 0.55 * arm[1]]), np.array([0.038, 0.034]), sleeve)
    sketch.ellipse((float(arm[2, 0]), float(arm[2, 1])), (0.022, 0.026), hand)


def _draw_torso(
    sketch: _Sketch, look: _Look, shoulder: float, hip: float, hips: float, bob: float, turned: float, facing: float
) -> None:
    if look.bag is not None:
        back = -facing * (shoulder + 0.03) * turned
        sketch.limb(np.array([[back, 0.24], [back, 0.4]]), np.array([0.05, 0.06]), look.bag)
    top, low = 0.165 + bob, hips + (0.17 if look.coat else 0.03)
    waist = 0.86 * max(shoulder, hip + 0.02)
    flare = (hip + 0.045) * (1.15 if look.coat else 1.0)
    if look.skirt:
        skirt = np.array([[-flare, hips - 0.06], [flare, hips - 0.06], [1.35 * flare, 0.7], [-1.35 * flare, 0.7]])
        sketch.polygon(skirt, look.trousers)
    right = np.array([[0.03, top - 0.01], [0.8 * shoulder, top + 0.012], [shoulder, top + 0.05]])
    right = np.concatenate([right, [[waist, 0.36], [flare, low - 0.03], [0.95 * flare, low]]])
    outline = np.concatenate([right, right[::-1] * [-1, 1]])
    sketch.polygon(outline, _shaded(look.shirt, 0.76))
    sketch.polygon(outline * [0.72, 1] - [0.16 * shoulder, 0], look.shirt)
    sketch.polygon(outline * [0.3, 0.97] - [0.4 * shoulder, -0.01], _shaded(look.shirt, 1.12))
    if look.stripes:
        torso = np.zeros_like(sketch.mask)
        cv2.fillPoly(torso, [sketch.pixels(outline)], 255, cv2.LINE_8, _SHIFT)
        height = len(torso)
        wave = np.sin(2 * np.pi * np.arange(height) * 1.12 * 3 * look.stripes / height)
        dark = (torso > 0) & (wave > 0.2)[:, None]
        sketch.colour[dark] = (0.55 * sketch.colour[dark]).astype(np.uint8)


def _draw_head(sketch: _Sketch, look: _Look, bob: float, side: float, away: bool) -> None:
    neck = 0.15 + bob
    sketch.limb(np.array([[0.0, neck - 0.03], [0.0, neck + 0.03]]), np.array([0.03, 0.036]), _shaded(look.skin, 0.9))
    centre = 0.072 + bob
    if look.long_hair:
        sketch.ellipse((-0.012 * side, centre + 0.035), (0.062, 0.085), _shaded(look.hair, 0.85))
    sketch.ellipse((0.0, centre), (0.053, 0.071), _shaded(look.hair, 0.8))
    if away and abs(side) < 0.7:
        sketch.ellipse((-0.01, centre - 0.006), (0.04, 0.055), look.hair)
        return
    sketch.ellipse((0.016 * side, centre + 0.016), (0.044 - 0.006 * abs(side), 0.052), look.skin)
    sketch.ellipse((0.016 * side - 0.012, centre + 0.012), (0.022, 0.034), _shaded(look.skin, 1.08))


# --- putting it together -----------------------------------------------------------------------------------------


def _composed(canvas: Floats, figures: list[_Drawn]) -> tuple[Floats, Floats]:
    """Paint figures, farthest first, into the canvas (changed in place).

    Returns:
        (n, 4) boxes and (n,) visible share of each figure's pixels; -1 for one that lies outside the image.
    """
    height, width = canvas.shape[:2]
    top_most = np.full((height, width), -1, np.int32)
    for figure in figures:
        _paint_shadow(canvas, figure.box)
    whole = np.zeros(len(figures))
    for index, figure in enumerate(figures):
        whole[index] = (figure.alpha > 0.5).sum()
        rows, columns = figure.alpha.shape
        y0, x0 = max(figure.top, 0), max(figure.left, 0)
        y1, x1 = min(figure.top + rows, height), min(figure.left + columns, width)
        if y0 >= y1 or x0 >= x1:
            continue
        part = np.s_[y0 - figure.top : y1 - figure.top, x0 - figure.left : x1 - figure.left]
        alpha = figure.alpha[part]
        canvas[y0:y1, x0:x1] = canvas[y0:y1, x0:x1] * (1 - alpha[:, :, None]) + figure.colour[part]
        top_most[y0:y1, x0:x1][alpha > 0.5] = index
    boxes = np.array([figure.box for figure in figures]).reshape(-1, 4)
    visible = np.array([(top_most == index).sum() for index in range(len(figures))]) / np.maximum(whole, 1)
    inside = (boxes[:, 0] < width) & (boxes[:, 2] > 0) & (boxes[:, 1] < height) & (boxes[:, 3] > 0)
    return boxes, np.where(inside, np.minimum(visible, 1), -1)


def _paint_shadow(canvas: Floats, box: Floats) -> None:
    """A soft patch of shade under the feet."""
    high = float(box[3] - box[1])
    centre, half = (box[0] + box[2]) / 2 + 0.12 * high, (0.24 * high, 0.035 * high)
    x0, x1 = max(int(centre - 2 * half[0]), 0), min(int(centre + 2 * half[0]), canvas.shape[1])
    y0, y1 = max(int(box[3] - 3 * half[1]), 0), min(int(box[3] + 3 * half[1]), canvas.shape[0])
    if x0 >= x1 or y0 >= y1:
        return
    x, y = np.arange(x0, x1)[None], np.arange(y0, y1)[:, None]
    distance = ((x - centre) / half[0]) ** 2 + ((y - box[3] + 0.01 * high) / half[1]) ** 2
    canvas[y0:y1, x0:x1] *= (1 - 0.45 * np.exp(-distance))[:, :, None]


@dataclass(frozen=True)
class _Backdrop:
    """A picture larger than the image, and how to look at it from each frame."""

    picture: Image
    maps: Floats  # (F, 2, 3) picture to frame
    size: tuple[int, int]  # width, height of a frame

    @classmethod
    def create(cls, rng: np.random.Generator, config: SceneConfig, warps: Floats) -> "_Backdrop":
        """Paint the street for all that the camera will see of it."""
        full = np.concatenate([warps, np.tile([[[0.0, 0.0, 1.0]]], (len(warps), 1, 1))], 1)
        total = np.empty_like(full)
        total[0] = np.eye(3)
        for k in range(1, len(full)):
            total[k] = full[k] @ total[k - 1]
        corners = np.array([[0, 0, 1], [config.width, 0, 1], [0, config.height, 1], [config.width, config.height, 1]])
        seen = np.einsum("fij,cj->fci", np.linalg.inv(total), corners)[:, :, :2].reshape(-1, 2)
        # A camera that travels would need an endless street: what lies beyond is mirrored.
        limit = 3 * max(config.width, config.height)
        low, high = np.clip(np.floor(seen.min(0)), -limit, 0), np.clip(np.ceil(seen.max(0)), 0, limit)
        size = (high - low).astype(int)
        shift = np.eye(3)
        shift[:2, 2] = low
        world, focal = config.world, config.world.focal * config.width
        horizon = world.horizon * config.height - low[1]
        wall = horizon + focal * world.camera_height / (1.2 * world.far)
        return cls(
            _street(rng, int(size[0]), int(size[1]), float(horizon), float(wall)),
            (total @ shift)[:, :2],
            (config.width, config.height),
        )

    def view(self, frame: int) -> NDArray[np.float32]:
        """The background as the camera sees it, float32 BGR of the image's size."""
        return cv2.warpAffine(
            self.picture, self.maps[frame], self.size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
        ).astype(np.float32)


def _street(rng: np.random.Generator, width: int, height: int, horizon: float, wall: float) -> Image:
    """Paved ground up to the foot of a house front, (height, width, 3); ``wall`` is the row of that foot."""
    picture = np.empty((height, width, 3), np.float32)
    foot = int(np.clip(wall, 1, height - 1))
    picture[:] = _mottled(rng, width, height, np.array([158, 167, 172.0]), 5)
    _pave(picture, rng, horizon, foot)
    front = _mottled(rng, width, foot, np.array([135, 165, 185.0]) + rng.normal(0, 12, 3), 3)
    unit = max(60, foot // 2)
    _bricks(front, rng, max(5, foot // 34))
    for left in range(int(rng.integers(-unit // 2, 0)), width, int(1.35 * unit)):
        _opening(front, rng, left, unit, foot)
    picture[:foot] = front
    cv2.rectangle(picture, (0, foot - max(3, foot // 40)), (width, foot), (88, 92, 95), -1)
    for _ in range(max(2, width // 260)):
        _post(picture, rng, int(rng.integers(0, width)), foot, unit)
    shade = np.linspace(0.88, 1.06, height)[:, None, None]
    return np.clip(cv2.GaussianBlur(picture * shade, (0, 0), 0.6), 0, 255).astype(np.uint8)


def _mottled(rng: np.random.Generator, width: int, height: int, colour: Floats, amount: float) -> NDArray[np.float32]:
    """A plain colour with blotches of several sizes."""
    out = np.tile(colour.astype(np.float32), (height, width, 1))
    for cell in (48, 12, 3):
        rough = rng.normal(0, amount, (height // cell + 2, width // cell + 2)).astype(np.float32)
        out += cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)[:, :, None]
    return out


def _pave(picture: NDArray[np.float32], rng: np.random.Generator, horizon: float, foot: int) -> None:
    """Slabs in perspective, each with a tint of its own."""
    height, width = picture.shape[:2]
    y, x = np.mgrid[foot:height, 0:width].astype(np.float32)
    depth = (height - horizon) / np.maximum(y - horizon, 1)  # 1 at the lower edge
    across, along = (x - width / 2) * depth / 95, 6.5 * depth
    column, row = np.floor(across + 0.5 * (np.floor(along) % 2)), np.floor(along)
    tint = rng.normal(0, 7, 1009)[(column * 37 + row * 101).astype(np.int64) % 1009]
    gap_x, gap_y = (across + 0.5 * (row % 2)) % 1, along % 1
    joint = (gap_x < 0.03) | (gap_y < 0.06 * np.clip(1.2 - 0.2 * depth, 0.3, 1))
    picture[foot:] += tint[:, :, None] - 20 * joint[:, :, None]


def _bricks(front: NDArray[np.float32], rng: np.random.Generator, course: int) -> None:
    height, width = front.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    row = y // course
    column = (x + (row % 2) * course) // (2 * course)
    tint = rng.normal(0, 3.5, 997)[(column * 31 + row * 97) % 997]
    joint = (y % course == 0) | ((x + (row % 2) * course) % (2 * course) == 0)
    front += (tint - 7 * joint)[:, :, None]


def _opening(front: NDArray[np.float32], rng: np.random.Generator, left: int, unit: int, foot: int) -> None:
    """A door or a shop window in the house front."""
    door = rng.random() < 0.4
    wide, high = (int(0.42 * unit), int(0.98 * unit)) if door else (int(0.95 * unit), int(0.72 * unit))
    low = foot if door else foot - int(0.22 * unit)
    frame = tuple(float(v) for v in rng.uniform(50, 110, 3))
    pane = tuple(float(v) for v in (rng.uniform(45, 120) + rng.normal(0, 12, 3)))
    cv2.rectangle(front, (left - 4, low - high - 4), (left + wide + 4, low), frame, -1)
    cv2.rectangle(front, (left, low - high), (left + wide, low), pane, -1)
    gleam = np.array([[left, low], [left, low - high // 2], [left + wide // 2, low - high], [left + wide, low - high]])
    layer = front.copy()
    cv2.fillPoly(layer, [gleam.astype(np.int32)], tuple(min(255.0, v + 28) for v in pane))
    cv2.addWeighted(layer, 0.5, front, 0.5, 0, dst=front)
    if door:
        cv2.circle(front, (left + int(0.85 * wide), low - high // 2), 2, (60, 190, 210), -1)
        return
    for k in (1, 2):
        cv2.line(front, (left + k * wide // 3, low - high), (left + k * wide // 3, low), frame, 2)
    awning = tuple(float(v) for v in rng.uniform(40, 190, 3))
    edge = np.array([[left - 6, low - high - 2], [left + wide + 6, low - high - 2]])
    drop = np.array([[left + wide + 12, low - high + unit // 7], [left - 12, low - high + unit // 7]])
    cv2.fillPoly(front, [np.concatenate([edge, drop]).astype(np.int32)], awning)


def _post(picture: NDArray[np.float32], rng: np.random.Generator, x: int, foot: int, unit: int) -> None:
    """A lamp post, a bollard or a tree by the wall: what a detector takes for a person now and then."""
    base = foot + int(rng.uniform(0.02, 0.16) * unit)
    kind = int(rng.integers(3))
    if kind == 0:
        cv2.line(picture, (x, base), (x, max(0, base - int(2.2 * unit))), (60, 62, 60), max(3, unit // 22))
        cv2.circle(picture, (x, max(0, base - int(2.2 * unit))), max(5, unit // 12), (190, 225, 235), -1)
    elif kind == 1:
        cv2.rectangle(picture, (x, base - int(0.5 * unit)), (x + unit // 5, base), (50, 50, 140), -1)
        cv2.ellipse(
            picture, (x + unit // 10, base - int(0.5 * unit)), (unit // 10, unit // 12), 0, 180, 360, (60, 60, 160), -1
        )
    else:
        cv2.line(picture, (x, base), (x, base - int(0.9 * unit)), (45, 65, 85), max(4, unit // 14))
        for k in range(220):  # leaves, lighter towards the top left
            reach = rng.normal(0, [0.2 * unit, 0.15 * unit])
            at = (x + int(reach[0]), base - int(1.15 * unit) + int(reach[1]))
            light = 0.75 + 0.25 * k / 220 - 0.12 * (reach[0] + 2 * reach[1]) / unit
            green = tuple(float(v) for v in light * (np.array([60, 120, 85]) + rng.normal(0, 8, 3)))
            cv2.circle(picture, at, max(2, int(rng.uniform(0.02, 0.05) * unit)), green, -1)
