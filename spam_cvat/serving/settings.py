"""Settings: what the environment tells the function, in one place.

In: environment variables. Out: a frozen :class:`Settings`. The login (``SPAM_CVAT_*``) is read by
:mod:`spam_cvat.cvat.connect`, the store (``SPAM_STORE``, ``SPAM_SERVER_NAME``) by :mod:`spam_cvat.cvat.store`;
:mod:`spam_cvat.serving.function` has the table of all of them.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from spam_cvat.errors import InputError

FUNCTION_NAMES = ("spam-cvat", "spam-cvat-cpu")
"""Names under which the function is deployed by the project's own files."""


@dataclass(frozen=True)
class Settings:
    """How the function runs.

    Attributes:
        function_names: names under which CVAT may call it.
        detector: spec of the detector, or ``task`` for rectangles that are in the task already.
        embedder: spec of the embedder, ``none`` for none.
        device: ``auto``, ``cpu`` or ``cuda``, for networks whose spec does not say.
        motion: whether camera motion is estimated from the frames.
        threshold: lowest score of a candidate box; None leaves it to the detector.
        plain_threshold: lowest score of a box that is shown when the function answers as a plain detector.
        plain: whether it may answer as a plain detector.
        labels: the task's label for a detector's label.
        weights: file of the hierarchy's weights; None for those shipped.
        verify_all: check every image against the task's frame, not only where it is needed.
        max_pixels: larger images are refused.
        call_seconds: a call that writes must be done by then; CVAT gives up after 120 s.
        wait_seconds: how long a direct call waits before it answers with its progress.
        fps: frames a second of the source, which CVAT does not tell.
    """

    function_names: tuple[str, ...] = FUNCTION_NAMES
    detector: str = "hog"
    embedder: str = "histogram"
    device: str = "auto"
    motion: bool = True
    threshold: float | None = None
    plain_threshold: float = 0.5
    plain: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    weights: str | None = None
    verify_all: bool = False
    max_pixels: int = 50_000_000
    call_seconds: float = 100.0
    wait_seconds: float = 20.0
    fps: float = 30.0

    @property
    def weights_path(self) -> Path | None:
        """The weights file, None for those shipped."""
        return Path(self.weights) if self.weights else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> "Settings":
        """Read the environment. Raises InputError where a value cannot be used."""
        given = os.environ if environment is None else environment
        name = given.get("SPAM_FUNCTION_NAME") or given.get("NUCLIO_FUNCTION_NAME")
        return cls(
            function_names=(name,) if name else FUNCTION_NAMES,
            detector=given.get("SPAM_DETECTOR") or cls.detector,
            embedder=given.get("SPAM_EMBEDDER") or cls.embedder,
            device=_choice(given, "SPAM_DEVICE", ("auto", "cpu", "cuda")),
            motion=_choice(given, "SPAM_MOTION", ("auto", "none")) == "auto",
            threshold=_number(given, "SPAM_THRESHOLD", None, 0, 1),
            plain_threshold=_number(given, "SPAM_PLAIN_THRESHOLD", cls.plain_threshold, 0, 1) or 0.0,
            plain=_choice(given, "SPAM_PLAIN", ("auto", "never")) == "auto",
            labels=parse_labels(given.get("SPAM_LABELS", "")),
            weights=given.get("SPAM_WEIGHTS_FILE") or None,
            verify_all=_choice(given, "SPAM_VERIFY", ("auto", "all")) == "all",
            max_pixels=int(_number(given, "SPAM_MAX_PIXELS", cls.max_pixels, 1, 1e9) or cls.max_pixels),
            call_seconds=_number(given, "SPAM_CALL_SECONDS", cls.call_seconds, 1, 86_400) or cls.call_seconds,
            wait_seconds=_number(given, "SPAM_WAIT_SECONDS", cls.wait_seconds, 0, 86_400) or 0.0,
            fps=_number(given, "SPAM_FPS", cls.fps, 0.01, 1000) or cls.fps,
        )


def on_device(spec: str, device: str) -> str:
    """A detector's or embedder's spec with the device, where it is a network's and does not name one.

    >>> on_device("onnx:net.onnx?threshold=0.1", "cuda"), on_device("hog", "cuda")
    ('onnx:net.onnx?threshold=0.1&device=cuda', 'hog')
    """
    if not spec.startswith("onnx:") or device == "auto" or "device=" in spec:
        return spec
    return f"{spec}{'&' if '?' in spec else '?'}device={device}"


def parse_labels(text: str) -> dict[str, str]:
    """Detector's label -> task's label from ``person=pedestrian,car=vehicle``.

    >>> parse_labels("person=pedestrian, car = vehicle")
    {'person': 'pedestrian', 'car': 'vehicle'}

    Raises:
        InputError: it reads otherwise.
    """
    pairs = [part.split("=") for part in text.split(",") if part.strip()]
    if any(len(pair) != 2 or not pair[0].strip() or not pair[1].strip() for pair in pairs):
        raise InputError(f"SPAM_LABELS={text!r}: write detector-label=task-label, parted by commas")
    return {detector.strip(): task.strip() for detector, task in pairs}


def _number(given: Mapping[str, str], name: str, default: float | None, low: float, high: float) -> float | None:
    text = given.get(name, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise InputError(f"{name}={text!r} is not a number") from error
    if not low <= value <= high:
        raise InputError(f"{name}={text}: must lie in {low:g}..{high:g}")
    return value


def _choice(given: Mapping[str, str], name: str, among: tuple[str, ...]) -> str:
    value = given.get(name, "").strip() or among[0]
    if value not in among:
        raise InputError(f"{name}={value!r}: write {' or '.join(among)}")
    return value
