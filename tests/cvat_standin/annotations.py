"""Annotations of a job as the server keeps them: created, replaced, cut per job and stitched together again on reading.

In: the JSON of ``/annotations``. Out: the same with ids, with the traps of the real server: shapes outside the job are
taken, an open track stays open, updates are deletions followed by creation under the old ids, keyframes are never
interpolated, and the order of attributes on reading is that of a hash table.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from scipy.optimize import linear_sum_assignment

Json = dict[str, Any]
SHAPE_TYPES = ("rectangle", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")
_STITCH_COST = 0.5


class AnnotationError(Exception):
    """The server refuses the annotations (400); the message is the body's detail."""


class ClashError(Exception):
    """An id given by the client exists already in another job (the server fails with 500)."""


class LabelLike(Protocol):
    """What is needed of a label: its attribute specifications."""

    def specs(self, *, mutable: bool | None = None) -> list[Json]:
        """Attribute specifications, all or only the mutable or immutable ones."""


@dataclass
class JobAnnotations:
    """Rows of one job, by id. Attribute values are kept with ids of their own, which decide the order on reading."""

    tags: dict[int, Json] = field(default_factory=dict)
    shapes: dict[int, Json] = field(default_factory=dict)
    tracks: dict[int, Json] = field(default_factory=dict)

    def table(self, kind: str) -> dict[int, Json]:
        """The rows of ``tags``, ``shapes`` or ``tracks``."""
        return {"tags": self.tags, "shapes": self.shapes, "tracks": self.tracks}[kind]

    def copy(self) -> "JobAnnotations":
        """The rows as they are now; writes replace rows and never change them."""
        return JobAnnotations(dict(self.tags), dict(self.shapes), dict(self.tracks))

    def is_empty(self) -> bool:
        """Nothing here."""
        return not (self.tags or self.shapes or self.tracks)


def empty() -> Json:
    """An answer with nothing in it."""
    return {"version": 0, "tags": [], "shapes": [], "tracks": []}


def is_empty(data: Json) -> bool:
    """Whether an answer holds nothing."""
    return not (data["tags"] or data["shapes"] or data["tracks"])


# --- checking what a client sends -------------------------------------------------------------------------------------


def _required(row: Json, key: str, where: str) -> Any:
    if not isinstance(row, dict) or row.get(key) is None:
        raise AnnotationError(f"{where}.{key}: This field is required.")
    return row[key]


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise AnnotationError(f"{where}: A valid integer is required.")
    return value


def _attributes(rows: Any, where: str) -> list[Json]:
    if not isinstance(rows, list):
        raise AnnotationError(f"{where}.attributes: Expected a list of items.")
    values = []
    for row in rows:
        value = _required(row, "value", f"{where}.attributes")
        if not isinstance(value, str) or len(value) > 4096:
            raise AnnotationError(f"{where}.attributes.value: Not a valid string of at most 4096 characters.")
        values.append({"spec_id": _integer(_required(row, "spec_id", f"{where}.attributes"), where), "value": value})
    return values


def _geometry(row: Json, where: str) -> Json:
    kind = _required(row, "type", where)
    if kind not in SHAPE_TYPES:
        raise AnnotationError(f'{where}.type: "{kind}" is not a valid choice.')
    points = row.get("points") or []
    if not all(isinstance(value, int | float) and np.isfinite(value) for value in points):
        raise AnnotationError(f"{where}.points: A valid number is required.")
    if kind == "rectangle" and len(points) != 4:
        raise AnnotationError(f"{where}.points: a rectangle has 4 numbers, not {len(points)}.")
    return {
        "type": kind,
        "occluded": bool(row.get("occluded", False)),
        "outside": bool(row.get("outside", False)),
        "z_order": int(row.get("z_order") or 0),
        "rotation": float(row.get("rotation") or 0.0),
        "points": [float(value) for value in points],
        "id": row.get("id"),
        "frame": _integer(_required(row, "frame", where), f"{where}.frame"),
        "attributes": _attributes(row.get("attributes", []), where),
    }


def _header(row: Json, where: str) -> Json:
    group = row.get("group")
    return {
        "id": row.get("id"),
        "frame": _integer(_required(row, "frame", where), f"{where}.frame"),
        "label_id": _integer(_required(row, "label_id", where), f"{where}.label_id"),
        "group": None if group is None else _integer(group, f"{where}.group"),
        "source": str(row.get("source") or "manual"),
    }


def parse(data: Any) -> Json:
    """Check the JSON of a client and fill in defaults.

    Raises:
        AnnotationError: a field is missing or has a wrong type or value.
    """
    if not isinstance(data, dict):
        raise AnnotationError("Invalid data. Expected a dictionary.")
    result = empty()
    for place, row in enumerate(data.get("tags") or []):
        where = f"tags[{place}]"
        result["tags"].append(_header(row, where) | {"attributes": _attributes(row.get("attributes", []), where)})
    for place, row in enumerate(data.get("shapes") or []):
        where = f"shapes[{place}]"
        result["shapes"].append(_header(row, where) | _geometry(row, where) | {"elements": row.get("elements") or []})
    for place, row in enumerate(data.get("tracks") or []):
        where = f"tracks[{place}]"
        header = _header(row, where)
        shapes = row.get("shapes")
        if not isinstance(shapes, list):
            raise AnnotationError(f"{where}.shapes: This field is required.")
        header["shapes"] = [_geometry(shape, f"{where}.shapes[{n}]") for n, shape in enumerate(shapes)]
        header["attributes"] = _attributes(row.get("attributes", []), where)
        header["elements"] = row.get("elements") or []
        result["tracks"].append(header)
    return result


def check_no_ids(data: Json) -> None:
    """Refuse a body that carries ids, as a PUT does.

    Raises:
        AnnotationError: a tag, shape, track or keyframe has an id.
    """
    for kind in ("tags", "shapes", "tracks"):
        for place, row in enumerate(data[kind]):
            if row["id"] is not None or any(shape["id"] is not None for shape in row.get("shapes", [])):
                raise AnnotationError(f"{kind}[{place}]: a new annotation must not have an id")


def _check_labels(data: Json, labels: Mapping[int, LabelLike]) -> None:
    def check(row: Json, label_id: int, mutable: bool | None) -> None:
        known = {spec["id"] for spec in labels[label_id].specs(mutable=mutable)}
        for value in row["attributes"]:
            if value["spec_id"] not in known:
                raise AnnotationError(f"spec_id `{value['spec_id']}` is invalid")

    for kind in ("tags", "shapes", "tracks"):
        for row in data[kind]:
            if row["label_id"] not in labels:
                raise AnnotationError(f"label_id `{row['label_id']}` is invalid")
            check(row, row["label_id"], False if kind == "tracks" else None)
            for shape in row.get("shapes", []):
                check(shape, row["label_id"], True)


# --- writing ----------------------------------------------------------------------------------------------------------


class Writer:
    """Creates, replaces and deletes the annotations of jobs; numbers come from ``next_id``."""

    def __init__(self, next_id: Callable[[str], int], taken: Callable[[str, int], bool]) -> None:
        self._next_id = next_id
        self._taken = taken

    def create(self, job: JobAnnotations, data: Json, labels: Mapping[int, LabelLike]) -> Json:
        """Add annotations; ids are given where there are none. Tracks without a keyframe are dropped.

        Raises:
            AnnotationError: a label or an attribute does not belong to the task.
            ClashError: an id exists already.
        """
        _check_labels(data, labels)
        written = copy.deepcopy(data)
        written["tracks"] = [_aligned(track) for track in written["tracks"] if track["shapes"]]
        for kind, name in (("tags", "tag"), ("shapes", "shape"), ("tracks", "track")):
            for row in written[kind]:
                if row["id"] is None:
                    row["id"] = self._next_id(name)
                elif self._taken(kind, row["id"]):
                    raise ClashError(f"duplicate key value violates unique constraint: {name} {row['id']}")
        for kind in ("tags", "shapes", "tracks"):
            for row in written[kind]:
                job.table(kind)[row["id"]] = self._stored(row)
        return written

    def _stored(self, row: Json) -> Json:
        for shape in row.get("shapes", []):
            if shape["id"] is None:
                shape["id"] = self._next_id("tracked_shape")
        stored = copy.deepcopy(row)
        for holder in [stored, *stored.get("shapes", [])]:
            for value in holder["attributes"]:
                value["id"] = self._next_id("attribute_value")
        return stored

    def delete(self, job: JobAnnotations, data: Json) -> Json:
        """Remove by id what is in this job. A track without keyframes is ignored, silently, as on the real server."""
        asked = {
            **data,
            "shapes": list(data["shapes"]),
            "tracks": [track for track in data["tracks"] if track["shapes"]],
        }
        for kind in ("tags", "shapes", "tracks"):
            for row in asked[kind]:
                job.table(kind).pop(row["id"], None)
        return asked

    def clear(self, job: JobAnnotations) -> None:
        """Remove everything."""
        for kind in ("tags", "shapes", "tracks"):
            job.table(kind).clear()


def _aligned(track: Json) -> Json:
    """A track begins with its first keyframe: an earlier ``frame`` gains an outside keyframe, a later one moves."""
    first = min(track["shapes"], key=lambda shape: shape["frame"])
    if track["frame"] < first["frame"]:
        track["shapes"].append(copy.deepcopy(first) | {"frame": track["frame"], "outside": True, "id": None})
    track["frame"] = min(track["frame"], first["frame"])
    return track


# --- reading ----------------------------------------------------------------------------------------------------------


def _extended(values: list[Json], defaults: Iterable[Json]) -> list[Json]:
    known = {value["spec_id"] for value in values}
    return values + [dict(value) for value in defaults if value["spec_id"] not in known]


def _plain(values: Sequence[Json]) -> list[Json]:
    return [{"spec_id": value["spec_id"], "value": value["value"]} for value in values]


def _shuffled(values: Sequence[Json]) -> list[Json]:
    """Attribute values of tracks pass through a set of their ids on the server, so their order varies."""
    by_id = {value["id"]: value for value in values}
    return _plain([by_id[number] for number in list(set(by_id))])


def _defaults(label: LabelLike, mutable: bool | None) -> list[Json]:
    return [{"spec_id": spec["id"], "value": spec["default_value"]} for spec in label.specs(mutable=mutable)]


def _read_shape(row: Json, attributes: list[Json]) -> Json:
    keys = ("id", "type", "frame", "occluded", "outside", "z_order", "rotation", "points")
    return {key: copy.copy(row[key]) for key in keys} | {"attributes": attributes}


def _read_track(row: Json, label: LabelLike) -> Json:
    shapes = []
    previous = _defaults(label, True)
    for shape in sorted(row["shapes"], key=lambda shape: shape["frame"]):
        previous = _extended(_shuffled(shape["attributes"]), previous)
        shapes.append(_read_shape(shape, previous))
    header = {key: row[key] for key in ("id", "label_id", "frame", "group", "source")}
    attributes = _extended(_shuffled(row["attributes"]), _defaults(label, False))
    return header | {"shapes": shapes, "attributes": attributes, "elements": copy.deepcopy(row["elements"])}


def read(job: JobAnnotations, labels: Mapping[int, LabelLike]) -> Json:
    """Everything in a job: missing attributes filled in, keyframes in order, nothing interpolated, nothing closed."""
    result = empty()
    for row in sorted(job.tags.values(), key=lambda row: (row["frame"], row["id"])):
        attributes = _extended(_plain(row["attributes"]), _defaults(labels[row["label_id"]], None))
        header = {key: row[key] for key in ("id", "label_id", "frame", "group", "source")}
        result["tags"].append(header | {"attributes": attributes})
    for row in sorted(job.shapes.values(), key=lambda row: (row["frame"], row["id"])):
        attributes = _extended(_plain(row["attributes"]), _defaults(labels[row["label_id"]], None))
        extra = {"label_id": row["label_id"], "group": row["group"], "source": row["source"], "elements": []}
        result["shapes"].append(_read_shape(row, attributes) | extra)
    result["tracks"] = [_read_track(job.tracks[key], labels[job.tracks[key]["label_id"]]) for key in sorted(job.tracks)]
    return result


# --- between task and jobs --------------------------------------------------------------------------------------------


def box_at(shapes: Sequence[Json], frame: int) -> Json | None:
    """The shape of a track in a frame: the keyframe, or points in between moved linearly; None before the first.

    Interpolated shapes have no id and carry the attributes of the keyframe before them; after the last keyframe the
    track runs on unchanged. ``outside`` is taken from the keyframe before.
    """
    before = [shape for shape in shapes if shape["frame"] <= frame]
    if not before:
        return None
    last = before[-1]
    if last["frame"] == frame:
        return last
    made = copy.deepcopy(last) | {"frame": frame, "id": None}
    after = next((shape for shape in shapes if shape["frame"] > frame), None)
    if after is not None and not last["outside"] and len(after["points"]) == len(last["points"]):
        part = (frame - last["frame"]) / (after["frame"] - last["frame"])
        start, end = np.asarray(last["points"]), np.asarray(after["points"])
        made["points"] = [float(value) for value in start + (end - start) * part]
    return made


def _cut_track(track: Json, start: int, stop: int) -> Json | None:
    """The part of a track in frames ``start`` .. ``stop``. It stays open where the whole track goes on."""
    shapes = sorted(track["shapes"], key=lambda shape: shape["frame"])
    inside = [copy.deepcopy(shape) for shape in shapes if start <= shape["frame"] <= stop]
    entry = box_at(shapes, start)
    if entry is not None and entry["frame"] == start and not any(shape["frame"] == start for shape in inside):
        inside.insert(0, entry)
    while inside and inside[0]["outside"]:
        inside.pop(0)
    if not inside:
        return None
    closing = next((shape for shape in shapes if shape["frame"] == stop + 1 and shape["outside"]), None)
    if closing is not None:
        inside.append(copy.deepcopy(closing))
    return copy.deepcopy({**track, "shapes": inside, "frame": inside[0]["frame"]})


def cut(data: Json, start: int, stop: int) -> Json:
    """What of a task's annotations belongs into a job: this is how writes to a task are spread over its jobs."""
    cuts = [_cut_track(track, start, stop) for track in data["tracks"] if track["shapes"]]
    return {
        "version": 0,
        "tags": [copy.deepcopy(row) for row in data["tags"] if start <= row["frame"] <= stop],
        "shapes": [copy.deepcopy(row) for row in data["shapes"] if start <= row["frame"] <= stop],
        "tracks": [track for track in cuts if track is not None],
    }


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two rectangles."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    common = width * height
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _similarity(a: Json, b: Json, frames: range) -> float:
    """Mean agreement of two tracks over the frames two neighbouring jobs share."""
    if a["label_id"] != b["label_id"] or not frames:
        return 0.0
    errors = []
    for frame in frames:
        one, two = box_at(a["shapes"], frame), box_at(b["shapes"], frame)
        if one is None and two is None:
            continue
        if one is None or two is None or one["outside"] != two["outside"]:
            errors.append(1.0)
        else:
            errors.append(1.0 - _overlap(one["points"], two["points"]))
    return 1.0 - sum(errors) / len(errors) if errors else 0.0


def _united(a: Json, b: Json) -> Json:
    """Two tracks that are one: the earlier keeps its id, keyframes of both remain."""
    first, second = (a, b) if a["frame"] <= b["frame"] else (b, a)
    keyframes = {shape["frame"]: shape for shape in second["shapes"]}
    keyframes |= {shape["frame"]: shape for shape in first["shapes"] if not shape["outside"]}
    return first | {"shapes": [keyframes[frame] for frame in sorted(keyframes)]}


def _closed(track: Json, frame: int) -> Json:
    last = track["shapes"][-1]
    if last["outside"]:
        return track
    end = copy.deepcopy(last) | {"frame": frame, "outside": True}
    return track | {"shapes": [*track["shapes"], end]}


def stitch(jobs: Sequence[tuple[int, Json]], overlap: int) -> Json:
    """The task's view of its jobs, each given as (first frame, annotations): neighbours are matched where they overlap.

    A track of an earlier job that finds no partner is closed where the overlap ends; the closing keyframe carries the
    id of the keyframe it repeats, as the real server shows it.
    """
    result = empty()
    for place, (start, data) in enumerate(jobs):
        shared = range(start, start + overlap)
        result["shapes"] += _without_twins(result["shapes"], data["shapes"], shared)
        result["tags"] += _without_twins(result["tags"], data["tags"], shared)
        tracks = copy.deepcopy(data["tracks"])
        if place == 0:
            result["tracks"] = tracks
            continue
        old = result["tracks"]
        live = [n for n, t in enumerate(old) if t["shapes"][-1]["frame"] >= start or not t["shapes"][-1]["outside"]]
        early = [n for n, t in enumerate(tracks) if t["frame"] < start + overlap]
        matched: dict[int, int] = {}
        if live and early:
            cost = np.array([[1.0 - _similarity(old[i], tracks[j], shared) for j in early] for i in live])
            for i, j in zip(*linear_sum_assignment(cost), strict=True):
                if cost[i, j] <= _STITCH_COST:
                    matched[live[i]] = early[j]
        for n in live:
            old[n] = _united(old[n], tracks[matched[n]]) if n in matched else _closed(old[n], start + overlap)
        taken = set(matched.values())
        old += [track for n, track in enumerate(tracks) if n not in taken]
    return result


def _without_twins(old: list[Json], new: list[Json], shared: range) -> list[Json]:
    """Shapes and tags of the next job, less those the previous job has in the shared frames already."""

    def twins(a: Json, b: Json) -> bool:
        if a["frame"] != b["frame"] or a["label_id"] != b["label_id"]:
            return False
        return "points" not in a or (a["type"] == b["type"] and _overlap(a["points"], b["points"]) >= 0.75)

    return [
        copy.deepcopy(row) for row in new if row["frame"] not in shared or not any(twins(row, other) for other in old)
    ]
