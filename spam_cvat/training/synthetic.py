"""A simulator of people, and of what a low-threshold detector reports of them.

In: a seed and a :class:`SceneConfig`. Out: a :class:`Scene`: candidate boxes with scores (and, when asked for,
appearance vectors), the true identity of each, ground-truth tracks with visibility, and the camera's motion. No
pixels are made; the links and the gate are trained on such scenes alone.

People walk on a flat ground seen by a level pinhole camera: a person standing ``z`` metres away with the camera
``c`` metres above the ground has his feet at ``y = horizon + f c / z`` and a box of height ``f * stature / z``. The
camera's own motion is a similarity of the image plane (pan, shake, zoom), and, for a moving camera, a translation
along the ground. Nearer people and static things hide those behind them; the detector sees what is left, with errors
that last for some time, because that is what makes real sequences hard: a person who is hard to see in one frame is
hard to see in the next.

All durations are in seconds, so that a scene means the same at 7 and at 60 frames a second.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.signal import lfilter

from spam_cvat.boxes import area, iou_pairs, warp_boxes
from spam_cvat.detections import SUREST, Detections, VideoInfo, detection_ids
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks

Floats = NDArray[np.floating]
Ints = NDArray[np.intp]

_STATURE = 1.72  # metres, of the average adult
_SURE = 2.5  # logit of a score at which boxes are as well placed as the configuration says
_GRID_COLUMNS, _GRID_ROWS = 6, 10  # cells in which the hidden part of a box is counted


@dataclass(frozen=True)
class WorldConfig:
    """Where people are and how the camera looks at them.

    Attributes:
        near: nearest distance at which people appear, metres.
        far: largest distance at which people appear, metres.
        depth_power: people are placed at ``near + (far - near) * u ** depth_power``; below 1 favours the far end.
        camera_height: metres above the ground; high cameras look down on the crowd.
        horizon: the horizon's height in the image, 0 top, 1 bottom; below 0 for a camera that looks down.
        focal: focal length as a multiple of the image's width.
        stature_spread: relative spread of people's heights.
        aspect: mean box width over height.
        occluders: number of static things (poles, cars, stands) that hide people.
        min_inside: a person belongs to the scene while this share of the box is inside the image.
        keep_identity: a person who leaves the image and returns keeps the identity (DanceTrack) or not (MOTChallenge).
    """

    near: float = 4.0
    far: float = 32.0
    depth_power: float = 0.9
    camera_height: float = 2.2
    horizon: float = 0.38
    focal: float = 0.8
    stature_spread: float = 0.05
    aspect: float = 0.36
    occluders: float = 1.5
    min_inside: float = 0.1
    keep_identity: bool = False


@dataclass(frozen=True)
class MotionConfig:
    """How people move.

    Attributes:
        kind: walk (paths with stops and turns), dance (a troupe on a stage), sport (runs around a focus).
        speed: metres a second while walking; for sport, the spread of the running speed.
        speed_spread: relative spread of the speed among people.
        turn: radians by which the heading wanders.
        flow: 0 headings in all directions, 1 all along one axis, to and fro.
        axis: direction of that axis in radians, 0 across the view; random where None.
        standing: share of people who do not walk at all.
        stop_rate: stops a second for those who walk.
        stop_time: mean seconds of a stop.
        groups: share of people who walk in groups of two to five.
        stay: mean seconds before a person vanishes inside the image (a door, a car).
        agility: metres of fast displacement on top of the path (steps, dance moves).
        agility_time: seconds over which that displacement changes.
        roam: metres by which a dancer strays from the place in the formation, within seconds.
        swap_time: mean seconds between calls of a dance: a new formation, places exchanged, rows that shift.
        partners: share of dancers who circle a partner from time to time.
        unison: share of the moves and postures that a troupe does alike, 0 to 1.
        liveliness: spread of the activity over time: 0 all move all the time, 1 stillness and bursts.
        gait: relative amplitude of the width while walking.
        posture_width: relative spread of the width to either side as arms and legs move.
        posture_height: relative spread of the height (arms up, bent knees).
        posture_time: seconds over which the posture changes.
        kneel_rate: times a second and person that a person kneels, bends or lies down.
        kneel_time: mean seconds of that.
        jump_rate: jumps a second and person.
    """

    kind: Literal["walk", "dance", "sport"] = "walk"
    speed: float = 1.1
    speed_spread: float = 0.3
    turn: float = 0.25
    flow: float = 0.6
    axis: float | None = None
    standing: float = 0.4
    stop_rate: float = 0.03
    stop_time: float = 5.0
    groups: float = 0.5
    stay: float = 60.0
    agility: float = 0.06
    agility_time: float = 0.5
    roam: float = 0.0
    swap_time: float = 3.0
    partners: float = 0.0
    unison: float = 0.0
    liveliness: float = 0.0
    gait: float = 0.06
    posture_width: float = 0.05
    posture_height: float = 0.01
    posture_time: float = 0.7
    kneel_rate: float = 0.0
    kneel_time: float = 1.5
    jump_rate: float = 0.0


@dataclass(frozen=True)
class CameraConfig:
    """How the camera moves, and how well that is known.

    Attributes:
        pan: pixels a second, as a share of the image's width, by which the view slides to and fro.
        pan_time: seconds over which the pan changes.
        shake: amplitude of the hand's tremor as a share of the image's width.
        shake_time: seconds over which the tremor changes.
        roll: radians of tremor around the optical axis.
        zoom: relative change of scale.
        zoom_time: seconds over which the zoom changes.
        forward: metres a second along the view.
        sideways: metres a second across the view.
        warp_noise: error of the estimated warps: pixels (at 1920 wide) of shift a frame.
        warp_failures: share of frames whose warp was not found (identity is given).
    """

    pan: float = 0.0
    pan_time: float = 4.0
    shake: float = 0.0
    shake_time: float = 0.25
    roll: float = 0.0
    zoom: float = 0.0
    zoom_time: float = 5.0
    forward: float = 0.0
    sideways: float = 0.0
    warp_noise: float = 0.0
    warp_failures: float = 0.0


@dataclass(frozen=True)
class DetectorConfig:
    """What the detector makes of the people.

    A box's quality is a sum of effects on the logit scale; the score is ``cap * sigmoid(sharpness * quality)``.

    Attributes:
        base: quality of a large, fully visible person.
        sharpness: scale of the logit; above 1 for detectors that are sure of themselves.
        cap: highest score.
        visibility_gain: quality lost by hidden people: times the logarithm of the visible share.
        size_gain: quality lost by small people: times the logarithm of height over ``small``, below it.
        small: height, as a share of the image's height, under which people are hard to find.
        person_sd: spread of the quality among people.
        slow_sd: spread over time, changing within ``slow_time`` seconds.
        slow_time: seconds.
        fast_sd: spread over time, changing within a quarter of a second.
        white_sd: spread from frame to frame.
        burst_rate: bursts of misses a second and person.
        burst_time: mean seconds of a burst.
        threshold: lowest score that is reported.
        nms: boxes that overlap a better one more than this (IoU) are not reported.
        jitter: error of each box edge as a share of the box's size.
        jitter_slow: share of the jitter's variance that lasts (a tenth of a second to more than one).
        jitter_occluded: how much the jitter grows as the person gets hidden.
        jitter_unsure: how much it grows (log) with each logit that the score falls: a box of little confidence is
            badly placed too.
        shrink: 0 boxes of the whole person, 1 boxes of the visible part.
        clip: boxes end at the image's border.
        duplicates: bursts of second boxes a second and person.
        duplicate_quality: quality of a second box; where people overlap it is higher.
    """

    base: float = 3.6
    sharpness: float = 1.2
    cap: float = 0.96
    visibility_gain: float = 1.9
    size_gain: float = 1.5
    small: float = 0.1
    person_sd: float = 0.45
    slow_sd: float = 0.5
    slow_time: float = 1.0
    fast_sd: float = 0.25
    white_sd: float = 0.13
    burst_rate: float = 0.02
    burst_time: float = 0.4
    threshold: float = 0.01
    nms: float = 0.7
    jitter: float = 0.021
    jitter_slow: float = 0.9
    jitter_occluded: float = 0.4
    jitter_unsure: float = 0.3
    shrink: float = 0.15
    clip: bool = False
    duplicates: float = 2.6
    duplicate_quality: float = -2.6


@dataclass(frozen=True)
class ClutterConfig:
    """What the detector reports where nobody is.

    Attributes:
        spots: number of places in the background that are taken for a person again and again.
        spot_quality: mean quality of such a place.
        reflections: number of mirrors (shop windows) that show people a second time.
        reflection_quality: quality of a mirrored person relative to the real one.
        flicker: boxes a frame at random places, for an average frame.
        flicker_quality: their mean quality.
        parts: share of person boxes that come with a box of a part of the body, nearly.
        parts_quality: quality of such a box.
        pairs: share of overlapping pairs that come with a box whose sides are now of the one, now of the other:
            around both, around what they share, or half-way between them.
        pairs_quality: quality of such a box; the more they overlap the higher.
    """

    spots: float = 3.0
    spot_quality: float = -2.7
    reflections: float = 0.2
    reflection_quality: float = -4.2
    flicker: float = 2.0
    flicker_quality: float = -4.0
    parts: float = 0.35
    parts_quality: float = -2.9
    pairs: float = 1.5
    pairs_quality: float = -2.5


@dataclass(frozen=True)
class EmbedderConfig:
    """What an appearance network makes of the boxes.

    Attributes:
        dim: length of the vectors.
        clothing: number of kinds of clothing; people of one kind look alike.
        likeness: share of a person's look that is the kind's (1: all alike, as in a dance troupe).
        noise: norm of the noise of a fully visible person relative to the person's own look.
        pose: norm of the part that changes slowly with pose and light.
        occlusion: how much of the one in front gets into the vector of a hidden person.
        missing: share of boxes without a vector (a zero row).
    """

    dim: int = 32
    clothing: int = 8
    likeness: float = 0.5
    noise: float = 0.6
    pose: float = 0.4
    occlusion: float = 1.0
    missing: float = 0.0


@dataclass(frozen=True)
class SceneConfig:
    """A kind of scene; see the parts. ``people`` is the mean number in the image at a time."""

    num_frames: int = 300
    width: int = 1920
    height: int = 1080
    fps: float = 30.0
    people: float = 18.0
    world: WorldConfig = field(default_factory=WorldConfig)
    motion: MotionConfig = field(default_factory=MotionConfig)
    camera: CameraConfig = field(default_factory=CameraConfig)
    detector: DetectorConfig = field(default_factory=DetectorConfig)
    clutter: ClutterConfig = field(default_factory=ClutterConfig)
    embedder: EmbedderConfig | None = None
    name: str = "street"


@dataclass(frozen=True)
class Scene:
    """A generated video without pixels.

    Attributes:
        detections: candidate boxes, with ``embedding`` where the configuration has an embedder.
        ground_truth: everybody's true boxes, also while hidden, with score 1.
        visibility: (M,) float32, visible share of each ground-truth box; rows as in ``ground_truth``.
        identity: (N,) int32, true identity of each detection (its box overlaps the person's with IoU >= 0.5, and more
            than the person's other boxes do), 0 for false positives, second boxes and misplaced ones.
        detection_visibility: (N,) float32, visible share of the person detected; 0 for false positives.
        warps: (num_frames, 2, 3) float64, camera motion as an estimator would give it: frame k-1 to frame k.
        exact_warps: (num_frames, 2, 3) float64, the same without the estimator's errors.
        depth: (M,) float32, metres from the camera to each ground-truth person; nearer ones hide others.
        config: what the scene was made with.
        seed: of the generator.
    """

    detections: Detections
    ground_truth: Tracks
    visibility: NDArray[np.float32]
    identity: NDArray[np.int32]
    detection_visibility: NDArray[np.float32]
    warps: Floats
    exact_warps: Floats
    depth: NDArray[np.float32]
    config: SceneConfig
    seed: int


# --- presets -----------------------------------------------------------------------------------------------------

PRESETS: dict[str, SceneConfig] = {
    "street": SceneConfig(),
    "moving": SceneConfig(
        name="moving",
        people=10,
        world=WorldConfig(near=3, far=25, camera_height=1.6, horizon=0.42, occluders=1.0),
        camera=CameraConfig(
            pan=0.05, shake=0.004, roll=0.003, forward=0.5, sideways=0.1, warp_noise=0.5, warp_failures=0.003
        ),
    ),
    "dance": SceneConfig(
        name="dance",
        width=1280,
        height=720,
        fps=20,
        people=8,
        world=WorldConfig(
            near=7,
            far=10,
            camera_height=1.5,
            horizon=0.4,
            focal=0.9,
            aspect=0.45,
            occluders=0.1,
            keep_identity=True,
        ),
        motion=MotionConfig(
            kind="dance",
            speed=1.0,
            groups=0.0,
            agility=0.06,
            agility_time=0.25,
            roam=0.15,
            partners=0.2,
            unison=0.5,
            swap_time=3.0,
            liveliness=1.2,
            posture_width=0.23,
            posture_height=0.07,
            posture_time=0.3,
            kneel_rate=0.06,
            jump_rate=0.02,
        ),
        camera=CameraConfig(pan=0.015, shake=0.001, zoom=0.1, warp_noise=0.5),
        detector=DetectorConfig(
            base=3.9, burst_rate=0.003, visibility_gain=1.5, duplicates=0.4, duplicate_quality=-3.4, jitter=0.011
        ),
        clutter=ClutterConfig(
            spots=0.5,
            reflections=0.1,
            reflection_quality=-4.0,
            flicker=0.3,
            parts=0.1,
            parts_quality=-3.4,
            pairs=0.3,
            pairs_quality=-3.3,
        ),
    ),
    "sport": SceneConfig(
        name="sport",
        fps=25,
        people=14,
        world=WorldConfig(near=16, far=48, camera_height=8, horizon=0.02, focal=1.3, occluders=0.1, keep_identity=True),
        motion=MotionConfig(
            kind="sport",
            speed=1.9,
            groups=0.0,
            agility=0.15,
            agility_time=0.4,
            liveliness=0.6,
            posture_width=0.2,
            posture_height=0.05,
            posture_time=0.3,
            kneel_rate=0.02,
            jump_rate=0.02,
        ),
        camera=CameraConfig(pan=0.12, pan_time=2.0, zoom=0.1, warp_noise=0.5, warp_failures=0.003),
        clutter=ClutterConfig(spots=2.0, reflections=0.0, flicker=1.0),
    ),
    "sparse": SceneConfig(
        name="sparse",
        width=768,
        height=576,
        fps=7,
        people=5,
        world=WorldConfig(near=9, far=28, camera_height=6, horizon=-0.05, focal=1.0, occluders=1.5, aspect=0.38),
        motion=MotionConfig(speed=1.25, turn=0.6, flow=0.2, standing=0.05, stop_rate=0.05, groups=0.35),
        detector=DetectorConfig(base=3.0, small=0.15, slow_sd=0.6, person_sd=0.6),
    ),
}


def preset(name: str, **changes: Any) -> SceneConfig:
    """A preset by name ("street", "moving", "dance", "sport", "sparse"), with fields of SceneConfig changed.

    >>> preset("dance", num_frames=100).people
    8
    """
    if name not in PRESETS:
        raise InputError(f"no scene preset {name!r}; there are {', '.join(PRESETS)}")
    return replace(PRESETS[name], **changes)


def random_config(
    rng: np.random.Generator, num_frames: int = 300, *, embedder: bool | None = None, kind: str | None = None
) -> SceneConfig:
    """A scene of a random kind, rate, size, crowd, camera and detector, wide enough to cover what users bring.

    Args:
        rng: the generator.
        num_frames: length of the scene.
        embedder: whether to simulate appearance; None leaves it to chance (half of the scenes).
        kind: a preset's name; None leaves it to chance.
    """
    kind = kind or str(rng.choice(["street", "moving", "dance", "sport", "sparse"], p=[0.36, 0.2, 0.26, 0.08, 0.1]))
    config = preset(kind)
    width, height = _random_size(rng, (config.width, config.height))
    rates = [7, 10, 12, 14, 15, 20, 24, 25, 30, 30, 50, 60]
    if config.motion.kind != "walk":  # nobody films fast motion at rates that lose it
        rates = [rate for rate in rates if rate >= 15]
    fps = config.fps if rng.random() < 0.4 else float(rng.choice(rates))
    # Streets can be fuller than the presets; a stage is not.
    more = 0.45 if config.motion.kind == "walk" else 0.1
    people = float(np.clip(config.people * np.exp(rng.normal(more, 0.6)), 2, 80))
    with_embedder = rng.random() < 0.5 if embedder is None else embedder
    drawn = replace(
        config,
        num_frames=num_frames,
        width=width,
        height=height,
        fps=fps,
        people=people,
        world=_random_world(rng, config.world),
        motion=_random_motion(rng, config.motion),
        camera=_random_camera(rng, config.camera),
        detector=_random_detector(rng, config.detector),
        clutter=_random_clutter(rng, config.clutter),
        embedder=_random_embedder(rng) if with_embedder else None,
    )
    return _in_view(drawn)


def _in_view(config: SceneConfig) -> SceneConfig:
    """A configuration drawn at random, made such that people stand in the image, at sizes and numbers that fit."""
    world = config.world
    focal, middle = world.focal * config.width, (world.near + world.far) / 2
    share = _STATURE * focal / middle / config.height  # of the image's height, for a person half-way
    closer = share / np.clip(share, 0.03, 0.55)
    near, far, middle, share = world.near * closer, world.far * closer, middle * closer, share / closer
    foot = world.horizon + world.camera_height * focal / middle / config.height
    horizon = world.horizon + np.clip(foot, 0.4 + share / 2, 0.95) - foot
    covered = share**2 * world.aspect * config.height / config.width  # of the image, by one person
    room = 0.8 if config.motion.kind == "walk" else 0.5
    people = min(config.people, max(2.0, room / covered))
    world = replace(world, near=float(near), far=float(far), horizon=float(horizon))
    return replace(config, people=float(people), world=world)


def _random_size(rng: np.random.Generator, usual: tuple[int, int]) -> tuple[int, int]:
    sizes = [(320, 240), (640, 480), (768, 576), (1280, 720), (1920, 1080), (2560, 1440), (3840, 2160), (1080, 1920)]
    return usual if rng.random() < 0.5 else sizes[int(rng.integers(len(sizes)))]


def _vary(rng: np.random.Generator, value: float, spread: float, low: float = 0.0, high: float = np.inf) -> float:
    """A value scaled by a log-normal factor, within limits."""
    return float(np.clip(value * np.exp(rng.normal(0, spread)), low, high))


def _random_world(rng: np.random.Generator, world: WorldConfig) -> WorldConfig:
    raised = rng.random() < 0.3  # a camera on a mast or from a window
    near = _vary(rng, world.near, 0.3, 2.0)
    return replace(
        world,
        near=near,
        far=near + _vary(rng, world.far - world.near, 0.4, 1.0),
        depth_power=float(rng.uniform(0.6, 1.3)),
        camera_height=_vary(rng, world.camera_height * (2.5 if raised else 1), 0.3, 0.6),
        horizon=float(world.horizon - (0.3 if raised else 0) + rng.normal(0, 0.06)),
        focal=_vary(rng, world.focal, 0.2),
        stature_spread=_vary(rng, world.stature_spread, 0.3),
        aspect=_vary(rng, world.aspect, 0.12),
        occluders=_vary(rng, world.occluders, 0.6),
    )


def _random_motion(rng: np.random.Generator, motion: MotionConfig) -> MotionConfig:
    return replace(
        motion,
        speed=_vary(rng, motion.speed, 0.25),
        turn=_vary(rng, motion.turn, 0.5, high=1.5),
        flow=float(rng.uniform(0, 1)),
        standing=float(np.clip(motion.standing * rng.uniform(0, 2), 0, 0.9)),
        stop_rate=_vary(rng, motion.stop_rate, 0.7),
        stop_time=_vary(rng, motion.stop_time, 0.5),
        groups=float(np.clip(motion.groups * rng.uniform(0.3, 1.6), 0, 0.9)),
        stay=_vary(rng, motion.stay, 0.6),
        agility=_vary(rng, motion.agility, 0.4),
        agility_time=_vary(rng, motion.agility_time, 0.3),
        roam=_vary(rng, motion.roam, 0.6),
        swap_time=_vary(rng, motion.swap_time, 0.5),
        partners=float(np.clip(motion.partners * rng.uniform(0, 3), 0, 1)),
        unison=float(np.clip(motion.unison * rng.uniform(0, 2), 0, 0.95)),
        liveliness=float(motion.liveliness * rng.uniform(0.5, 1.4)),
        gait=_vary(rng, motion.gait, 0.4),
        posture_width=_vary(rng, motion.posture_width, 0.35),
        posture_height=_vary(rng, motion.posture_height, 0.35),
        posture_time=_vary(rng, motion.posture_time, 0.3),
        kneel_rate=_vary(rng, motion.kneel_rate, 1.0),
        kneel_time=_vary(rng, motion.kneel_time, 0.5),
        jump_rate=_vary(rng, motion.jump_rate, 1.0),
    )


def _random_camera(rng: np.random.Generator, camera: CameraConfig) -> CameraConfig:
    if camera == CameraConfig() and rng.random() < 0.75:
        return camera
    moving = camera if camera != CameraConfig() else CameraConfig(pan=0.03, shake=0.002, roll=0.001)
    return replace(
        moving,
        pan=_vary(rng, moving.pan, 0.8),
        pan_time=_vary(rng, moving.pan_time, 0.4),
        shake=_vary(rng, moving.shake, 0.8, high=0.02) * (rng.random() < 0.8),
        shake_time=_vary(rng, moving.shake_time, 0.4),
        roll=_vary(rng, moving.roll, 0.6, high=0.02),
        zoom=_vary(rng, moving.zoom, 0.5, high=0.3) * (rng.random() < 0.5),
        forward=moving.forward * float(rng.uniform(-0.5, 1.8)) * (rng.random() < 0.6),
        sideways=moving.sideways * float(rng.normal(0, 2)),
        warp_noise=_vary(rng, 0.5, 0.8) * (rng.random() < 0.9),
        warp_failures=_vary(rng, 0.003, 1.0, high=0.05) * (rng.random() < 0.5),
    )


def _random_detector(rng: np.random.Generator, detector: DetectorConfig) -> DetectorConfig:
    # Two-stage detectors are sure of what they report, report little else, and suppress neighbours more strictly. Among
    # the others a strong one finds whoever can be seen, so what it reports with little confidence is mostly not real.
    sure = rng.random() < 0.25
    strength = float(rng.normal(0, 0.5))
    return replace(
        detector,
        base=float(np.clip(detector.base + (-0.4 if sure else 0) + strength + rng.normal(0, 0.35), 1.0, 5.0)),
        sharpness=float(rng.uniform(2, 5)) if sure else _vary(rng, detector.sharpness, 0.25),
        cap=1.0 if sure else float(rng.uniform(SUREST, 1.0)),
        visibility_gain=_vary(rng, detector.visibility_gain * (1.6 if sure else 1), 0.45),
        size_gain=_vary(rng, detector.size_gain, 0.3),
        small=_vary(rng, detector.small, 0.4),
        person_sd=_vary(rng, detector.person_sd * np.exp(-0.4 * strength), 0.3),
        slow_sd=_vary(rng, detector.slow_sd * np.exp(-0.4 * strength), 0.3),
        slow_time=_vary(rng, detector.slow_time, 0.4),
        fast_sd=_vary(rng, detector.fast_sd, 0.5),
        white_sd=_vary(rng, detector.white_sd, 0.7),
        burst_rate=_vary(rng, detector.burst_rate, 0.8),
        burst_time=_vary(rng, detector.burst_time, 0.5),
        threshold=float(rng.choice([0.05, 0.1, 0.2, 0.4], p=[0.1, 0.7, 0.1, 0.1])),
        nms=float(rng.choice([0.3, 0.4, 0.5, 0.6] if sure else [0.45, 0.6, 0.65, 0.7, 0.7, 0.7])),
        jitter=_vary(rng, detector.jitter, 0.4),
        jitter_slow=float(rng.uniform(0.5, 0.98)),
        jitter_occluded=_vary(rng, detector.jitter_occluded, 0.5),
        jitter_unsure=_vary(rng, detector.jitter_unsure, 0.4),
        shrink=float(rng.beta(0.5, 2.5)),
        clip=bool(rng.random() < 0.5),
        duplicates=_vary(rng, detector.duplicates, 0.9) * (0.3 if sure else 1),
        duplicate_quality=float(detector.duplicate_quality + rng.normal(0, 0.5)),
    )


def _random_clutter(rng: np.random.Generator, clutter: ClutterConfig) -> ClutterConfig:
    return replace(
        clutter,
        spots=_vary(rng, clutter.spots, 0.8),
        spot_quality=float(clutter.spot_quality + rng.normal(0, 0.8)),
        reflections=clutter.reflections * float(rng.uniform(0, 3)),
        reflection_quality=float(clutter.reflection_quality + rng.normal(0, 0.7)),
        flicker=_vary(rng, clutter.flicker, 0.8),
        flicker_quality=float(clutter.flicker_quality + rng.normal(0, 0.6)),
        parts=_vary(rng, clutter.parts, 0.9),
        parts_quality=float(clutter.parts_quality + rng.normal(0, 0.5)),
        pairs=_vary(rng, clutter.pairs, 0.9),
        pairs_quality=float(clutter.pairs_quality + rng.normal(0, 0.5)),
    )


def _random_embedder(rng: np.random.Generator) -> EmbedderConfig:
    return EmbedderConfig(
        clothing=int(rng.integers(1, 15)),
        likeness=float(rng.beta(1.5, 1.5)),
        noise=float(rng.uniform(0.25, 1.6)),
        pose=float(rng.uniform(0.1, 0.9)),
        occlusion=float(rng.uniform(0.4, 1.6)),
        missing=float(rng.choice([0, 0, 0.02])),
    )


# --- noise that lasts --------------------------------------------------------------------------------------------


def _lasting(rng: np.random.Generator, shape: tuple[int, int], dt: float, seconds: float) -> Floats:
    """Gaussian noise of unit variance along the last axis, correlated over ``seconds`` (Ornstein-Uhlenbeck)."""
    keep = float(np.exp(-dt / seconds))
    start = rng.standard_normal((shape[0], 1))
    out: Floats = lfilter([np.sqrt(1 - keep**2)], [1, -keep], rng.standard_normal(shape), axis=-1, zi=keep * start)[0]
    return out


def _smooth(rng: np.random.Generator, shape: tuple[int, int], dt: float, seconds: float) -> Floats:
    """As :func:`_lasting`, but with a velocity: critically damped, so that it can stand for a place."""
    keep = float(np.exp(-dt / seconds))
    rough = _lasting(rng, shape, dt, seconds)
    return np.sqrt(2) * _low_pass(rough, keep)


def _low_pass(values: Floats, keep: float) -> Floats:
    """Exponential smoothing along the last axis, started at the first value."""
    out: Floats = lfilter([1 - keep], [1, -keep], values, axis=-1, zi=keep * values[:, :1])[0]
    return out


def _bursts(
    rng: np.random.Generator, shape: tuple[int, int], dt: float, rate: float, seconds: float
) -> NDArray[np.bool_]:
    """Spells that begin ``rate`` times a second and last ``seconds`` on average: a mask of the shape."""
    rows, frames = shape
    count = rng.poisson(max(rate, 0) * dt * frames, rows)
    row = np.repeat(np.arange(rows), count)
    start = rng.integers(0, max(frames, 1), len(row))
    length = 1 + rng.exponential(max(seconds, 1e-6) / dt, len(row)).astype(np.int64)
    edges = np.zeros((rows, frames + 1), np.int64)
    np.add.at(edges, (row, start), 1)
    np.add.at(edges, (row, np.minimum(start + length, frames)), -1)
    return edges.cumsum(1)[:, :frames] > 0


# --- people on the ground ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Paths:
    """Candidates for the scene: places and shapes. All (P, F) unless said otherwise; ground coordinates in metres."""

    x: Floats
    z: Floats
    anchor: Ints  # (P,) frame at which x, z are to be placed into view; -1 where they are in place already
    unit: Ints  # (P,) people of one unit (a group) enter the scene together
    alive: NDArray[np.bool_]
    left: Floats  # factor on the box's extent left of the foot point
    right: Floats  # the same to the right
    height: Floats  # factor on the box's height
    lift: Floats  # metres of the feet above the ground; (1, 1) where nobody jumps


_GROUND = np.zeros((1, 1))


def _walk(rng: np.random.Generator, config: SceneConfig, count: int, dt: float) -> _Paths:
    motion, frames = config.motion, config.num_frames
    grouped = rng.random(count) < motion.groups
    unit = np.where(grouped, rng.integers(0, max(1, int(np.ceil(grouped.sum() / 3))), count), np.arange(count) + count)
    _, unit = np.unique(unit, return_inverse=True)
    units = int(unit.max()) + 1
    axis = rng.uniform(0, np.pi) if motion.axis is None else motion.axis
    along = rng.random(units) < motion.flow
    heading = np.where(
        along, axis + np.pi * rng.integers(0, 2, units) + rng.normal(0, 0.15, units), rng.uniform(0, 2 * np.pi, units)
    )
    heading = heading[:, None] + motion.turn * _smooth(rng, (units, frames), dt, 3.0)
    turning = _bursts(rng, (units, frames), dt, 0.02 * motion.turn / 0.25, 0.8)
    heading = heading + np.cumsum(turning * rng.normal(0, 1.5, (units, 1)) * dt, axis=1)
    pace = motion.speed * np.exp(rng.normal(0, motion.speed_spread, units)) * (rng.random(units) >= motion.standing)
    stopped = _bursts(rng, (units, frames), dt, motion.stop_rate, motion.stop_time)
    # Who has stopped may leave in another direction, even turn back, out of sight of the camera or not.
    leaves = (np.diff(stopped.astype(int), axis=1, prepend=0) < 0) & (rng.random((units, frames)) < 0.5)
    heading = heading + np.cumsum(leaves * rng.normal(0, 1.5, (units, frames)), axis=1)
    going = _low_pass(1.0 - stopped, float(np.exp(-dt / 0.35)))
    speed = pace[:, None] * going * (1 + 0.12 * _lasting(rng, (units, frames), dt, 1.5))
    step = speed * dt
    path_x, path_z = np.cumsum(step * np.cos(heading), 1), np.cumsum(step * np.sin(heading), 1)
    anchor = rng.integers(0, frames, units)
    rows = np.arange(units)
    path_x, path_z = path_x - path_x[rows, anchor][:, None], path_z - path_z[rows, anchor][:, None]
    # Members of a group keep about 0.7 m apart, mostly abreast.
    drift = 0.12 * grouped[:, None] * _smooth(rng, (count, frames), dt, 3.0)
    side = rng.normal(0, 0.75, count)
    back = rng.normal(0, 0.4, count)
    angle = heading[rows, anchor][unit]
    x = path_x[unit] + (-np.sin(angle) * side + np.cos(angle) * back)[:, None] + drift
    z = path_z[unit] + (np.cos(angle) * side + np.sin(angle) * back)[:, None]
    x += motion.agility * _smooth(rng, (count, frames), dt, motion.agility_time)
    start, stop = anchor - rng.exponential(motion.stay / dt, units), anchor + rng.exponential(motion.stay / dt, units)
    time = np.arange(frames)
    alive = (time >= start[:, None]) & (time <= stop[:, None])
    frequency = rng.normal(1.8, 0.15, count)[:, None]
    stride = np.abs(np.sin(np.pi * frequency * dt * time + rng.uniform(0, np.pi, count)[:, None])) - 0.64
    sideways = np.abs(np.cos(heading))[unit]
    width = np.exp(
        motion.gait * 3 * stride * going[unit] * (pace[unit] > 0)[:, None] * (0.3 + 0.7 * sideways)
        + motion.posture_width * _smooth(rng, (count, frames), dt, motion.posture_time)
        + rng.normal(0, 0.12, (count, 1))
    )
    height = np.exp(motion.posture_height * _smooth(rng, (count, frames), dt, motion.posture_time))
    seated = (pace[unit] == 0) & (rng.random(count) < 0.25)
    height = height * np.where(seated, 0.75, 1.0)[:, None]
    return _Paths(x, z, anchor[unit], unit, alive[unit], width, width, height, _GROUND)


def _stage(rng: np.random.Generator, config: SceneConfig, count: int) -> tuple[Floats, Floats]:
    """Places spread over the ground in view, none too near another. (count,), (count,)"""
    world = config.world
    z = world.near + (world.far - world.near) * rng.random(4 * count) ** world.depth_power
    x = rng.uniform(-0.42, 0.42, 4 * count) * z / world.focal
    chosen = [0]
    for _ in range(count - 1):  # farthest-point sampling, softened by the random pool
        gap = np.min((x[:, None] - x[chosen]) ** 2 + (z[:, None] - z[chosen]) ** 2, axis=1)
        gap[chosen] = -1
        chosen.append(int(np.argmax(gap * rng.uniform(0.3, 1, len(gap)))))
    return x[chosen], z[chosen]


@dataclass(frozen=True)
class _Rhythm:
    """When people are active. Time runs faster for the lively and stands still for those who hold a pose.

    common, own: (P, F) frames gone by on the troupe's and on each one's own clock; unison: the troupe's share.
    """

    common: Floats
    own: Floats
    unison: float

    def noise(self, rng: np.random.Generator, dt: float, seconds: float) -> Floats:
        """As :func:`_smooth`, (P, F), read off the clocks: partly the same for all."""
        length = int(max(self.common.max(), self.own.max())) + 2
        shared = _read(_smooth(rng, (1, length), dt, seconds), self.common)
        own = _read(_smooth(rng, (len(self.own), length), dt, seconds), self.own)
        return np.sqrt(self.unison) * shared + np.sqrt(1 - self.unison) * own

    def spells(self, rng: np.random.Generator, dt: float, rate: float, seconds: float) -> NDArray[np.bool_]:
        """As :func:`_bursts`, (P, F): partly of the troupe (most of it takes part), partly of each one."""
        shape = self.own.shape
        shared = _bursts(rng, (1, shape[1]), dt, self.unison * rate, seconds) & (rng.random((shape[0], 1)) < 0.8)
        return shared | _bursts(rng, shape, dt, (1 - self.unison) * rate, seconds)


def _read(values: Floats, clock: Floats) -> Floats:
    """Rows of values at fractional columns; one row serves all where there is one. (1 or P, L), (P, F) -> (P, F)"""
    before = clock.astype(np.intp)
    row = np.zeros((1, 1), np.intp) if len(values) == 1 else np.arange(len(values))[:, None]
    low = values[row, before]
    return low + (clock - before) * (values[row, before + 1] - low)


def _rhythm(rng: np.random.Generator, motion: MotionConfig, shape: tuple[int, int], dt: float) -> _Rhythm:
    spread = motion.liveliness

    def clock(mood: Floats) -> Floats:
        return np.cumsum(np.minimum(np.exp(spread * mood - spread**2 / 2), 5.0), axis=1)

    shared = _lasting(rng, (1, shape[1]), dt, 1.5)
    own = np.sqrt(0.5) * (shared + _lasting(rng, shape, dt, 1.5))
    late = np.abs(rng.normal(0, 0.08 / dt, (shape[0], 1)))  # nobody is exactly on the beat
    return _Rhythm(clock(shared) + late, clock(own), motion.unison)


def _shape(
    rng: np.random.Generator, motion: MotionConfig, rhythm: _Rhythm, dt: float
) -> tuple[Floats, Floats, Floats, Floats]:
    """Extents to the left and right, height, and lift of people who move more than their legs; see :class:`_Paths`."""
    count = len(rhythm.own)
    seconds = motion.posture_time
    both = 0.6 * rhythm.noise(rng, dt, seconds) + 0.5 * rhythm.noise(rng, dt, 5 * seconds)
    build = rng.normal(0, 0.08, (count, 1))
    left, right = (np.exp(motion.posture_width * (both + rhythm.noise(rng, dt, seconds)) + build) for _ in range(2))
    height = np.exp(motion.posture_height * (rhythm.noise(rng, dt, seconds) + 0.7 * rhythm.noise(rng, dt, 4 * seconds)))
    # Who kneels, bends or lies down becomes low and wide.
    keep = float(np.exp(-dt / 0.12))
    low = _low_pass(_low_pass(1.0 * rhythm.spells(rng, dt, motion.kneel_rate, motion.kneel_time), keep), keep)
    low = low * rng.uniform(0.15, 0.65, (count, 1))
    spread = rng.uniform(0.2, 2.0, (count, 1))
    return left * (1 + spread * low), right * (1 + spread * low), height * (1 - low), _jumps(rng, motion, rhythm, dt)


def _jumps(rng: np.random.Generator, motion: MotionConfig, rhythm: _Rhythm, dt: float) -> Floats:
    """(P, F) metres above the ground: parabolas of half a second."""
    count, frames = rhythm.own.shape
    steps = max(1, round(0.5 / dt))
    share = np.arange(steps) / steps
    off = rng.random((count, frames)) < (1 - rhythm.unison) * motion.jump_rate * dt
    off |= (rng.random((1, frames)) < rhythm.unison * motion.jump_rate * dt) & (rng.random((count, 1)) < 0.8)
    rise = rng.uniform(0.1, 0.5, (count, 1))
    return np.minimum(rise * lfilter(4 * share * (1 - share), [1.0], off.astype(float), axis=-1), rise)


def _within(config: SceneConfig, x: Floats, z: Floats) -> tuple[Floats, Floats]:
    """Places moved onto the part of the ground that is in view."""
    world = config.world
    z = np.clip(z, 0.85 * world.near, 1.15 * world.far)
    reach = 0.46 * z / world.focal
    return np.clip(x, -reach, reach), z


def _formation(rng: np.random.Generator, config: SceneConfig, count: int) -> tuple[Floats, Floats]:
    """Places of a troupe: scattered, in rows, in a ring or in a cluster. (count,), (count,)"""
    kind = rng.choice(["scattered", "rows", "ring", "cluster"], p=[0.45, 0.35, 0.1, 0.1])
    if kind == "scattered":
        return _stage(rng, config, count)
    world = config.world
    depth, middle = world.far - world.near, (world.near + world.far) / 2
    reach = 0.42 * middle / world.focal
    centre = rng.uniform(-0.3, 0.3) * reach
    who = np.arange(count)
    if kind == "rows":
        rows = int(rng.integers(1, max(2, round(np.sqrt(count) / 1.2)) + 1))
        columns = int(np.ceil(count / rows))
        row, column = who // columns, who % columns
        spacing = min(rng.uniform(0.8, 2.2), 2 * reach / columns)
        # Aligned rows stand behind one another, staggered ones in the gaps.
        x = centre + (column - (columns - 1) / 2 + rng.choice([0.0, 0.5], p=[0.3, 0.7]) * (row % 2)) * spacing
        z = middle + (row - (rows - 1) / 2) * min(rng.uniform(0.5, 1.2), depth / rows)
    elif kind == "ring":
        angle = 2 * np.pi * who / count + rng.uniform(0, 2 * np.pi)
        x = centre + rng.uniform(0.3, 0.9) * reach * np.cos(angle)
        z = middle + 0.5 * depth * np.sin(angle)
    else:
        size = min(0.4 * np.sqrt(count), 0.5 * reach) * rng.uniform(0.7, 1.5)
        x, z = centre + rng.normal(0, size, count), middle + rng.normal(0, 0.3 * depth, count)
    x, z = _within(config, x + rng.normal(0, 0.15, count), z + rng.normal(0, 0.1, count))
    order = rng.permutation(count)
    return x[order], z[order]


@dataclass(frozen=True)
class _Move:
    """A call of the dance: each one's goal (P, 2) metres, when they set off and how far the way bends; all (P,)."""

    goal: Floats
    start: Floats  # seconds
    bend: Floats  # metres beside the straight way


def _calls(rng: np.random.Generator, config: SceneConfig, place: Floats, seconds: float) -> list[_Move]:
    """What a troupe does in a scene: calls about ``swap_time`` apart, from the first places (P, 2) on."""
    count = len(place)
    calls = ["reform", "permute", "shift", "exchange", "hide"]
    liking = rng.dirichlet(np.full(len(calls), 0.8))  # a piece has its own mix
    moves: list[_Move] = []
    for begin in np.sort(
        rng.uniform(-config.motion.swap_time, seconds, rng.poisson(seconds / config.motion.swap_time + 1))
    ):
        call = rng.choice(calls, p=liking)
        goal, bend = place.copy(), np.zeros(count)
        late = rng.exponential(0.15, count)
        again = None
        if call == "reform":
            goal = np.stack(_formation(rng, config, count), 1)
            if rng.random() < 0.6:  # each takes the nearest place; otherwise they mix
                gap = ((place[:, None] - goal[None]) ** 2).sum(2)
                goal = goal[linear_sum_assignment(gap)[1]]
        elif call == "permute":
            moved = np.flatnonzero(rng.random(count) < rng.choice([0.3, 0.6, 1.0]))
            goal[moved] = goal[rng.permutation(moved)]
        elif call == "shift":  # lines pass each other
            line = place[:, 1] > np.median(place[:, 1]) if rng.random() < 0.7 else rng.random(count) < 0.5
            goal[:, 0] += np.where(line, 1, rng.choice([-1.0, 0.0])) * rng.choice([-1, 1]) * rng.uniform(0.4, 2.0)
        else:
            one, other = _couples(rng, place, 0.6)
            if call == "exchange":
                goal[one], goal[other] = place[other], place[one]
                bend[one], bend[other] = rng.normal(0, 0.3, len(one)), rng.normal(0, 0.3, len(one))
            else:  # behind or before another, there for a while, then back or on to the other side
                beside = np.stack([rng.normal(0, 0.25, len(one)), rng.choice([-0.5, 0.5, 0.7], len(one))], 1)
                goal[one] = place[other] + beside
                again = place.copy()
                on = rng.random(len(one)) < 0.5
                again[one] = np.where(on[:, None], 2 * place[other] - place[one], place[one])
        goal = np.stack(_within(config, goal[:, 0], goal[:, 1]), 1)
        moves.append(_Move(goal, begin + late, bend))
        if again is not None:
            goal = np.stack(_within(config, again[:, 0], again[:, 1]), 1)
            moves.append(_Move(goal, begin + late + rng.uniform(0.6, 3.0, count), np.zeros(count)))
        place = goal
    return moves


def _couples(rng: np.random.Generator, place: Floats, share: float) -> tuple[Ints, Ints]:
    """Disjoint pairs of people who are neighbours from left to right, a share of all."""
    order = np.argsort(place[:, 0] + rng.normal(0, 0.2, len(place)))
    one, other = order[:-1:2], order[1::2]
    if rng.random() < 0.5:
        one, other = other, one
    chosen = rng.random(len(one)) < share
    return one[chosen], other[chosen]


def _danced(rng: np.random.Generator, config: SceneConfig, place: Floats, dt: float) -> tuple[Floats, Floats]:
    """(P, F) paths through the places of all calls."""
    time = np.arange(config.num_frames) * dt
    x, z = (np.repeat(place[:, k : k + 1], config.num_frames, 1) for k in range(2))
    for move in _calls(rng, config, place, config.num_frames * dt):
        way = move.goal - place
        length = np.linalg.norm(way, axis=1)
        took = np.maximum(0.35, length * rng.uniform(0.5, 1.3, len(way)) / max(config.motion.speed, 0.2))[:, None]
        share = np.clip((time - move.start[:, None]) / took, 0, 1)
        aside = move.bend[:, None] * np.sin(np.pi * share) / np.maximum(length, 1e-9)[:, None]
        share = share**3 * (10 - 15 * share + 6 * share**2)  # minimum jerk (Flash and Hogan 1985)
        x += share * way[:, :1] - aside * way[:, 1:]
        z += share * way[:, 1:] + aside * way[:, :1]
        place = move.goal
    return x, z


def _circled(rng: np.random.Generator, motion: MotionConfig, x: Floats, z: Floats, dt: float) -> tuple[Floats, Floats]:
    """Couples that circle each other for some seconds now and then."""
    one, other = _couples(rng, np.stack([x[:, 0], z[:, 0]], 1), motion.partners)
    if not len(one):
        return x, z
    shape = (len(one), x.shape[1])
    keep = float(np.exp(-dt / 0.25))
    near = _low_pass(_low_pass(1.0 * _bursts(rng, shape, dt, 0.25, 4.0), keep), keep)
    pace = rng.choice([-1, 1], (len(one), 1)) * rng.uniform(0.7, 4.0, (len(one), 1))
    angle = rng.uniform(0, 2 * np.pi, (len(one), 1)) + np.cumsum(
        pace * np.exp(0.4 * _lasting(rng, shape, dt, 1.0)) * dt, axis=1
    )
    apart = rng.uniform(0.15, 0.6, (len(one), 1))
    x, z = x.copy(), z.copy()
    middle_x, middle_z = (x[one] + x[other]) / 2, (z[one] + z[other]) / 2
    for who, side in ((one, 1.0), (other, -1.0)):
        x[who] += near * (middle_x + side * apart * np.cos(angle) - x[who])
        z[who] += near * (middle_z + side * apart * np.sin(angle) - z[who])
    return x, z


def _dance(rng: np.random.Generator, config: SceneConfig, count: int, dt: float) -> _Paths:
    motion, shape = config.motion, (count, config.num_frames)
    rhythm = _rhythm(rng, motion, shape, dt)
    x, z = _danced(rng, config, np.stack(_formation(rng, config, count), 1), dt)
    x, z = _circled(rng, motion, x, z, dt)
    mirrored = np.where(rng.random((count, 1)) < 0.15, -1, 1)  # some do the troupe's steps the other way round
    x += motion.agility * mirrored * rhythm.noise(rng, dt, motion.agility_time)
    z += motion.agility * 0.5 * rhythm.noise(rng, dt, motion.agility_time)
    x += motion.roam * rhythm.noise(rng, dt, 2.5)
    z += 0.7 * motion.roam * rhythm.noise(rng, dt, 2.5)
    away = np.repeat(rng.random((count, 1)) < 0.1, shape[1], 1) & _bursts(rng, shape, dt, 0.03, 4.0)
    z = np.maximum(z, 0.6 * config.world.near)
    return _Paths(x, z, np.full(count, -1), np.arange(count), ~away, *_shape(rng, motion, rhythm, dt))


def _sport(rng: np.random.Generator, config: SceneConfig, count: int, dt: float) -> _Paths:
    motion, frames, world = config.motion, config.num_frames, config.world
    home_x, home_z = _stage(rng, config, count)
    shape, depth = (count, frames), world.far - world.near
    rhythm = _rhythm(rng, motion, shape, dt)
    reach = 0.3 * (world.near + world.far) / 2 / world.focal
    focus_x = reach * _smooth(rng, (1, frames), dt, 3.0)
    focus_z = 0.25 * depth * _smooth(rng, (1, frames), dt, 3.0)
    pull = rng.uniform(0.2, 0.9, (count, 1))
    # A place that wanders by sigma over tau seconds has speeds of about sigma / tau.
    x = home_x[:, None] + pull * (focus_x - 0.3 * home_x[:, None]) + 1.5 * motion.speed * rhythm.noise(rng, dt, 1.5)
    z = home_z[:, None] + pull * focus_z + 1.5 * motion.speed * rhythm.noise(rng, dt, 1.5)
    x += motion.agility * rhythm.noise(rng, dt, motion.agility_time)
    z = np.clip(z, 0.6 * world.near, None)
    alive = np.ones(shape, bool)
    return _Paths(x, z, np.full(count, -1), np.arange(count), alive, *_shape(rng, motion, rhythm, dt))


_MOTIONS: dict[str, Callable[[np.random.Generator, SceneConfig, int, float], _Paths]] = {
    "walk": _walk,
    "dance": _dance,
    "sport": _sport,
}


# --- the camera --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Camera:
    """Where the camera is and what its view does. place_x, place_z: (F,) metres; view: (F, 2, 3) image to image."""

    focal: float
    centre: float
    horizon: float
    place_x: Floats
    place_z: Floats
    view: Floats


def _camera(rng: np.random.Generator, config: SceneConfig, dt: float) -> _Camera:
    camera, world, frames = config.camera, config.world, config.num_frames

    def wave(amplitude: float, seconds: float) -> Floats:
        return amplitude * _smooth(rng, (1, frames), dt, seconds)[0] if amplitude else np.zeros(frames)

    slide = config.width * wave(camera.pan, camera.pan_time)
    # A camera in the street wanders off; one that films a stage or a match stays on it.
    if config.motion.kind == "walk":
        slide = np.cumsum(slide) * dt
    else:
        limit = 0.25 * config.width
        slide = limit * np.tanh(slide * camera.pan_time / limit)
    tremor_x, tremor_y = (config.width * wave(camera.shake, camera.shake_time) for _ in range(2))
    if camera.forward:  # the carrier's steps
        tremor_y += config.width * camera.shake * np.sin(2 * np.pi * 1.8 * dt * np.arange(frames))
    angle, scale = wave(camera.roll, 2 * camera.shake_time), np.exp(wave(camera.zoom, camera.zoom_time))
    linear = np.stack([np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)], 1).reshape(-1, 2, 2)
    linear *= scale[:, None, None]
    middle = np.array([config.width / 2, config.height / 2])
    shift = middle - linear @ middle + np.stack([slide + tremor_x, 0.15 * slide + tremor_y], 1)
    along = np.cumsum(1 + 0.2 * wave(1.0, 2.0)) * dt
    return _Camera(
        focal=world.focal * config.width,
        centre=config.width / 2,
        horizon=world.horizon * config.height,
        place_x=camera.sideways * along,
        place_z=camera.forward * along,
        view=np.concatenate([linear, shift[:, :, None]], 2),
    )


def _homogeneous(maps: Floats) -> Floats:
    """(F, 2, 3) affine maps as (F, 3, 3) matrices."""
    last = np.broadcast_to(np.array([0.0, 0.0, 1.0]), (len(maps), 1, 3))
    return np.concatenate([maps, last], 1)


def _camera_warps(rng: np.random.Generator, config: SceneConfig, camera: _Camera) -> Floats:
    """(F, 2, 3): frame k-1 to frame k. A camera that travels has no exact warp; the best affine map is taken."""
    frames, world = config.num_frames, config.world
    parallax = np.zeros((frames, 2, 3))
    parallax[:] = np.eye(3)[:2]
    if config.camera.forward or config.camera.sideways:
        depth = np.exp(rng.uniform(np.log(world.near), np.log(4 * world.far), 60))
        x = rng.uniform(-0.5, 0.5, 60) * config.width / camera.focal * depth
        high = rng.uniform(-world.camera_height, 6, 60)
        before = np.stack([x / depth, -high / depth], 1) * camera.focal + [camera.centre, camera.horizon]
        moved_x = x - np.diff(camera.place_x, prepend=camera.place_x[:1])[:, None]
        moved_z = np.maximum(depth - np.diff(camera.place_z, prepend=camera.place_z[:1])[:, None], 0.5)
        after = np.stack([moved_x / moved_z, -high / moved_z], 2) * camera.focal + [camera.centre, camera.horizon]
        design = np.concatenate([before, np.ones((60, 1))], 1)
        parallax = (np.linalg.pinv(design) @ after).transpose(0, 2, 1)
    view = _homogeneous(camera.view)
    warps = np.zeros((frames, 3, 3))
    warps[0] = np.eye(3)
    if frames > 1:
        warps[1:] = view[1:] @ _homogeneous(parallax)[1:] @ np.linalg.inv(view[:-1])
    return warps[:, :2]


def _estimated_warps(rng: np.random.Generator, config: SceneConfig, warps: Floats) -> Floats:
    """What an estimator makes of the true warps: noise of shift and scale, and frames where it fails."""
    camera, frames = config.camera, config.num_frames
    if not camera.warp_noise and not camera.warp_failures:
        return warps
    out = warps.copy()
    pixels = camera.warp_noise * config.width / 1920
    linear = rng.normal(0, pixels / config.width, (frames, 2, 2))
    out[:, :, :2] += linear
    middle = np.array([config.width / 2, config.height / 2])
    out[:, :, 2] += rng.normal(0, pixels, (frames, 2)) - linear @ middle
    lost = rng.random(frames) < camera.warp_failures
    lost[:1] = True
    out[lost] = np.eye(3)[:2]
    return out


# --- people in the image -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _People:
    """Rows (one person in one frame), sorted by person and frame."""

    person: Ints
    frame: Ints
    identity: Ints
    box: Floats
    depth: Floats
    count: int  # persons


def _projected(camera: _Camera, world: WorldConfig, x: Floats, z: Floats) -> tuple[Floats, Floats, Floats]:
    """Foot point (before the view's own motion) and pixels a metre of places on the ground, (P, F) each."""
    scale = camera.focal / np.maximum(z - camera.place_z, 0.3)
    return camera.centre + (x - camera.place_x) * scale, camera.horizon + world.camera_height * scale, scale


def _placed(rng: np.random.Generator, config: SceneConfig, camera: _Camera, paths: _Paths) -> tuple[Floats, Floats]:
    """Ground places with each unit moved so that it is in view at its anchor frame."""
    if (paths.anchor < 0).all():
        return paths.x + camera.place_x, paths.z + camera.place_z
    world, units = config.world, int(paths.unit.max()) + 1
    z = world.near + (world.far - world.near) * rng.random(units) ** world.depth_power
    first = np.unique(paths.unit, return_index=True)[1]
    frame = paths.anchor[first]
    # The image point that the anchor is to have, taken back through the view at that frame.
    view = _homogeneous(camera.view)[frame]
    seen = np.stack([rng.uniform(0, config.width, units), np.full(units, config.height / 2), np.ones(units)], 1)
    u = np.linalg.solve(view, seen[:, :, None])[:, 0, 0]
    place_x = camera.place_x[frame] + (u - camera.centre) * z / camera.focal
    place_z = camera.place_z[frame] + z
    return paths.x + place_x[paths.unit][:, None], paths.z + place_z[paths.unit][:, None]


def _inside_share(boxes: Floats, width: float, height: float) -> Floats:
    clipped = np.clip(boxes, 0, [width, height, width, height])
    return area(clipped) / np.maximum(area(boxes), 1e-9)


def _boxes(
    rng: np.random.Generator, config: SceneConfig, camera: _Camera, paths: _Paths
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(P, F, 4) boxes in the image, (P, F) distances and whether the person is in the scene."""
    world, frames = config.world, config.num_frames
    x, z = _placed(rng, config, camera, paths)
    foot_x, foot_y, scale = _projected(camera, world, x, z)
    stature = _STATURE * np.exp(rng.normal(0, world.stature_spread, (len(x), 1)))
    stature = stature * np.where(rng.random((len(x), 1)) < 0.04, 0.65, 1.0)  # children
    high = stature * paths.height * scale
    half = world.aspect * stature * scale / 2
    foot_y = foot_y - paths.lift * scale
    boxes = np.stack([foot_x - half * paths.left, foot_y - high, foot_x + half * paths.right, foot_y], 2)
    flat = warp_boxes(boxes.reshape(-1, 4), np.tile(camera.view, (len(x), 1, 1))).reshape(boxes.shape)
    share = _inside_share(flat.reshape(-1, 4), config.width, config.height).reshape(len(x), frames)
    distance = z - camera.place_z
    seen = paths.alive & (share > world.min_inside) & (distance > 0.8) & (flat[..., 3] - flat[..., 1] > 4)
    return flat, distance, seen


def _chosen_units(
    rng: np.random.Generator, config: SceneConfig, unit: Ints, seen: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Which candidates enter the scene so that on average ``people`` are in view; (P,) mask.

    Candidates are placed in view at a random moment, which favours those who stay long; taking them with a chance of
    one over their time in view restores the mix of a scene that people enter one by one.
    """
    length = np.bincount(unit, seen.sum(1))
    members = np.maximum(np.bincount(unit), 1)
    mean_stay = np.maximum(length / members, 1)
    key = rng.exponential(1.0, len(length)) * mean_stay
    order = np.argsort(key)
    total = np.cumsum(length[order])
    take = order[: int(np.searchsorted(total, config.people * config.num_frames)) + 1]
    return np.isin(unit, take)


def _people(rng: np.random.Generator, config: SceneConfig, camera: _Camera, dt: float) -> _People:
    fixed = config.motion.kind != "walk"
    needed = config.people * (1 if fixed else 3 + 3 * config.num_frames * dt / 15)
    paths = _MOTIONS[config.motion.kind](rng, config, max(1, round(needed)), dt)
    boxes, distance, seen = _boxes(rng, config, camera, paths)
    if not fixed:
        seen &= _chosen_units(rng, config, paths.unit, seen)[:, None]
    alive = np.flatnonzero(seen.any(1))
    person, frame = np.nonzero(seen[alive])
    row = alive[person]
    new_run = np.ones(len(person), bool)
    new_run[1:] = (np.diff(person) != 0) | (np.diff(frame) > (np.inf if config.world.keep_identity else 1))
    return _People(person, frame, np.cumsum(new_run), boxes[row, frame], distance[row, frame], len(alive))


# --- who hides whom ----------------------------------------------------------------------------------------------


def _overlapping(frame: Ints, boxes: Floats) -> tuple[Ints, Ints]:
    """All pairs of rows (i, j), each once, whose boxes share some area in the same frame.

    A sweep over boxes sorted by frame and left edge: once the neighbour ``k`` places on begins right of a box's end,
    so do all later ones, so the work is proportional to the pairs that overlap horizontally.
    """
    order = np.lexsort((boxes[:, 0], frame))
    left, right, moment = boxes[order, 0], boxes[order, 2], frame[order]
    active = np.arange(len(order))
    first: list[Ints] = []
    second: list[Ints] = []
    step = 1
    while active.size:
        active = active[active + step < len(order)]
        other = active + step
        near = (moment[other] == moment[active]) & (left[other] < right[active])
        active, other = active[near], other[near]
        touch = (boxes[order[active], 1] < boxes[order[other], 3]) & (boxes[order[other], 1] < boxes[order[active], 3])
        first.append(order[active[touch]])
        second.append(order[other[touch]])
        step += 1
    return (np.concatenate(first), np.concatenate(second)) if first else (np.zeros(0, np.intp), np.zeros(0, np.intp))


@dataclass(frozen=True)
class _View:
    """What is left of each row after occlusion. Rows as in _People."""

    visible: Floats  # (N,) share of the box
    part: Floats  # (N, 4) bounds of the visible part, as shares of the box
    hider: Ints  # (N,) the row that hides most of it, -1 for none or a static thing
    crowd: Floats  # (N,) largest IoU with another person's box
    pairs: tuple[Ints, Ints]  # overlapping rows, the first one behind


def _occluders(rng: np.random.Generator, config: SceneConfig, camera: _Camera) -> tuple[Ints, Floats, Floats]:
    """Static things: frame, box and distance of each in each frame."""
    count = int(rng.poisson(config.world.occluders))
    world, frames = config.world, config.num_frames
    if not count:
        return np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0)
    z = rng.uniform(0.6 * world.near, 0.7 * world.far, count)[:, None] + camera.place_z
    x = (rng.uniform(-0.5, 0.5, count) / world.focal * z[:, 0])[:, None] + camera.place_x[:1]
    z = np.repeat(z[:, :1], frames, 1) if config.camera.forward else z
    foot_x, foot_y, scale = _projected(camera, world, np.repeat(x, frames, 1), z)
    pole = rng.random(count) < 0.5
    wide = np.where(pole, rng.uniform(0.12, 0.4, count), rng.uniform(0.8, 4, count))[:, None]
    high = np.where(pole, rng.uniform(2, 6, count), rng.uniform(0.5, 1.6, count))[:, None]
    boxes = np.stack([foot_x - wide * scale / 2, foot_y - high * scale, foot_x + wide * scale / 2, foot_y], 2)
    boxes = warp_boxes(boxes.reshape(-1, 4), np.tile(camera.view, (count, 1, 1)))
    depth = (z - camera.place_z).reshape(-1)
    keep = depth > 0.5
    return np.tile(np.arange(frames), count)[keep], boxes[keep], depth[keep]


def _visibility(rng: np.random.Generator, config: SceneConfig, camera: _Camera, people: _People) -> _View:
    things_frame, things_box, things_depth = _occluders(rng, config, camera)
    rows = len(people.frame)
    boxes = np.concatenate([people.box, things_box])
    depth = np.concatenate([people.depth, things_depth])
    first, second = _overlapping(np.concatenate([people.frame, things_frame]), boxes)
    nearer = depth[first] < depth[second]
    behind, front = np.where(nearer, second, first), np.where(nearer, first, second)
    mine = behind < rows
    behind, front = behind[mine], front[mine]
    order = np.argsort(behind, kind="stable")
    behind, front = behind[order], front[order]
    hidden = _outside_cells(people.box, config.width, config.height)
    if len(behind):
        cells = _covered_cells(boxes[behind], boxes[front])
        start = np.flatnonzero(np.diff(behind, prepend=-1))
        hidden[behind[start]] |= np.logical_or.reduceat(cells, start, axis=0)
        share = cells.mean(1)
    else:
        share = np.zeros(0)
    hider = np.full(rows, -1, np.intp)
    by_share = np.argsort(share, kind="stable")
    hider[behind[by_share]] = front[by_share]
    hider[hider >= rows] = -1
    both = front < rows
    overlap = iou_pairs(people.box[behind[both]], people.box[front[both]])
    crowd = np.zeros(rows)
    np.maximum.at(crowd, behind[both], overlap)
    np.maximum.at(crowd, front[both], overlap)
    grid = ~hidden.reshape(rows, _GRID_ROWS, _GRID_COLUMNS)
    return _View(1 - hidden.mean(1), _extent(grid), hider, crowd, (behind[both], front[both]))


def _cell_centres() -> tuple[Floats, Floats]:
    return (np.arange(_GRID_COLUMNS) + 0.5) / _GRID_COLUMNS, (np.arange(_GRID_ROWS) + 0.5) / _GRID_ROWS


def _covered_cells(box: Floats, other: Floats) -> NDArray[np.bool_]:
    """Which grid cells of each box lie in the other. (N, 4), (N, 4) -> (N, cells)"""
    columns, rows = _cell_centres()
    x = box[:, :1] + (box[:, 2:3] - box[:, :1]) * columns
    y = box[:, 1:2] + (box[:, 3:4] - box[:, 1:2]) * rows
    # A body fills about four fifths of its box's width.
    trim = 0.1 * (other[:, 2:3] - other[:, :1])
    in_x = (x > other[:, :1] + trim) & (x < other[:, 2:3] - trim)
    in_y = (y > other[:, 1:2]) & (y < other[:, 3:4])
    return (in_y[:, :, None] & in_x[:, None, :]).reshape(len(box), -1)


def _outside_cells(box: Floats, width: float, height: float) -> NDArray[np.bool_]:
    columns, rows = _cell_centres()
    x = box[:, :1] + (box[:, 2:3] - box[:, :1]) * columns
    y = box[:, 1:2] + (box[:, 3:4] - box[:, 1:2]) * rows
    out_x, out_y = (x < 0) | (x > width), (y < 0) | (y > height)
    return (out_y[:, :, None] | out_x[:, None, :]).reshape(len(box), _GRID_ROWS * _GRID_COLUMNS)


def _extent(grid: NDArray[np.bool_]) -> Floats:
    """Bounds of the true cells as shares of the box; the whole box where there are none. (N, R, C) -> (N, 4)"""
    across, down = np.logical_or.reduce(grid, axis=1), np.logical_or.reduce(grid, axis=2)
    part = np.stack(
        [
            across.argmax(1) / _GRID_COLUMNS,
            down.argmax(1) / _GRID_ROWS,
            1 - across[:, ::-1].argmax(1) / _GRID_COLUMNS,
            1 - down[:, ::-1].argmax(1) / _GRID_ROWS,
        ],
        1,
    )
    part[~across.any(1)] = [0, 0, 1, 1]
    return part


# --- the detector ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Candidates:
    """Boxes before threshold and suppression; ``person`` is the row of _People that caused it, -1 for none."""

    frame: Ints
    box: Floats
    quality: Floats
    person: Ints
    source: Ints  # equal for boxes with a common look: below 0 for things of the background


def _quality(rng: np.random.Generator, config: SceneConfig, people: _People, view: _View, dt: float) -> Floats:
    detector, shape = config.detector, (people.count, config.num_frames)
    at = (people.person, people.frame)
    high = (people.box[:, 3] - people.box[:, 1]) / (detector.small * config.height)
    hidden = np.log(np.clip(view.visible, 0.02, 1)) - 2.0 * (view.visible < 0.05)
    lasting = detector.slow_sd * _lasting(rng, shape, dt, detector.slow_time) + detector.fast_sd * _lasting(
        rng, shape, dt, 0.12
    )
    lasting -= rng.uniform(1, 6, (people.count, 1)) * _bursts(rng, shape, dt, detector.burst_rate, detector.burst_time)
    out: Floats = (
        detector.base
        + detector.visibility_gain * hidden
        + detector.size_gain * np.minimum(np.log(high), 0)
        + rng.normal(0, detector.person_sd, people.count)[people.person]
        + lasting[at]
        + rng.normal(0, detector.white_sd, len(people.frame))
    )
    return out


def _jittered(
    rng: np.random.Generator, config: SceneConfig, people: _People, view: _View, quality: Floats, dt: float
) -> Floats:
    """The detector's own boxes: drawn towards the visible part, with errors that last."""
    detector, shape = config.detector, (people.count, config.num_frames)
    size = people.box[:, 2:] - people.box[:, :2]
    drawn = rng.beta(2, 2, (people.count, 1)) * 2 * detector.shrink
    towards = np.clip(drawn[people.person], 0, 1)
    low, high = people.box[:, :2] + size * view.part[:, :2], people.box[:, :2] + size * view.part[:, 2:]
    box = people.box + towards * (np.concatenate([low, high], 1) - people.box)
    at = (people.person, people.frame)
    # Some people, and some moments, are much harder to box than others: errors are heavy-tailed.
    hard = np.exp(0.5 * _lasting(rng, shape, dt, 1.5)[at] + rng.normal(0, 0.35, people.count)[people.person])
    unsure = np.exp(detector.jitter_unsure * np.clip(_SURE - detector.sharpness * quality, -1, 4))
    amount = detector.jitter * hard * unsure * (1 + detector.jitter_occluded * (1 - view.visible))
    # Arms and legs make left and right edges more uncertain, relative to the width, than top and bottom.
    scale = np.concatenate([2.5 * size[:, :1], size[:, 1:]], 1) * amount[:, None]
    errors = np.empty((len(people.frame), 4))
    for side in range(4):
        slow = 0.45 * _lasting(rng, shape, dt, 1.2)[at] + 0.9 * _lasting(rng, shape, dt, 0.15)[at]
        quick = rng.standard_normal(len(people.frame))
        errors[:, side] = np.sqrt(detector.jitter_slow) * slow + np.sqrt(1 - detector.jitter_slow) * quick
    box = box + errors * np.tile(scale, 2)
    box[:, 2:] = np.maximum(box[:, 2:], box[:, :2] + 2)
    return box


def _unsure(
    rng: np.random.Generator, config: SceneConfig, people: _People, row: Ints, quality: Floats, level: float, dt: float
) -> Floats:
    """Quality of boxes that are not the detector's answer for a person, but lie on the people of ``row``: (K,).

    It is a level of its own, little of the person's: however sure a detector is of somebody, what it reports besides
    it reports with little confidence.
    """
    lasting = _lasting(rng, (people.count, config.num_frames), dt, 0.35)
    noise = 0.85 * lasting[people.person[row], people.frame[row]] + rng.normal(0, 0.25, len(row))
    return level + 0.2 * np.clip(quality[row] - config.detector.base, -5, 2) + noise


def _second_boxes(
    rng: np.random.Generator, config: SceneConfig, people: _People, view: _View, own: Floats, quality: Floats, dt: float
) -> _Candidates:
    """Duplicates: boxes of a person's shape beside the person, mostly sideways, for a while."""
    detector, shape = config.detector, (people.count, config.num_frames)
    row = np.flatnonzero(_bursts(rng, shape, dt, detector.duplicates, 0.5)[people.person, people.frame])
    at = (people.person[row], people.frame[row])
    size = own[row, 2:] - own[row, :2]
    shift = np.stack([spread * _lasting(rng, shape, dt, 0.4)[at] for spread in (0.3, 0.06)], 1)
    grown = np.stack([_lasting(rng, shape, dt, 0.4)[at] for _ in range(2)], 1) * 0.18 - 0.04
    middle = (own[row, :2] + own[row, 2:]) / 2 + shift * size
    half = size * np.exp(grown) / 2
    box = np.concatenate([middle - half, middle + half], 1) + rng.normal(0, 0.02, (len(row), 4)) * np.tile(size, 2)
    level = _unsure(rng, config, people, row, quality, detector.duplicate_quality, dt) + 2 * view.crowd[row]
    return _candidates(people.frame[row], box, level, row, people.person[row])


def _candidates(
    frame: Ints, box: Floats, quality: Floats, person: Ints | None = None, source: Ints | None = None
) -> _Candidates:
    none = np.full(len(frame), -1, np.intp)
    return _Candidates(
        frame,
        box,
        quality,
        none if person is None else person,
        none if source is None else source,
    )


def _plausible_boxes(rng: np.random.Generator, config: SceneConfig, count: int) -> Floats:
    """Boxes of a person's shape anywhere in the image, sized roughly as a person there would be. (count, 4)"""
    world = config.world
    z = np.exp(rng.uniform(np.log(world.near), np.log(1.5 * world.far), count))
    scale = world.focal * config.width / z
    high = _STATURE * scale * np.exp(rng.normal(-0.2, 0.5, count))
    wide = world.aspect * high * np.exp(rng.normal(0.05, 0.3, count))
    x = rng.uniform(0, config.width, count)
    on_ground = world.horizon * config.height + world.camera_height * scale
    anywhere = rng.uniform(0.1, 1.1, count) * config.height
    foot = np.where(rng.random(count) < 0.6, on_ground * np.exp(rng.normal(0, 0.08, count)), anywhere)
    return np.stack([x - wide / 2, foot - high, x + wide / 2, foot], 1)


def _spots(rng: np.random.Generator, config: SceneConfig, camera: _Camera, warps: Floats, dt: float) -> _Candidates:
    """Things of the background that are taken for a person again and again; they move with the background."""
    clutter, frames = config.clutter, config.num_frames
    count = int(rng.poisson(clutter.spots * (1 + 2 * abs(config.camera.pan) * frames * dt)))
    shape = (count, frames)
    if not count:
        return _candidates(np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0))
    # Placed at a frame of their own, then carried through the video by the true warps.
    total = np.empty((frames, 3, 3))
    total[0] = np.eye(3)
    for k, step in enumerate(_homogeneous(warps)[1:], start=1):
        total[k] = step @ total[k - 1]
    birth = rng.integers(0, frames, count)
    maps = (total[None] @ np.linalg.inv(total[birth])[:, None])[:, :, :2]
    start = _plausible_boxes(rng, config, count)
    box = warp_boxes(np.repeat(start, frames, 0), maps.reshape(-1, 2, 3))
    level = rng.normal(clutter.spot_quality, 1.0, (count, 1)) + 0.7 * _lasting(rng, shape, dt, 3.0)
    level = (level + 0.6 * _lasting(rng, shape, dt, 0.15) + 0.3 * rng.standard_normal(shape)).reshape(-1)
    box += rng.normal(0, 0.02, (len(box), 4)) * np.tile(box[:, 2:] - box[:, :2], 2)
    frame = np.tile(np.arange(frames), count)
    source = -2 - np.repeat(np.arange(count), frames)
    keep = _inside_share(box, config.width, config.height) > 0.3
    return _candidates(frame[keep], box[keep], level[keep], source=source[keep])


def _reflections(
    rng: np.random.Generator, config: SceneConfig, people: _People, own: Floats, quality: Floats
) -> _Candidates:
    """People seen a second time in a vertical mirror at a random place."""
    out = [_candidates(np.zeros(0, np.intp), np.zeros((0, 4)), np.zeros(0))]
    for _ in range(int(rng.poisson(config.clutter.reflections))):
        mirror, width = rng.uniform(0, config.width), rng.uniform(0.05, 0.3) * config.width
        x = 2 * mirror - (own[:, 0] + own[:, 2]) / 2
        row = np.flatnonzero(np.abs(x - mirror) < width)
        shrink = rng.uniform(0.7, 0.95)
        half = (own[row, 2:] - own[row, :2]) * shrink / 2
        middle = np.stack([x[row], (own[row, 1] + own[row, 3]) / 2 - half[:, 1] * (1 - shrink)], 1)
        level = quality[row] + config.clutter.reflection_quality + rng.normal(0, 0.5, len(row))
        out.append(_candidates(people.frame[row], np.concatenate([middle - half, middle + half], 1), level))
    return _joined(out)


def _flicker(rng: np.random.Generator, config: SceneConfig) -> _Candidates:
    """Boxes at random places that last a frame or a few."""
    clutter, frames = config.clutter, config.num_frames
    count = int(rng.poisson(clutter.flicker * frames * 0.6))
    length = rng.geometric(0.6, count)
    event = np.repeat(np.arange(count), length)
    offset = np.arange(len(event)) - np.repeat(np.cumsum(length) - length, length)
    frame = rng.integers(0, max(frames, 1), count)[event] + offset
    box = _plausible_boxes(rng, config, count)[event]
    box += rng.normal(0, 0.04, (len(box), 4)) * np.tile(box[:, 2:] - box[:, :2], 2)
    level = rng.normal(clutter.flicker_quality, 1.0, count)[event] + rng.normal(0, 0.4, len(event))
    keep = frame < frames
    return _candidates(frame[keep], box[keep], level[keep])


def _parts(
    rng: np.random.Generator, config: SceneConfig, people: _People, own: Floats, quality: Floats, dt: float
) -> _Candidates:
    """Boxes of heads and shoulders, trunks or legs."""
    clutter, shape = config.clutter, (people.count, config.num_frames)
    on = _bursts(rng, shape, dt, clutter.parts / 0.4, 0.4)[people.person, people.frame]
    row = np.flatnonzero(on)
    kind = rng.integers(0, 3, people.count)[people.person[row]]
    share = np.array([[0.1, 0.0, 0.9, 0.45], [0.0, 0.1, 1.0, 0.7], [0.05, 0.45, 0.95, 1.0]])[kind]
    size = own[row, 2:] - own[row, :2]
    box = np.tile(own[row, :2], 2) + (share + rng.normal(0, 0.03, share.shape)) * np.tile(size, 2)
    level = _unsure(rng, config, people, row, quality, clutter.parts_quality, dt)
    return _candidates(people.frame[row], box, level, source=people.person[row])


def _pairs(
    rng: np.random.Generator, config: SceneConfig, people: _People, view: _View, own: Floats, quality: Floats, dt: float
) -> _Candidates:
    """Boxes that mix two people who overlap: each side is the one's, the other's, or lies between."""
    clutter, shape = config.clutter, (people.count, config.num_frames)
    behind, front = view.pairs
    on = _bursts(rng, shape, dt, clutter.pairs / 0.5, 0.5)[people.person[behind], people.frame[behind]]
    behind, front = behind[on], front[on]
    shared = iou_pairs(people.box[behind], people.box[front])
    near = shared > 0.1
    behind, front, shared = behind[near], front[near], shared[near]
    # Every pair has its own mix for as long as it lasts.
    taste = rng.random((people.count, 4))
    mix = (taste[people.person[behind]] + taste[people.person[front]]) % 1
    box = own[behind] + np.clip(1.5 * mix - 0.25, 0, 1) * (own[front] - own[behind])
    box += rng.normal(0, 0.02, (len(behind), 4)) * np.tile(own[behind, 2:] - own[behind, :2], 2)
    level = _unsure(rng, config, people, behind, quality, clutter.pairs_quality, dt) + 2 * shared
    return _candidates(people.frame[behind], box, level, behind, people.person[behind])


def _joined(parts: list[_Candidates]) -> _Candidates:
    names = ("frame", "box", "quality", "person", "source")
    return _Candidates(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _reported(rng: np.random.Generator, config: SceneConfig, candidates: _Candidates) -> tuple[Ints, Floats, Floats]:
    """Rows that the detector reports, their boxes and scores: threshold, then suppression of overlaps."""
    detector = config.detector
    quality = np.clip(detector.sharpness * candidates.quality, -30, 30)
    score = detector.cap / (1 + np.exp(-quality))
    score = np.clip(score * np.exp(rng.normal(0, 0.01, len(score))), 0, 1)
    box = candidates.box
    if detector.clip:
        box = np.clip(box, 0, [config.width, config.height, config.width, config.height])
    fine = (score >= detector.threshold) & (box[:, 2] - box[:, 0] > 1) & (box[:, 3] - box[:, 1] > 1)
    row = np.flatnonzero(fine & (_inside_share(candidates.box, config.width, config.height) > 0.05))
    first, second = _overlapping(candidates.frame[row], box[row])
    much = iou_pairs(box[row[first]], box[row[second]]) > detector.nms
    first, second = first[much], second[much]
    weaker = np.where(score[row[first]] < score[row[second]], first, second)
    row = np.delete(row, np.unique(weaker))
    return row, box[row].round(2), score[row]


def _identities(candidates: _Candidates, row: Ints, box: Floats, people: _People) -> Ints:
    """True identity of each reported box; at most one a person and frame, IoU with the true box >= 0.5."""
    person = candidates.person[row]
    known = np.flatnonzero(person >= 0)
    overlap = iou_pairs(box[known], people.box[person[known]])
    good = overlap >= 0.5
    known, overlap = known[good], overlap[good]
    order = np.lexsort((-overlap, person[known]))
    known = known[order]
    first = np.diff(person[known], prepend=-1) != 0
    out = np.zeros(len(row), np.intp)
    out[known[first]] = people.identity[person[known[first]]]
    return out


# --- appearance --------------------------------------------------------------------------------------------------


def _unit(vectors: Floats) -> Floats:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-9)


def _embeddings(
    rng: np.random.Generator,
    config: EmbedderConfig,
    people: _People,
    view: _View,
    candidates: _Candidates,
    row: Ints,
    dt: float,
) -> NDArray[np.float32]:
    """(N, D) unit vectors: the person's look, pose, noise, and whoever stands in front."""
    dim, size = config.dim, (len(row), config.dim)
    kinds = _unit(rng.standard_normal((config.clothing, dim)))
    own = _unit(rng.standard_normal((people.count, dim)))
    kind = kinds[rng.integers(0, config.clothing, people.count)]
    look = _unit(np.sqrt(config.likeness) * kind + np.sqrt(1 - config.likeness) * own)
    poses = _unit(rng.standard_normal((4, dim)))
    person, source = candidates.person[row], candidates.source[row]
    somebody = np.where(person >= 0, people.person[person], np.where(source >= 0, source, -1))
    # Background things have a look of their own; random ones are all different.
    thing = _unit(rng.standard_normal((int(-source.min(initial=-1)) + 1, dim)))
    base = np.where((source < -1)[:, None], thing[np.clip(-source, 0, None)], _unit(rng.standard_normal(size)))
    base = np.where((somebody >= 0)[:, None], look[somebody], base)
    visible = np.where(person >= 0, view.visible[person], 1.0)
    hider = np.where(person >= 0, view.hider[person], -1)
    front = np.where((hider >= 0)[:, None], look[people.person[hider]], _unit(rng.standard_normal(size)))
    mixed = base + config.occlusion * ((1 - visible) / np.maximum(visible, 0.15))[:, None] * front
    phase = rng.uniform(0, 2 * np.pi, (people.count + 1, 4))
    pace = rng.uniform(0.2, 1.5, (people.count + 1, 4))  # radians a second
    swing = np.sin(phase[somebody] + pace[somebody] * (candidates.frame[row] * dt)[:, None])
    mixed = _unit(mixed) + config.pose * _unit(swing @ poses)
    noise = rng.standard_normal(size) / np.sqrt(dim)
    out = _unit(mixed + config.noise * (1 + (1 - visible))[:, None] * noise).astype(np.float32)
    out[rng.random(len(row)) < config.missing] = 0
    return out


# --- all together ------------------------------------------------------------------------------------------------


def generate_scene(seed: int, config: SceneConfig | None = None) -> Scene:
    """Make a scene; the same seed and configuration give the same scene.

    Args:
        seed: any non-negative integer.
        config: the kind of scene; the street preset where not given.

    Raises:
        InputError: the scene has no frame, or its size or rate are no video's.
    """
    config = config or PRESETS["street"]
    if config.num_frames < 1:
        raise InputError(f"scene {config.name!r}: {config.num_frames} frames; a scene has at least one")
    video = VideoInfo(f"{config.name}-{seed}", config.num_frames, config.width, config.height, config.fps)
    rng = np.random.default_rng(seed)
    dt = 1 / config.fps
    camera = _camera(rng, config, dt)
    exact = _camera_warps(rng, config, camera)
    people = _people(rng, config, camera, dt)
    view = _visibility(rng, config, camera, people)
    quality = _quality(rng, config, people, view, dt)
    own = _jittered(rng, config, people, view, quality, dt)
    rows = np.arange(len(people.frame))
    candidates = _joined(
        [
            _candidates(people.frame, own, quality, rows, people.person),
            _second_boxes(rng, config, people, view, own, quality, dt),
            _spots(rng, config, camera, exact, dt),
            _reflections(rng, config, people, own, quality),
            _flicker(rng, config),
            _parts(rng, config, people, own, quality, dt),
            _pairs(rng, config, people, view, own, quality, dt),
        ]
    )
    row, box, score = _reported(rng, config, candidates)
    identity = _identities(candidates, row, box, people)
    embedding = None
    if config.embedder and len(rows):  # appearance is of people; without any there is none to simulate
        embedding = _embeddings(rng, config.embedder, people, view, candidates, row, dt)
    visible = np.where(identity > 0, view.visible[candidates.person[row]], 0.0) if len(rows) else np.zeros(len(row))
    order, detections = _table(video, candidates.frame[row], box, score, embedding)
    return Scene(
        detections=detections,
        ground_truth=Tracks(
            video=video,
            frame=people.frame.astype(np.int32),
            track=people.identity.astype(np.int32),
            box=people.box.astype(np.float32),
            score=np.ones(len(rows), np.float32),
            detection=np.full(len(rows), -1, np.int64),
            label=np.zeros(len(rows), np.int16),
        ),
        visibility=view.visible.astype(np.float32),
        identity=identity[order].astype(np.int32),
        detection_visibility=visible[order].astype(np.float32),
        warps=_estimated_warps(rng, config, exact),
        exact_warps=exact,
        depth=people.depth.astype(np.float32),
        config=config,
        seed=seed,
    )


def _table(
    video: VideoInfo, frame: Ints, box: Floats, score: Floats, embedding: NDArray[np.float32] | None
) -> tuple[Ints, Detections]:
    """Detections in their order, and which input row each came from (equal boxes of a frame are reported once)."""
    boxes = box.astype(np.float32)
    order = np.lexsort((np.arange(len(frame)), -score, frame))
    _, first = np.unique(detection_ids(frame[order], boxes[order]), return_index=True)
    order = order[np.sort(first)]
    return order, Detections(
        video=video,
        frame=frame[order].astype(np.int32),
        box=boxes[order],
        score=score[order].astype(np.float32),
        label=np.zeros(len(order), np.int16),
        embedding=None if embedding is None else embedding[order],
    )
