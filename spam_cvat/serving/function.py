"""The function that CVAT calls: ``init_context`` and ``handler`` for Nuclio, and for the gateway that stands in for it.

In: CVAT's detector calls (``{"image": base64, "threshold"?}``), direct calls (``{"task": 7}``, ``{"job": 9}``), and
GET. Out: always a ``context.Response`` with JSON: for CVAT a list of shapes, else an object; errors are
``{"error": "one line"}`` with status 400 (the caller's fault), 413 (too large), 502 (CVAT's) or 500.

A call that belongs to a running request of *Automatic annotation* is answered with ``[]``, and the last one writes the
tracks; see :mod:`spam_cvat.serving.session`. Without a token, or for an image that belongs to no running request (the
single-frame tools of the page), the function is a plain detector, and says so in its log and in ``spam-cvat doctor``.

Environment:

===========================  =====================  ====================================================================
variable                     default                meaning
===========================  =====================  ====================================================================
``SPAM_CVAT_URL``            ``CVAT_SERVER``        the CVAT server as the function reaches it
``SPAM_CVAT_TOKEN``          ``CVAT_ACCESS_TOKEN``  access token that may write; without one: a plain detector
``SPAM_CVAT_ORGANIZATION``   none                   short name of the organization whose tasks are annotated
``SPAM_CVAT_INSECURE``       0                      1: do not check the TLS certificate
``SPAM_STORE``               the user's data        folder or fsspec URL, shared with the companion where possible
``SPAM_SERVER_NAME``         from the URL           one name for a server that function and companion reach differently
``SPAM_FUNCTION_NAME``       ``spam-cvat[-cpu]``    name under which CVAT lists the function, where Nuclio does not tell
``SPAM_DETECTOR``            ``hog``                ``hog``, ``onnx:FILE``, ``nuclio:URL`` or ``task``
``SPAM_EMBEDDER``            ``histogram``          ``histogram``, ``onnx:FILE`` or ``none``
``SPAM_DEVICE``              ``auto``               ``auto``, ``cpu`` or ``cuda``, for the networks
``SPAM_MOTION``              ``auto``               ``auto``: follow the camera; ``none``: it never moves
``SPAM_THRESHOLD``           the detector's own     lowest score of a candidate box; keep it low
``SPAM_PLAIN``               ``auto``               ``never``: refuse instead of answering as a plain detector
``SPAM_PLAIN_THRESHOLD``     0.5                    lowest score of a box that a plain detector shows
``SPAM_LABELS``              none                   ``person=pedestrian,...``: the task's label for a detector's label
``SPAM_WEIGHTS_FILE``        shipped                weights of the hierarchy
``SPAM_VERIFY``              ``auto``               ``all``: check every image (several replicas, no sticky calls)
``SPAM_FPS``                 30                     frames a second of the source, which CVAT does not tell
``SPAM_MAX_PIXELS``          50000000               larger images are refused
``SPAM_CALL_SECONDS``        100                    a call that writes must be done by then (CVAT waits 120 s)
``SPAM_WAIT_SECONDS``        20                     how long a direct call waits before it tells its progress
===========================  =====================  ====================================================================
"""

import base64
import binascii
import io
import json
import logging
import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np
import PIL.Image

from spam_cvat import __version__
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.store import Store
from spam_cvat.errors import CvatError, InputError, SpamError
from spam_cvat.serving.direct import DirectRuns
from spam_cvat.serving.harvest import Perception, PixelPerception
from spam_cvat.serving.session import Login, Sessions, warm_up
from spam_cvat.serving.settings import Settings
from spam_cvat.video import Image

LABELS: tuple[dict[str, Any], ...] = ({"id": 0, "name": "person", "type": "rectangle"},)
"""The labels that the function offers to CVAT; the function files' ``spec`` holds the same."""

PLAIN_NMS = 0.5
"""A plain detector shows one of two boxes that overlap more than this; tracks are made from all of them."""

NO_TOKEN = (
    "no CVAT access token (SPAM_CVAT_TOKEN): tracks cannot be written, each frame is answered as by a plain detector"
)

log = logging.getLogger(__name__)


class TooLargeError(InputError):
    """An image has more pixels than are taken."""


@dataclass(frozen=True)
class Picture:
    """An image that came with a call.

    Attributes:
        data: the image file.
        max_pixels: more are refused.
    """

    data: bytes
    max_pixels: int

    @classmethod
    def read(cls, value: Any, max_pixels: int) -> "Picture":
        """Take base64 text. Raises InputError where it is none, or its image cannot be opened or is too large."""
        if not isinstance(value, str) or not value:
            raise InputError('"image" must be an image file in base64')
        try:
            data = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(f'"image" is not base64: {error}') from error
        picture = cls(data, max_pixels)
        picture._check_size()
        return picture

    def _check_size(self) -> None:
        """Look at the header alone: a small file may unpack to gigabytes."""
        try:
            with PIL.Image.open(io.BytesIO(self.data)) as header:
                width, height = header.size
        except PIL.Image.DecompressionBombError as error:
            raise TooLargeError(f"the image is too large: {error}") from error
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f"the image cannot be opened ({len(self.data)} bytes): {error}") from error
        if width * height > self.max_pixels:
            raise TooLargeError(
                f"the image has {width}x{height} = {width * height / 1e6:.1f} million pixels, more than the "
                f"{self.max_pixels / 1e6:.1f} million that are taken; raise SPAM_MAX_PIXELS if there is memory for it"
            )

    @cached_property
    def pixels(self) -> Image:
        """(height, width, 3) uint8 BGR. Raises InputError where the file is damaged."""
        image = cv2.imdecode(np.frombuffer(self.data, np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise InputError(f"the image is damaged and cannot be decoded ({len(self.data)} bytes)")
        return np.asarray(image, np.uint8)


class Function:
    """What one worker holds: networks, the login, sessions.

    Args:
        settings: from the environment.
        store: where things are remembered.
        login: to CVAT; None makes a plain detector of the function.
        perception: looks at the pixels, in place of the detector and embedder that the settings name.
    """

    def __init__(
        self, settings: Settings, store: Store, login: Login | None, perception: Perception | None = None
    ) -> None:
        """Load the networks. Raises InputError or SpamError where a spec or file cannot be used."""
        self.settings, self.store = settings, store
        if perception is None and settings.detector != "task":
            perception = PixelPerception(settings)
        self.perception = perception
        self.sessions = self.direct = None
        if login is not None:
            warm_up(settings)
            self.sessions = Sessions(login, store, self.perception, settings)
            self.direct = DirectRuns(login, store, self.perception, settings)

    @classmethod
    def from_environment(cls) -> "Function":
        """Make it as the environment says. Raises InputError where that cannot be used."""
        settings = Settings.from_environment()
        has_login = any(os.environ.get(name) for name in ("SPAM_CVAT_TOKEN", "CVAT_ACCESS_TOKEN", "SPAM_CVAT_USER"))
        return cls(settings, Store(), Login(connect) if has_login else None)

    def answer(self, method: str, body: Any) -> tuple[int, Any]:
        """Status and JSON value for a call.

        Args:
            method: HTTP method.
            body: parsed JSON, or bytes that nobody parsed.
        """
        begun = time.monotonic()
        try:
            if method == "GET" or body in (b"", "", None):
                return 200, self.health()
            value = _parsed(body)
            if "image" in value:
                return 200, self._image(value, begun)
            if "task" in value or "job" in value:
                return 200, self._direct(value)
            raise InputError(
                'the body holds neither "image" (a call from CVAT) nor "task" or "job" (a direct call); it holds '
                f"{', '.join(sorted(map(str, value))) or 'nothing'}"
            )
        except TooLargeError as error:
            return 413, _error(error)
        except InputError as error:
            return 400, _error(error)
        except CvatError as error:
            return 502, _error(error)
        except SpamError as error:
            return 500, _error(error)

    def health(self) -> dict[str, Any]:
        """What works here, without asking CVAT."""
        perception = self.perception
        going = [*self.sessions.progress, *self.direct.progress] if self.sessions and self.direct else []
        return {
            "function": self.settings.function_names[0],
            "version": __version__,
            "mode": "tracks" if self.sessions else "plain detector",
            "reason": None if self.sessions else NO_TOKEN,
            "perception": perception.name if perception else "rectangles in the task",
            "labels": list(perception.labels) if perception else None,
            "store": self.store.location,
            "runs": going,
        }

    def close(self) -> None:
        """Keep what was seen of runs that are going on, for the process that follows."""
        if self.sessions:
            self.sessions.close()

    def _image(self, value: dict[str, Any], begun: float) -> list[dict[str, Any]]:
        picture = Picture.read(value["image"], self.settings.max_pixels)
        reason = NO_TOKEN
        if self.sessions:
            verdict = self.sessions.offer(picture.data, lambda: picture.pixels, begun)
            if verdict.outcome:
                log.info("%s: %s", verdict.detail, json.dumps(verdict.outcome.to_json()))
            if verdict.kind != "plain":
                log.debug("%s: %s", verdict.kind, verdict.detail)
                return []
            reason = verdict.detail
        if not self.settings.plain or self.perception is None:
            raise InputError(f"{reason}, and this function does not act as a plain detector")
        log.warning("answered as a plain detector: %s", reason)
        return self._shapes(self.perception, picture.pixels, _threshold(value, self.settings.plain_threshold))

    def _shapes(self, perception: Perception, image: Image, threshold: float) -> list[dict[str, Any]]:
        """A detector's answer in the form that CVAT takes."""
        boxes = perception.detect(image).suppressed(PLAIN_NMS)
        return [
            {
                "confidence": f"{score:.4f}",
                "label": perception.labels[label],
                "points": [round(float(value), 2) for value in box],
                "type": "rectangle",
            }
            for box, score, label in zip(boxes.box, boxes.score.tolist(), boxes.label.tolist(), strict=True)
            if score >= threshold
        ]

    def _direct(self, value: dict[str, Any]) -> dict[str, Any]:
        if self.direct is None:
            raise InputError(NO_TOKEN)
        return self.direct.call(value)


def _parsed(body: Any) -> dict[str, Any]:
    """The call's JSON object; Nuclio parses it for ``application/json`` alone and hands on bytes else."""
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise InputError(f"the body is not JSON ({error}); send it as application/json") from error
    if not isinstance(body, dict):
        raise InputError(f"the body is a JSON {type(body).__name__}, not an object")
    return body


def _threshold(value: dict[str, Any], default: float) -> float:
    given = value.get("threshold")
    if given is None:
        return default
    if not isinstance(given, int | float) or isinstance(given, bool):
        raise InputError(f'"threshold" must be a number, not {given!r}')
    return float(given)


def _error(error: Exception) -> dict[str, Any]:
    log.error("%s", error)
    return {"error": str(error)}


# --- Nuclio's side ----------------------------------------------------------------------------------------------------


class _Forward(logging.Handler):
    """Hands the package's log records to the platform's logger, which is all that Nuclio shows."""

    def __init__(self, target: Any) -> None:
        super().__init__()
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Pass a record on at its level."""
        write = self.target.error if record.levelno >= logging.ERROR else (
            self.target.warn if record.levelno >= logging.WARNING else
            self.target.info if record.levelno >= logging.INFO else self.target.debug
        )  # fmt: skip
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        # The text may hold per cent signs of its own.
        write("%s", text)


def init_context(context: Any) -> None:
    """Load everything once for a worker; Nuclio calls it before the first event and waits for it."""
    package = logging.getLogger("spam_cvat")
    package.handlers = [handler for handler in package.handlers if not isinstance(handler, _Forward)]
    package.addHandler(_Forward(context.logger))
    package.setLevel(logging.INFO)
    function = Function.from_environment()
    context.user_data.function = function
    for register in ("set_termination_callback", "set_drain_callback"):
        if hasattr(context.platform, register):
            getattr(context.platform, register)(function.close)
    health = function.health()
    if health["reason"]:
        log.warning("%s", health["reason"])
    log.info("ready: %s", json.dumps(health))


def handler(context: Any, event: Any) -> Any:
    """Answer one event. Never returns a bare list: Nuclio would take it for a batch of responses."""
    function: Function = context.user_data.function
    try:
        status, value = function.answer(getattr(event, "method", None) or "POST", event.body)
    except Exception as error:
        log.exception("a call failed")
        status, value = 500, {"error": f"{type(error).__name__}: {error}; the function's log has more"}
    return context.Response(body=json.dumps(value), headers={}, content_type="application/json", status_code=status)
