"""The pixels of a task: frames of an uploaded video or uploaded pictures, as single frames and as chunks.

In: uploaded files. Out: bytes exactly as a client gets them: PNG for an original frame of a video, the very file for
an original frame of an image task, JPEG for compressed frames, mp4 and zip for chunks. Frames count from 0 within the
task.
"""

import io
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

VIDEO_SUFFIXES = {".avi", ".mp4", ".mkv", ".mov", ".webm", ".mpg", ".mpeg", ".m4v"}
_EXIF_ORIENTATION = 0x0112
_KEPT_FRAMES = 48


class MediaError(Exception):
    """The uploaded files cannot become a task; the message is what the creation request reports."""


@dataclass(frozen=True)
class FrameInfo:
    """Name and size of one frame, as in the data meta."""

    name: str
    width: int
    height: int


@dataclass(frozen=True)
class Blob:
    """Bytes and their content type."""

    content: bytes
    type: str


class Frames(Protocol):
    """The frames of one task."""

    size: int

    def infos(self) -> list[FrameInfo]:
        """One entry a frame; a single entry for a video."""

    def original(self, number: int) -> Blob:
        """A frame in full quality."""

    def compressed(self, number: int) -> Blob:
        """A frame as JPEG."""

    def chunk(self, numbers: Sequence[int], quality: str) -> Blob:
        """Several frames in one file."""


def _jpeg(image: np.ndarray, quality: int) -> bytes:
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise MediaError("cannot encode a frame as JPEG")
    return data.tobytes()


class VideoFrames:
    """Frames ``start``, ``start + step``, ... of a video file, decoded in order and reopened when asked to go back."""

    def __init__(self, name: str, content: bytes, *, start: int, stop: int | None, step: int, quality: int) -> None:
        self.name = name
        self._content = content
        self._quality = quality
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, np.ndarray] = OrderedDict()
        self._encoded: OrderedDict[int, Blob] = OrderedDict()
        self._decoder: Iterator[np.ndarray] = iter(())
        self._next = 0
        try:
            total, self.width, self.height, self.rate = self._probe()
        except (av.error.FFmpegError, IndexError, EOFError) as error:
            raise MediaError(f"Can't read the video {name}: {error}") from error
        last = total - 1 if stop is None else min(stop, total - 1)
        if total == 0 or start > last:
            raise MediaError(f"No frames in {name} between {start} and {last} (it has {total})")
        self.source = range(start, last + 1, step)
        self.size = len(self.source)
        self._rewind()

    def _probe(self) -> tuple[int, int, int, Fraction]:
        with av.open(io.BytesIO(self._content), "r") as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            total, width, height = 0, 0, 0
            for frame in container.decode(stream):
                total, width, height = total + 1, frame.width, frame.height
            return total, width, height, stream.average_rate or Fraction(25)

    def _decode(self) -> Iterator[np.ndarray]:
        with av.open(io.BytesIO(self._content), "r") as container:
            for frame in container.decode(container.streams.video[0]):
                yield frame.to_ndarray(format="bgr24")

    def _rewind(self) -> None:
        self._decoder, self._next = self._decode(), 0

    def image(self, number: int) -> np.ndarray:
        """One frame as (height, width, 3) uint8, blue green red."""
        source = self.source[number]
        with self._lock:
            if source in self._kept:
                return self._kept[source]
            if source < self._next:
                self._rewind()
            for frame in self._decoder:
                here, self._next = self._next, self._next + 1
                self._kept[here] = frame
                if len(self._kept) > _KEPT_FRAMES:
                    self._kept.popitem(last=False)
                if here == source:
                    return frame
        raise MediaError(f"{self.name} has no frame {source}")

    def infos(self) -> list[FrameInfo]:
        return [FrameInfo(self.name, self.width, self.height)]

    def original(self, number: int) -> Blob:
        """The frame as PNG; the last ones asked for are kept, since a function asks for what it was just sent."""
        with self._lock:
            known = self._encoded.get(number)
        if known is not None:
            return known
        made = self._png(number)
        with self._lock:
            self._encoded[number] = made
            if len(self._encoded) > _KEPT_FRAMES:
                self._encoded.popitem(last=False)
        return made

    def _png(self, number: int) -> Blob:
        # The lightest compression: the real server's PNG is slow to make, and no client sees how it was packed.
        done, data = cv2.imencode(".png", self.image(number), [cv2.IMWRITE_PNG_COMPRESSION, 1])
        if not done:
            raise MediaError(f"cannot encode frame {number} of {self.name} as PNG")
        return Blob(data.tobytes(), "image/png")

    def compressed(self, number: int) -> Blob:
        return Blob(_jpeg(self.image(number), self._quality), "image/jpeg")

    def chunk(self, numbers: Sequence[int], quality: str) -> Blob:
        """An H.264 file of its own: every chunk can be decoded alone. Odd sides lose their last row or column."""
        width, height = self.width // 2 * 2, self.height // 2 * 2
        output = io.BytesIO()
        with av.open(output, "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=self.rate)
            stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
            stream.options = {"crf": "18" if quality == "original" else "28", "preset": "ultrafast"}
            for number in numbers:
                pixels = np.ascontiguousarray(self.image(number)[:height, :width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="bgr24")))
            container.mux(stream.encode())
        return Blob(output.getvalue(), "video/mp4")


class ImageFrames:
    """Uploaded pictures in task order."""

    def __init__(self, files: Sequence[tuple[str, bytes]], *, quality: int) -> None:
        if not files:
            raise MediaError("No media data found")
        self._files = list(files)
        self._quality = quality
        self.size = len(self._files)
        self._infos = [self._info(name, content) for name, content in self._files]

    @staticmethod
    def _info(name: str, content: bytes) -> FrameInfo:
        try:
            with Image.open(io.BytesIO(content)) as image:
                width, height = ImageOps.exif_transpose(image).size
        except (UnidentifiedImageError, OSError) as error:
            raise MediaError(f"Can't read the image {name}: {error}") from error
        return FrameInfo(name, width, height)

    def infos(self) -> list[FrameInfo]:
        return self._infos

    def original(self, number: int) -> Blob:
        """The uploaded file itself; a picture with an EXIF orientation is turned and encoded anew."""
        content = self._files[number][1]
        with Image.open(io.BytesIO(content)) as image:
            kind = image.format or "JPEG"
            if image.getexif().get(_EXIF_ORIENTATION, 1) != 1:
                output = io.BytesIO()
                ImageOps.exif_transpose(image).save(output, kind, quality=100)
                content = output.getvalue()
        return Blob(content, f"image/{kind.lower()}")

    def compressed(self, number: int) -> Blob:
        with Image.open(io.BytesIO(self._files[number][1])) as image:
            output = io.BytesIO()
            ImageOps.exif_transpose(image).convert("RGB").save(output, "JPEG", quality=self._quality)
        return Blob(output.getvalue(), "image/jpeg")

    def chunk(self, numbers: Sequence[int], quality: str) -> Blob:
        """A zip archive of the pictures."""
        output = io.BytesIO()
        with zipfile.ZipFile(output, "w") as archive:
            for place, number in enumerate(numbers):
                blob = self.original(number) if quality == "original" else self.compressed(number)
                archive.writestr(f"{place:06d}.{blob.type.removeprefix('image/')}", blob.content)
        return Blob(output.getvalue(), "application/zip")


def _sorted_names(names: Sequence[str], parameters: dict[str, Any]) -> list[str]:
    """The order of pictures in a task: by name unless the client asked for its own."""
    method = str(parameters.get("sorting_method") or "lexicographical").lower()
    if parameters.get("job_file_mapping"):
        return [name for job in parameters["job_file_mapping"] for name in job]
    if method == "predefined":
        return list(parameters.get("upload_file_order") or names)
    if method == "natural":
        return sorted(names, key=lambda name: ["".join(part) for part in _digit_runs(name)])
    return sorted(names)


def _digit_runs(name: str) -> Iterator[str]:
    run = ""
    for character in name:
        if run and run[-1].isdigit() != character.isdigit():
            yield run.zfill(12) if run[0].isdigit() else run
            run = ""
        run += character
    yield run.zfill(12) if run[:1].isdigit() else run


def make_frames(files: dict[str, bytes], parameters: dict[str, Any], step: int) -> Frames:
    """Turn uploaded files into frames, with the ``start_frame``, ``stop_frame`` and order the client asked for.

    Raises:
        MediaError: nothing was uploaded, a file is not what its name says, or the mapping does not fit the files.
    """
    quality = int(parameters.get("image_quality") or 70)
    start, stop = int(parameters.get("start_frame") or 0), parameters.get("stop_frame")
    stop = None if stop is None else int(stop)
    videos = [name for name in files if Path(name).suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        if len(files) > 1:
            raise MediaError("Only one video, archive, pdf, zip can be attached to a task, and nothing beside it")
        name = videos[0]
        return VideoFrames(name, files[name], start=start, stop=stop, step=step, quality=quality)
    names = _sorted_names(list(files), parameters)
    missing, unused = [name for name in names if name not in files], set(files) - set(names)
    if missing or unused or len(set(names)) != len(names):
        raise MediaError(
            f"Job file mapping and uploaded files differ: {sorted(missing)} not uploaded, {sorted(unused)} not mapped"
        )
    last = len(names) - 1 if stop is None else min(stop, len(names) - 1)
    return ImageFrames([(name, files[name]) for name in names[start : last + 1 : step]], quality=quality)


def encode_video(images: Iterator[np.ndarray] | Sequence[np.ndarray], *, fps: int = 10) -> bytes:
    """Pictures ((H, W, 3) uint8, blue green red) as a lossless AVI, for tests that need a small video."""
    file = io.BytesIO()
    with av.open(file, "w", format="avi") as container:
        stream: Any = None
        for image in images:
            if stream is None:
                stream = container.add_stream("ffv1", rate=fps)
                stream.height, stream.width = image.shape[:2]
                stream.pix_fmt = "bgr0"
            frame = av.VideoFrame.from_ndarray(image, format="bgr24").reformat(format="bgr0")
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode())
    return file.getvalue()
