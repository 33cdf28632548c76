"""Annotation: everything one run knows of a video, in one ``*.spam`` file.

A file is a zip: ``header.json`` with a format version, one ``.npy`` member per array. In: detections, the hierarchy's
probabilities and decisions, the tracks made of them. Out: the same, on any machine, without pickles.
"""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.archive import add_member, npy
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.errors import InputError
from spam_cvat.tracks import Tracks

FORMAT_VERSION = 1
# Links that no edge speaks for (made where clips are stitched, or by an older file) are believed this much.
UNKNOWN_LINK = 0.9


@dataclass(frozen=True)
class Level:
    """One merging step of the hierarchy.

    Attributes:
        extent: frames that a chunk of this level covers.
        node: (N,) int32, node that each detection is part of before this level's merging; -1 where the gate dropped it.
        edge: (E, 2) int32, earlier and later node of each candidate edge.
        raw: (E,) float32, the network's probability that the later node continues the earlier one.
        probability: (E,) float32, the same, calibrated and under the one-in one-out constraints.
        decision: (E,) bool, whether the edge was taken.
        stage: which step of the hierarchy it was; empty in files of versions that did not say.
    """

    extent: int
    node: NDArray[np.int32]
    edge: NDArray[np.int32]
    raw: NDArray[np.float32]
    probability: NDArray[np.float32]
    decision: NDArray[np.bool_]
    stage: str = ""

    def boxes(self) -> NDArray[np.int64]:
        """Each edge as two detections, the last of its earlier node and the first of its later one. (E, 2) rows."""
        rows = np.flatnonzero(self.node >= 0)
        node = self.node[rows]
        last, first = np.zeros((2, int(node.max(initial=-1)) + 1), np.int64)
        # Rows ascend in time, so the last assignment per node is its last box; reversed, its first.
        last[node] = rows
        first[node[::-1]] = rows[::-1]
        return np.stack([last[self.edge[:, 0]], first[self.edge[:, 1]]], axis=1)


@dataclass(frozen=True)
class Edges:
    """Candidate edges of all levels as pairs of boxes: the last of the earlier node, the first of the later one.

    Attributes:
        last: (E,) rows, ascending.
        first: (E,) rows, ascending among those of one ``last``; no pair occurs twice.
        probability: (E,) of the highest level that weighed this very pair: it saw the most context.
    """

    last: NDArray[np.int64]
    first: NDArray[np.int64]
    probability: NDArray[np.float64]

    def lookup(self, last: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float64]:
        """Probability of each pair asked for, NaN where no edge speaks of it. (K,), (K,) -> (K,)."""
        out = np.full(len(last), np.nan)
        if len(self.last):
            key = self.last * (1 << 32) + self.first
            wanted = last.astype(np.int64) * (1 << 32) + first
            place = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
            hit = key[place] == wanted
            out[hit] = self.probability[place[hit]]
        return out

    def belief(self, last: NDArray[np.int64], first: NDArray[np.int64]) -> NDArray[np.float64]:
        """The same, with :data:`UNKNOWN_LINK` where no edge speaks of a pair."""
        probability = self.lookup(last, first)
        return np.where(np.isnan(probability), UNKNOWN_LINK, probability)


def candidate_edges(levels: Sequence[Level]) -> Edges:
    """All candidate edges of the hierarchy as pairs of boxes, each once."""
    if not levels:
        return Edges(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    # Reversed, so that np.unique's first occurrence is the highest level.
    a, b = np.concatenate([level.boxes() for level in reversed(levels)]).T
    p = np.concatenate([level.probability.astype(np.float64) for level in reversed(levels)])
    _, unique = np.unique(a * (1 << 32) + b, return_index=True)
    return Edges(a[unique], b[unique], p[unique])


LEVEL_ARRAYS = ("node", "edge", "raw", "probability", "decision")


@dataclass(frozen=True)
class Annotation:
    """What one run of the engine knows of a video.

    Attributes:
        detections: the candidate boxes.
        gate: (N,) float32, calibrated probability that each detection is a real object.
        levels: the merging steps, bottom up.
        tracks: the final boxes with identities; ``tracks.detection`` points into ``detections``.
        config: the engine's configuration as plain values.
        provenance: weights' digest, answers' digest, program version, how detections were made.
    """

    detections: Detections
    gate: NDArray[np.float32]
    levels: tuple[Level, ...]
    tracks: Tracks
    config: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def video(self) -> VideoInfo:
        """The video annotated."""
        return self.detections.video

    def save(self, path: str | Path) -> None:
        """Write the file in one move: readers see the old file or the new one, never a half."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(self.to_bytes())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    def to_bytes(self) -> bytes:
        """The file's content."""
        det, tracks = self.detections, self.tracks
        arrays: dict[str, NDArray[Any]] = {"gate": self.gate}
        arrays |= {f"detections/{name}": getattr(det, name) for name in ("frame", "box", "score", "label")}
        if det.embedding is not None:
            arrays["detections/embedding"] = det.embedding
        for name in ("frame", "track", "box", "score", "detection", "label"):
            arrays[f"tracks/{name}"] = getattr(tracks, name)
        for index, level in enumerate(self.levels):
            for name in LEVEL_ARRAYS:
                arrays[f"levels/{index}/{name}"] = getattr(level, name)
        header = {
            "format": "spam-cvat annotation",
            "version": FORMAT_VERSION,
            "video": asdict(self.video),
            "labels": list(det.labels),
            "track_labels": list(tracks.labels),
            "extents": [level.extent for level in self.levels],
            "stages": [level.stage for level in self.levels],
            "config": dict(self.config),
            "provenance": dict(self.provenance),
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            add_member(archive, "header.json", json.dumps(header, indent=1, allow_nan=False).encode(), level=1)
            for name, array in arrays.items():
                add_member(archive, f"{name}.npy", npy(array), level=1)
        return buffer.getvalue()

    @classmethod
    def load(cls, path: str | Path) -> "Annotation":
        """Read a file.

        Raises:
            InputError: there is no such file, it is no annotation, of a newer version, or damaged.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot read the annotation: {error.strerror or error}") from error
        return cls.from_bytes(data, str(path))

    @classmethod
    def from_bytes(cls, data: bytes, name: str = "annotation") -> "Annotation":
        """Read a file's content; ``name`` stands in messages. Raises InputError as :meth:`load` does."""
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                header = json.loads(archive.read("header.json"))
                if header.get("format") != "spam-cvat annotation":
                    raise InputError(f"{name}: not a spam-cvat annotation file")
                if header["version"] != FORMAT_VERSION:
                    raise InputError(
                        f"{name}: format version {header['version']}, this program reads {FORMAT_VERSION}; "
                        "use the spam-cvat that wrote it, or annotate again"
                    )
                arrays = {}
                for member in archive.namelist():
                    if member.endswith(".npy"):
                        with archive.open(member) as stream:
                            arrays[member[:-4]] = np.lib.format.read_array(stream, allow_pickle=False)
            video = VideoInfo(**header["video"])
            detections = Detections(
                video=video,
                **{key: arrays[f"detections/{key}"] for key in ("frame", "box", "score", "label")},
                labels=tuple(header["labels"]),
                embedding=arrays.get("detections/embedding"),
            )
            tracks = Tracks(
                video=video,
                **{key: arrays[f"tracks/{key}"] for key in ("frame", "track", "box", "score", "detection", "label")},
                labels=tuple(header["track_labels"]),
            )
            extents = header["extents"]
            stages = header.get("stages", [""] * len(extents))
            levels = tuple(
                Level(
                    extent,
                    stage=stage,
                    **{key: arrays[f"levels/{index}/{key}"] for key in LEVEL_ARRAYS},
                )
                for index, (extent, stage) in enumerate(zip(extents, stages, strict=True))
            )
            return cls(detections, arrays["gate"], levels, tracks, header["config"], header["provenance"])
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, EOFError, OSError) as error:
            raise InputError(f"{name}: damaged or not a spam-cvat annotation file ({error})") from error
