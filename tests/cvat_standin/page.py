"""The annotation page of CVAT, played over the API: what an annotator does there, written as the page writes it.

In: a job opened by a user, and gestures. Out: on saving, the very requests the page sends: created, changed and deleted
objects. The page compares with what it loaded and never looks at the server again, so that it overwrites what others
changed meanwhile. A gesture changes the copy in memory only; :meth:`Page.save` and :meth:`Page.finish` write.
"""

import copy
from collections.abc import Sequence
from typing import Any

import httpx

from cvat_standin.annotations import box_at

Json = dict[str, Any]
Key = tuple[str, int]
KINDS = ("tags", "shapes", "tracks")


class PageError(Exception):
    """The page shows an error: the server refused, or the gesture is not possible."""


def _attribute(values: Sequence[Json], spec: int, value: str) -> list[Json]:
    """Attribute values with one replaced, in the order in which the page sends them."""
    known = {row["spec_id"]: row["value"] for row in values} | {spec: value}
    return [{"spec_id": key, "value": known[key]} for key in sorted(known)]


def _only(kind: str | None) -> Sequence[str]:
    """The kinds among which an object is sought."""
    return KINDS if kind is None else (kind,)


def _edited(source: str) -> str:
    """The source of an object once a human has changed its geometry."""
    return "semi-auto" if source in ("auto", "semi-auto") else "manual"


class Page:
    """One job, open in one annotator's browser.

    Objects are named by their id. What was drawn, merged or split has a negative id until it is saved. Tags, shapes and
    tracks are numbered apart: where an id means several objects, say which with ``kind``.

    Args:
        url: address of the server.
        token: an access token that may write.
        job: id of the job.

    Raises:
        PageError: the job cannot be opened.
    """

    def __init__(self, url: str, token: str, job: int) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {token}"}, timeout=60)
        self.job_id = job
        self._next_new = 0
        self.reload()

    def close(self) -> None:
        """Close the connection, not the page: nothing is saved."""
        self._http.close()

    def _call(self, method: str, path: str, body: Any = None, **query: str) -> Any:
        reply = self._http.request(method, path, json=body, params=query)
        if reply.status_code >= 400:
            raise PageError(f"{method} {path}: {reply.status_code} {reply.text}")
        return reply.json() if reply.content else None

    def reload(self) -> None:
        """Open the job anew; unsaved changes are lost."""
        path = f"/api/jobs/{self.job_id}"
        self.job: Json = self._call("GET", path)
        found = self._call("GET", "/api/labels", job_id=str(self.job_id), page_size="500")["results"]
        self.labels: dict[int, Json] = {label["id"]: label for label in found}
        self.meta: Json = self._call("GET", f"{path}/data/meta")
        self._load(self._call("GET", f"{path}/annotations"))

    def _load(self, data: Json) -> None:
        self.objects: dict[Key, Json] = {(kind, row["id"]): row for kind in KINDS for row in data[kind]}
        self._loaded = copy.deepcopy(self.objects)

    # --- looking ------------------------------------------------------------------------------------------------------

    def of_kind(self, kind: str) -> list[Json]:
        """All ``tags``, ``shapes`` or ``tracks`` of the page."""
        return [row for (other, _), row in self.objects.items() if other == kind]

    def frame_name(self, frame: int) -> str:
        """The file name shown above a frame."""
        frames = self.meta["frames"]
        return str(frames[0 if len(frames) == 1 else frame - self.job["start_frame"]]["name"])

    def label(self, name: str) -> Json:
        """A label by name.

        Raises:
            PageError: the job has none of that name.
        """
        for label in self.labels.values():
            if label["name"] == name:
                return label
        raise PageError(f"job {self.job_id} has no label {name!r}")

    def _object(self, id: int, *kinds: str) -> tuple[str, Json]:
        """Kind and content of an object, sought among some kinds."""
        found = [(kind, self.objects[kind, id]) for kind in kinds or KINDS if (kind, id) in self.objects]
        if not found:
            raise PageError(f"job {self.job_id} has no such object: {id}")
        if len(found) > 1:
            raise PageError(f"job {self.job_id}: {id} is one of the {' and one of the '.join(k for k, _ in found)}")
        return found[0]

    def _spec(self, row: Json, name: str) -> Json:
        for spec in self.labels[row["label_id"]]["attributes"]:
            if spec["name"] == name:
                return spec
        raise PageError(f"object {row.get('id')} has no attribute {name!r}")

    def value(self, id: int, name: str, kind: str | None = None) -> str:
        """What a tag, a shape or a track's immutable attribute says now."""
        _, row = self._object(id, *_only(kind))
        spec = self._spec(row, name)["id"]
        return next(str(item["value"]) for item in row["attributes"] if item["spec_id"] == spec)

    # --- gestures -----------------------------------------------------------------------------------------------------

    def set_attribute(self, id: int, name: str, value: str, frame: int | None = None, kind: str | None = None) -> None:
        """Answer a question (a number key in the Attribute annotation workspace) or edit an attribute.

        The source stays as it was; a tag loses its group. A mutable attribute of a track changes in one ``frame``,
        which becomes a keyframe.
        """
        kind, row = self._object(id, *_only(kind))
        spec = self._spec(row, name)
        if kind == "tags":
            row["group"] = 0
        if kind == "tracks" and spec["mutable"]:
            if frame is None:
                raise PageError(f"{name} of track {id} changes by frame: give one")
            key = self._keyframe(row, frame)
            key["attributes"] = _attribute(key["attributes"], spec["id"], value)
        else:
            row["attributes"] = _attribute(row["attributes"], spec["id"], value)

    def answer(self, tag: int, value: str, kind: str = "tags") -> None:
        """Answer the question of a tag (or of a box, with ``kind="shapes"``): its first attribute takes ``value``."""
        _, row = self._object(tag, kind)
        self.set_attribute(tag, self.labels[row["label_id"]]["attributes"][0]["name"], value, kind=kind)

    @staticmethod
    def _keyframe(track: Json, frame: int) -> Json:
        """The keyframe of a track in a frame, made from the interpolated shape where there is none."""
        track["shapes"].sort(key=lambda shape: shape["frame"])
        found = box_at(track["shapes"], frame)
        if found is None:
            raise PageError(f"track {track['id']} is not in frame {frame}")
        if not any(shape is found for shape in track["shapes"]):
            found = {key: value for key, value in copy.deepcopy(found).items() if key != "id"}
            track["shapes"].append(found)
            track["shapes"].sort(key=lambda shape: shape["frame"])
        return found

    def move_box(self, id: int, points: Sequence[float], frame: int | None = None) -> None:
        """Drag, resize or redraw (Shift+N) a box: the id stays, the source becomes semi-auto.

        With a ``frame``, the box is a track's: its keyframe there moves, or one is added. Without, it is a shape.
        """
        _, row = self._object(id, "shapes" if frame is None else "tracks")
        target = row if frame is None else self._keyframe(row, frame)
        target["points"] = [float(value) for value in points]
        row["source"] = _edited(row["source"])

    def set_outside(self, track: int, frame: int, outside: bool = True) -> None:
        """Key O: the track leaves, or comes back, in a frame."""
        _, row = self._object(track, "tracks")
        self._keyframe(row, frame)["outside"] = outside
        row["source"] = _edited(row["source"])

    def set_occluded(self, track: int, frame: int, occluded: bool = True) -> None:
        """Key Q: the track is hidden in part in a frame."""
        _, row = self._object(track, "tracks")
        self._keyframe(row, frame)["occluded"] = occluded
        row["source"] = _edited(row["source"])

    def change_label(self, id: int, name: str, kind: str | None = None) -> None:
        """Choose another label: all attributes fall back to the defaults of the new label."""
        kind, row = self._object(id, *_only(kind))
        label = self.label(name)
        row["label_id"] = label["id"]
        row["attributes"] = self._defaults(label, None if kind != "tracks" else False)
        for shape in row.get("shapes", []):
            shape["attributes"] = self._defaults(label, True)

    @staticmethod
    def _defaults(label: Json, mutable: bool | None) -> list[Json]:
        specs = [spec for spec in label["attributes"] if mutable is None or spec["mutable"] == mutable]
        return [{"spec_id": spec["id"], "value": spec["default_value"]} for spec in specs]

    def delete(self, id: int, kind: str | None = None) -> None:
        """Key Del: the object is gone."""
        kind, _ = self._object(id, *_only(kind))
        del self.objects[kind, id]

    def _new(self, kind: str, row: Json) -> int:
        self._next_new -= 1
        self.objects[kind, self._next_new] = row
        return self._next_new

    def draw(self, label: str, frame: int, points: Sequence[float]) -> int:
        """Key N: a new box. It is a *shape*, not a track.

        Returns:
            Its id until it is saved.
        """
        chosen = self.label(label)
        return self._new(
            "shapes",
            {
                "label_id": chosen["id"],
                "type": "rectangle",
                "frame": frame,
                "group": 0,
                "source": "manual",
                "occluded": False,
                "outside": False,
                "z_order": 0,
                "rotation": 0.0,
                "points": [float(value) for value in points],
                "attributes": self._defaults(chosen, None),
                "elements": [],
            },
        )

    def merge(self, tracks: Sequence[int]) -> int | None:
        """Key M and clicks on each track: one new, manual track, with the immutable attributes of the first clicked.

        Returns:
            Its id until it is saved; None where the labels differ, for then the page does nothing and says nothing.

        Raises:
            PageError: two of them are visible in one keyframe.
        """
        rows = [self._object(id, "tracks")[1] for id in tracks]
        if len({row["label_id"] for row in rows}) != 1:
            return None
        keyframes: dict[int, Json] = {}
        for row in rows:
            for shape in row["shapes"]:
                other = keyframes.get(shape["frame"])
                if other is not None and not other["outside"] and not shape["outside"]:
                    raise PageError(f"two of the tracks {list(tracks)} are visible in frame {shape['frame']}")
                if other is None or other["outside"]:
                    keyframes[shape["frame"]] = copy.deepcopy(shape)
        for id in tracks:
            del self.objects["tracks", id]
        return self._new("tracks", self._made(rows[0], [keyframes[frame] for frame in sorted(keyframes)]))

    def split(self, track: int, frame: int) -> tuple[int, int]:
        """Keys Alt+M and a click: two new, manual tracks; the first is outside from ``frame``, the second starts there.

        Returns:
            Their ids until they are saved.

        Raises:
            PageError: the track is not there before ``frame``.
        """
        _, row = self._object(track, "tracks")
        shapes = sorted(row["shapes"], key=lambda shape: shape["frame"])
        here = box_at(shapes, frame)
        if here is None or shapes[0]["frame"] >= frame:
            raise PageError(f"track {track} cannot be split in frame {frame}")
        before = [shape for shape in shapes if shape["frame"] < frame]
        after = [shape for shape in shapes if shape["frame"] > frame]
        del self.objects["tracks", track]
        first = self._new("tracks", self._made(row, [*before, here | {"outside": True}]))
        return first, self._new("tracks", self._made(row, [here | {"outside": False}, *after]))

    @staticmethod
    def _made(model: Json, shapes: Sequence[Json]) -> Json:
        """A new track with the label and immutable attributes of another."""
        keys = ("type", "frame", "occluded", "outside", "z_order", "rotation", "points", "attributes")
        return {
            "label_id": model["label_id"],
            "frame": shapes[0]["frame"],
            "group": 0,
            "source": "manual",
            "shapes": [{key: copy.deepcopy(shape[key]) for key in keys} for shape in shapes],
            "attributes": copy.deepcopy(model["attributes"]),
            "elements": [],
        }

    def delete_frame(self, frame: int) -> None:
        """Delete a frame (Alt+Del); written at once."""
        frames = sorted({*self.meta["deleted_frames"], frame})
        self.meta = self._call("PATCH", f"/api/jobs/{self.job_id}/data/meta", {"deleted_frames": frames})
        self._begin()

    # --- writing ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _sent(keys: Sequence[Key], objects: dict[Key, Json]) -> Json:
        chosen = {kind: [_ordered(objects[key]) for key in keys if key[0] == kind] for kind in KINDS}
        return {"version": 0, **chosen}

    def _begin(self) -> None:
        if self.job["state"] == "new":
            self.job = self._call("PATCH", f"/api/jobs/{self.job_id}", {"state": "in progress"})

    def save(self) -> dict[int, int]:
        """Ctrl+S: send what is new, what differs from what was loaded, and what is gone, whatever the server holds now.

        Returns:
            The ids the server gave to new objects, by the ids they had here.
        """
        path = f"/api/jobs/{self.job_id}/annotations"
        new = [key for key in self.objects if key[1] < 0]
        changed = [key for key in self.objects if key[1] >= 0 and self.objects[key] != self._loaded.get(key)]
        gone = [key for key in self._loaded if key not in self.objects]
        given: dict[int, int] = {}
        if new:
            made = self._call("PATCH", path, self._sent(new, self.objects), action="create")
            for kind in KINDS:
                mine = [key for key in new if key[0] == kind]
                for key, row in zip(mine, made[kind], strict=True):
                    given[key[1]] = row["id"]
                    del self.objects[key]
                    self.objects[kind, row["id"]] = row
        if changed:
            answer = self._call("PATCH", path, self._sent(changed, self.objects), action="update")
            self.objects |= {(kind, row["id"]): row for kind in KINDS for row in answer[kind]}
        if gone:
            self._call("PATCH", path, self._sent(gone, self._loaded), action="delete")
        self._loaded = copy.deepcopy(self.objects)
        self._begin()
        return given

    def finish(self) -> None:
        """Menu, Finish the job: save, and set the state to ``completed``; the stage stays."""
        self.save()
        self.job = self._call("PATCH", f"/api/jobs/{self.job_id}", {"state": "completed"})


def _ordered(row: Json) -> Json:
    """An object as the page sends it: attribute values in the order of their specifications."""
    sent = copy.deepcopy(row)
    for holder in [sent, *sent.get("shapes", [])]:
        holder["attributes"] = sorted(holder["attributes"], key=lambda item: item["spec_id"])
    return sent
