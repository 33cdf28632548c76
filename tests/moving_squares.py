"""A clip, what is to be found in it, and a function that finds it: for tests of the CVAT side.

Squares of two colours cross a plain picture. Every frame is different from every other, and survives PNG exactly.
"""

import base64
import types

import cv2
import numpy as np

from spam_cvat.annotation import Annotation
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.store import Store
from spam_cvat.detectors import FrameDetections
from spam_cvat.serving import function as function_module
from spam_cvat.serving.function import Function
from spam_cvat.serving.harvest import Seen
from spam_cvat.serving.session import Login
from spam_cvat.serving.settings import Settings
from spam_cvat.tracks import Tracks

WIDTH, HEIGHT = 160, 120
COLOURS = ((255, 40, 40), (40, 40, 255))
NAME = "spam-test"


def clip(frames=24, shade=0):
    """Frames in which two squares of 20x30 move; ``shade`` makes another clip of it."""
    images = []
    for number in range(frames):
        image = np.full((HEIGHT, WIDTH, 3), 60 + shade, np.uint8)
        # A counter in a corner keeps frames apart once the squares have left.
        cv2.putText(image, str(number), (4, 114), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (90, 90, 90))
        for colour, left, top in ((COLOURS[0], 5 + 3 * number, 10), (COLOURS[1], 120 - 3 * number, 60)):
            image[top : top + 30, left : left + 20] = colour
        images.append(image)
    return images


class SquareFinder:
    """Finds the squares by their colour; keeps count of the images it was shown."""

    name = "squares"
    labels = ("person",)

    def __init__(self, fail_at=None):
        self.shown = 0
        self.fail_at = fail_at

    def detect(self, image):
        """The squares' boxes."""
        boxes = []
        for colour in COLOURS:
            near = (np.abs(image.astype(int) - colour).max(axis=2) < 60).astype(np.uint8)
            left, top, width, height = cv2.boundingRect(near)
            if width * height > 100:
                boxes.append((left, top, left + width, top + height))
        return FrameDetections.create(
            np.array(boxes).reshape(-1, 4), [0.9] * len(boxes), [0] * len(boxes), image.shape[1], image.shape[0]
        )

    def see(self, image, frame=None):
        """The squares' boxes, and their colours as appearance."""
        self.shown += 1
        if self.shown == self.fail_at:
            raise RuntimeError("out of memory")
        boxes = self.detect(image)
        centre = ((boxes.box[:, :2] + boxes.box[:, 2:]) / 2).astype(int)
        colour = np.array([image[y, x] for x, y in centre], np.float32).reshape(-1, 3)
        return Seen(boxes, colour / np.linalg.norm(colour, axis=1, keepdims=True).clip(1e-6))


def join_by_colour(detections, *, warps=None, answers=None, weights=None):
    """An engine for tests of what is around the engine: a square is told by its colour."""
    track = np.zeros(0, int)
    if detections.embedding is not None:
        track = np.where(detections.embedding[:, 0] > detections.embedding[:, 2], 1, 2)
    tracks = Tracks.create(
        detections.video, detections.frame, track, detections.box, detections.score, np.arange(len(detections))
    )
    return Annotation(detections, np.ones(len(detections), np.float32), (), tracks, {}, {"program": "test"})


def make_function(server, root, *, user="admin", token=None, finder=None, organization=None, **settings):
    """A function that is logged in to a server; ``token=""`` leaves it without a login."""
    token = server.token(user, read_only=False) if token is None else token
    login = Login(lambda: connect(server.url, token, organization=organization)) if token else None
    chosen = Settings(**({"function_names": (NAME,), "motion": False} | settings))
    return Function(chosen, Store(root), login, finder or SquareFinder())


def module_of(function):
    """A module as Nuclio loads it, whose worker holds this function."""

    def init_context(context):
        context.user_data.function = function

    module = types.ModuleType("function_under_test")
    module.init_context, module.handler = init_context, function_module.handler
    return module


def as_handler(function):
    """The function as the stand-in calls one in process: JSON in, JSON out, errors raised as CVAT sees them."""

    def call(body):
        status, value = function.answer("POST", body)
        if status >= 400:
            raise RuntimeError(f"{status} Error: {value['error']}")
        return value

    return call


def png(image):
    """An image as CVAT sends it."""
    return base64.b64encode(cv2.imencode(".png", image)[1].tobytes()).decode()
