"""Video: frames of a video file, an image folder or a MOTChallenge sequence, numbered exactly, one at a time.

In: a path. Out: images as (height, width, 3) uint8 arrays in BGR order, with their numbers from 0 in display order.
Nothing here holds more than a few decoded frames, so a video of any length can be read.
"""

import configparser
import hashlib
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from spam_cvat.detections import VideoInfo
from spam_cvat.errors import InputError

Image = NDArray[np.uint8]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".mp4", ".m4v", ".mkv", ".mov", ".mpg", ".mpeg", ".ts", ".webm", ".wmv", ".flv"})
DEFAULT_FPS = 30.0


class Video(Protocol):
    """What every source of frames can do; :func:`open_video` makes one, ``with`` closes it."""

    @property
    def info(self) -> VideoInfo:
        """Name, number of frames, size and rate."""

    @property
    def digest(self) -> str:
        """Hexadecimal digest of the content: equal for a renamed copy, different for other pixels. Caches' key."""

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, Image]]:
        """Frames start, start + step, ... below stop, each with its number, as (height, width, 3) uint8 BGR.

        Iterators are independent of each other and of :meth:`frame`. Raises InputError for a range outside the
        video, and at the frame where the content cannot be read.
        """

    def frame(self, k: int) -> Image:
        """Frame k, equal to what :meth:`frames` gives for it. Cheapest in ascending order."""

    def close(self) -> None:
        """Let go of open files."""

    def __enter__(self) -> Self:
        """The video itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""


def open_video(source: str | Path) -> Video:
    """Open a video file, a folder of images, or a MOTChallenge sequence (a folder with ``seqinfo.ini``).

    A folder's images are taken in natural order (``2.png`` before ``10.png``). Rotation that a camera wrote into the
    file (EXIF orientation of a photo, the display matrix of a phone's video) is applied, as CVAT does, so boxes refer
    to the picture as people see it.

    >>> with open_video("clip.mp4") as video:                        # doctest: +SKIP
    ...     for number, image in video.frames(start=100, stop=200):
    ...         print(number, image.shape)

    Raises:
        InputError: there is nothing at that path, or nothing in it that can be decoded.
    """
    path = Path(source)
    if "://" in str(source):
        raise InputError(f"{source}: not a local path; download the video first")
    if path.is_dir():
        return _open_folder(path)
    if not path.is_file():
        raise InputError(f"{source}: no such file or folder")
    if path.stat().st_size == 0:
        raise InputError(f"{source}: the file is empty")
    return ImageFolder([path], path.stem) if path.suffix.lower() in IMAGE_SUFFIXES else VideoFile(path)


def parse_frames(text: str, num_frames: int) -> tuple[int, int, int]:
    """Start, stop and step of ``A:B``, ``A:B:STEP`` with open ends, for a video of so many frames.

    >>> parse_frames("10:", 795), parse_frames(":100:5", 795)
    ((10, 795, 1), (0, 100, 5))

    Raises:
        InputError: it reads otherwise, holds no frame, or reaches outside the video.
    """
    match = re.fullmatch(r"(\d*):(\d*)(?::(\d+))?", text.strip())
    if not match:
        raise InputError(f"frames {text!r}: write A:B or A:B:STEP, for example 0:500")
    start, stop, step = (
        int(part) if part else default for part, default in zip(match.groups(), (0, num_frames, 1), strict=True)
    )
    check_range(start, stop, step, num_frames, f"frames {text!r}")
    return start, stop, step


def check_range(start: int, stop: int, step: int, num_frames: int, name: str) -> None:
    """Refuse, with an InputError that starts with ``name``, a range that is empty or reaches outside the video."""
    if not 0 <= start < stop <= num_frames or step < 1:
        raise InputError(f"{name}: frames {start}:{stop}:{step} are not in this video of {num_frames} frames")


class BaseVideo:
    """What the kinds of video share: closing, and checking of numbers."""

    info: VideoInfo

    def close(self) -> None:
        """Let go of open files."""

    def __enter__(self) -> Self:
        """The video itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _range(self, start: int, stop: int | None, step: int) -> tuple[int, int]:
        stop = self.info.num_frames if stop is None else stop
        check_range(start, stop, step, self.info.num_frames, self.info.name)
        return start, stop

    def _check_number(self, k: int) -> None:
        if not 0 <= k < self.info.num_frames:
            raise InputError(f"{self.info.name}: there is no frame {k} in a video of {self.info.num_frames} frames")


# --- video files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Index:
    """Where a file's frames are.

    Attributes:
        num_frames: what the file holds, or promises where it breaks off.
        intact: frames below this number are there, as far as the container shows without decoding them all.
        pts: (num_frames,) ascending time stamps, or None where the file's stamps cannot be trusted and frames must be
            counted from the start.
        keys: (K,) ascending numbers of the frames at which decoding can begin.
    """

    num_frames: int
    intact: int
    pts: NDArray[np.int64] | None
    keys: NDArray[np.int64]


class VideoFile(BaseVideo):
    """Frames of a video file, decoded by FFmpeg.

    Opening reads the container's packets once, without decoding them, to number the frames exactly; files without
    usable time stamps (some AVI, VP8) are decoded once instead. A file that breaks off keeps the number of frames its
    header promises and refuses ranges that reach beyond the break, so that nobody gets labels for half a video
    unawares; damage inside shows at the frame where decoding fails.
    """

    def __init__(self, path: str | Path) -> None:
        """Open the file. Raises InputError where it is not a video."""
        self.path = Path(path)
        with _opened(self.path) as container:
            stream = _stream(container)
            promised = stream.frames
            rate = float(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
            hidden = stream.codec_context.name == "vp8"  # packets of hidden reference frames have time stamps too
        head = _head(self.path)
        self._index = _index(self.path, promised, None if hidden else [stamp for stamp, _ in head])
        height, width = head[0][1].shape[:2]
        fps = rate if 0 < rate < 10_000 else DEFAULT_FPS
        self.info = VideoInfo(self.path.stem, self._index.num_frames, width, height, fps)
        self._reader: Iterator[tuple[int, Image]] = iter(())
        self._next = -1  # the number of the frame the reader gives next; -1: there is no reader

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        with self.path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, Image]]:
        """As :meth:`Video.frames`."""
        start, stop = self._range(start, stop, step)
        if stop > self._index.intact:
            raise self._broken(self._index.intact, "the file ends or is damaged there")
        return self._decode(range(start, stop, step))

    def frame(self, k: int) -> Image:
        """As :meth:`Video.frame`."""
        self._check_number(k)
        if k >= self._index.intact:
            raise self._broken(self._index.intact, "the file ends or is damaged there")
        if not (0 <= self._next <= k and self._key_before(k) <= self._next):
            self.close()
            self._reader, self._next = self._decode(range(k, self._index.intact)), k
        for number, image in self._reader:
            self._next = number + 1
            if number == k:
                return image
        raise self._broken(k, "the decoder gave no such frame")

    def close(self) -> None:
        """Let go of open files."""
        self._reader, self._next = iter(()), -1

    def _broken(self, k: int, reason: str) -> InputError:
        way_out = f", or take what comes before with --frames 0:{k}" if k else ""
        return InputError(
            f"{self.path}: breaks at frame {k} of {self.info.num_frames} ({reason}); "
            f"copy or re-encode the file{way_out}"
        )

    def _key_before(self, k: int) -> int:
        place = int(np.searchsorted(self._index.keys, k, side="right")) - 1
        return int(self._index.keys[place]) if place >= 0 else 0

    def _decode(self, wanted: range) -> Iterator[tuple[int, Image]]:
        """Images of the wanted frames, decoding from the key frame before the first of them."""
        first, expected = wanted[0], wanted[0]
        size = (self.info.height, self.info.width)
        try:
            for number, frame in self._decoded_from(first):
                if number != expected:
                    break
                expected += 1
                if (number - first) % wanted.step:
                    continue
                image = _to_image(frame)
                if image.shape[:2] != size:
                    raise self._broken(number, f"its size changes to {image.shape[1]}x{image.shape[0]}")
                yield number, image
                if number == wanted[-1]:
                    return
        except av.error.FFmpegError as error:
            raise self._broken(expected, _reason(error)) from error
        raise self._broken(expected, "it cannot be decoded")

    def _decoded_from(self, k: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from k on, numbered, in display order; a later one first where k cannot be decoded."""
        key = self._key_before(k)
        while True:
            with _opened(self.path) as container:
                numbered = self._numbered(container, key)
                lead = next(numbered, None)
                # Containers find key frames by decoding order, and MPEG-PS stamps the first frame after a seek wrongly:
                # trust a seek only if it lands at its key frame or before and reaches k; go further back otherwise.
                if lead is not None and (lead[0] <= key or key == 0):
                    ahead = itertools.dropwhile(lambda item: item[0] < k, itertools.chain([lead], numbered))
                    first = next(ahead, None)
                    if first is not None and (first[0] == k or key == 0):
                        yield first
                        yield from ahead
                        return
            if key == 0:
                return
            key = self._key_before(key - 1)

    def _numbered(self, container: av.container.InputContainer, key: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames from the key frame of that number on, or from near it."""
        stream = _stream(container)
        stream.thread_type = "AUTO"
        pts = self._index.pts
        if key > 0 and pts is not None:
            container.seek(int(pts[key]), stream=stream)
        frames = (frame for packet in _packets(container, stream) for frame in packet.decode())
        for count, frame in enumerate(frames):
            yield count if pts is None else int(np.searchsorted(pts, frame.pts or 0)), frame


def _opened(path: Path) -> av.container.InputContainer:
    try:
        container = av.open(str(path), metadata_errors="replace")  # a title may be in any encoding
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path}: not a video that can be read ({_reason(error)}); is the file complete? "
            "Give a video file, an image folder or a MOTChallenge sequence"
        ) from error
    stream = container.streams.best("video")
    if stream is None or stream.codec_context is None:
        container.close()
        lacks = "no video in it" if stream is None else "no decoder here for its video"
        raise InputError(f"{path}: not a video that can be read: there is {lacks}")
    return container


def _stream(container: av.container.InputContainer) -> av.VideoStream:
    stream = container.streams.best("video")
    assert isinstance(stream, av.VideoStream)  # _opened has seen to it
    return stream


def _packets(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.Packet]:
    """A stream's packets, the last of them empty, without damaged ones at its end.

    Those would take good frames, still in the decoder, down with them. If there were any, FFmpegError is raised in the
    end.
    """
    damaged: list[av.Packet] = []
    for packet in container.demux(stream):
        if packet.is_corrupt:
            damaged.append(packet)
            continue
        if packet.size:
            yield from damaged
            damaged = []
        yield packet
    if damaged:
        raise av.error.InvalidDataError(0, "the file ends within a frame")


def _reason(error: av.error.FFmpegError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _to_image(frame: av.VideoFrame) -> Image:
    image: Image = frame.to_ndarray(format="bgr24").astype(np.uint8, copy=False)
    # The display matrix's angle is counter-clockwise, as numpy's quarter turns are.
    return np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90) % 4)) if frame.rotation else image


def _head(path: Path, count: int = 12) -> list[tuple[int | None, Image]]:
    """Time stamps and images of the first frames that decode."""
    head: list[tuple[int | None, Image]] = []
    with _opened(path) as container:
        try:
            for frame in container.decode(_stream(container)):
                # One image tells the size; the others' stamps suffice.
                head.append((frame.pts, head[0][1] if head else _to_image(frame)))
                if len(head) == count:
                    break
        except av.error.FFmpegError as error:
            if not head:
                raise InputError(f"{path}: its first frame cannot be decoded ({_reason(error)})") from error
    if not head:
        raise InputError(f"{path}: holds no frame that can be decoded; the file is empty or damaged")
    return head


def _index(path: Path, promised: int, head: list[int | None] | None) -> _Index:
    """Number the frames by their packets' time stamps; by decoding where ``head``, the stamps that the first decoded
    frames really carry, contradicts them or is None.
    """
    stamps, keys, last_dts, broken = _stamps(path)
    pts = np.unique(np.array([stamp for stamp in stamps if stamp is not None], np.int64))
    if head is None or len(pts) != len(stamps) or pts[: len(head)].tolist() != head:
        return _counted(path, promised)
    intact = len(pts)
    if (broken or _lacking(promised, intact)) and last_dts is not None:
        # Frames later in decoding order may be shown earlier: only those up to the last decoding stamp are complete.
        intact = int(np.searchsorted(pts, last_dts, side="right"))
        broken = True
    return _Index(
        num_frames=max(promised, intact + 1) if broken else intact,
        intact=intact,
        pts=pts[:intact],
        keys=np.searchsorted(pts, np.unique(np.array(keys, np.int64))),
    )


def _stamps(path: Path) -> tuple[list[int | None], list[int], int | None, bool]:
    """Time stamps of the packets and of key frames, the last decoding stamp, and whether reading stopped at damage."""
    stamps: list[int | None] = []
    keys: list[int] = []
    last_dts = None
    with _opened(path) as container:
        try:
            for packet in _packets(container, _stream(container)):
                if not packet.size or packet.is_discard:
                    continue
                stamps.append(packet.pts)
                last_dts = packet.dts
                if packet.is_keyframe and packet.pts is not None:
                    keys.append(packet.pts)
        except av.error.FFmpegError:
            return stamps, keys, last_dts, True
    return stamps, keys, last_dts, False


def _counted(path: Path, promised: int) -> _Index:
    """The index of a file whose frames have to be counted by decoding them."""
    count, flushed, broken = 0, 0, False
    with _opened(path) as container:
        stream = _stream(container)
        stream.thread_type = "AUTO"
        try:
            for packet in _packets(container, stream):
                frames = len(packet.decode())
                count += frames
                flushed = 0 if packet.size else frames
        except av.error.FFmpegError:
            broken = True
    if broken or _lacking(promised, count):
        broken = True
        count -= flushed  # frames the decoder held back when the file ended: one shown before them may be missing
    return _Index(max(promised, count + 1) if broken else count, count, None, np.zeros(1, np.int64))


def _lacking(promised: int, found: int) -> bool:
    """Whether a file breaks off: headers are often off by a few frames, so only a clear lack counts."""
    return promised > found + max(2, promised // 100)


# --- images -------------------------------------------------------------------------------------------------------


class ImageFolder(BaseVideo):
    """Frames that are image files, in the order given; all of one size."""

    def __init__(self, files: list[Path], name: str, fps: float = DEFAULT_FPS) -> None:
        """Take the files as frames 0, 1, ... Raises InputError where the first is no image."""
        self.files = files
        height, width = _read_image(files[0], 0).shape[:2]
        self.info = VideoInfo(name, len(files), width, height, fps)

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the files' own SHA-256, in order; names do not count."""
        total = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
        return total.hexdigest()

    def frames(self, start: int = 0, stop: int | None = None, step: int = 1) -> Iterator[tuple[int, Image]]:
        """As :meth:`Video.frames`."""
        start, stop = self._range(start, stop, step)
        return ((k, self.frame(k)) for k in range(start, stop, step))

    def frame(self, k: int) -> Image:
        """As :meth:`Video.frame`."""
        self._check_number(k)
        image = _read_image(self.files[k], k)
        height, width = image.shape[:2]
        if (width, height) != (self.info.width, self.info.height):
            raise InputError(
                f"{self.files[k]}: frame {k} is {width}x{height}, the first is {self.info.width}x{self.info.height}; "
                "a video's frames have one size"
            )
        return image


def _read_image(path: Path, k: int) -> Image:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise InputError(f"{path}: cannot read frame {k}: {error.strerror or error}") from error
    image = decode_image(data)
    if image is None:
        raise InputError(f"{path}: frame {k} is not an image that can be read; the file is empty or damaged")
    return image


def decode_image(data: bytes | Image) -> Image | None:
    """The image in an encoded file's bytes as (height, width, 3) uint8 BGR, turned upright; None if there is none."""
    encoded = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    if not encoded.size:
        return None
    try:
        image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
    except cv2.error:  # raised for sizes beyond OpenCV's limit
        return None
    return None if image is None else image.astype(np.uint8, copy=False)


def natural_key(name: str) -> list[tuple[int, str]]:
    """Sort key that puts ``frame2`` before ``frame10``."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", name.lower())]


def _images(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "."]
    return sorted(found, key=lambda path: (natural_key(path.name), path.name))


def _open_folder(folder: Path) -> Video:
    if (folder / "seqinfo.ini").is_file():
        return _open_sequence(folder)
    if images := _images(folder):
        return ImageFolder(images, folder.resolve().name)
    raise InputError(f"{folder}: holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}); give the folder that does")


def _open_sequence(folder: Path) -> Video:
    """A MOTChallenge sequence: the images of ``imDir``, or the one video file beside ``seqinfo.ini``."""
    header = folder / "seqinfo.ini"
    parser = configparser.ConfigParser()
    try:
        parser.read_string(header.read_text())
        section = parser["Sequence"]
        fps = section.getfloat("frameRate", DEFAULT_FPS)
        length = section.getint("seqLength", 0)
        image_folder = folder / section.get("imDir", "img1")
    except (configparser.Error, KeyError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{header}: not a MOTChallenge seqinfo.ini: {reason}") from error
    images = _images(image_folder) if image_folder.is_dir() else []
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in VIDEO_SUFFIXES)
    if images:
        if length > len(images):
            raise InputError(
                f"{image_folder}: holds {len(images)} images, seqinfo.ini promises {length}; "
                "complete the folder, or open it as a folder of images"
            )
        return ImageFolder(images, folder.resolve().name, fps)
    if len(files) == 1:
        video = VideoFile(files[0])
        video.info = replace(video.info, name=folder.resolve().name, fps=fps)
        return video
    raise InputError(f"{folder}: a sequence without pixels ({image_folder.name} holds no images); give its detections")
