"""Each gesture of the annotation page leaves on the stand-in exactly what it left on a real server."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from cvat_standin import CvatStandin, Page, PageError

Json = dict[str, Any]
# One white pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
VERDICTS = ["?", "real", "false", "mixed"]


def question(name: str) -> Json:
    """A label with the attributes of the recorded ones, in their order: verdict, m_verdict, done, uid, m_uid."""

    def spec(name: str, kind: str, mutable: bool, default: str, values: list[str]) -> Json:
        return {"name": name, "input_type": kind, "mutable": mutable, "default_value": default, "values": values}

    return {
        "name": name,
        "type": "rectangle",
        "attributes": [
            spec("verdict", "radio", False, "?", VERDICTS),
            spec("m_verdict", "radio", True, "?", VERDICTS),
            spec("done", "checkbox", False, "false", ["false"]),
            spec("uid", "text", False, "", [""]),
            spec("m_uid", "text", True, "", [""]),
        ],
    }


# Ids of the recorded labels and of their attribute specifications, in order.
RECORDED_LABELS, RECORDED_SPECS = (39, 40), tuple(range(69, 79))


class Recording:
    """One recorded edit, replayed: what was sent is written with our ids, what was read is compared without ids."""

    def __init__(self, server: CvatStandin, folder: Path, name: str) -> None:
        def load(part: str) -> Any:
            return json.loads((folder / f"edit_{name}_{part}.json").read_text())

        self.before, self.after, sent = load("1_before"), load("2_after"), load("0_sent")
        names = {f"{n:03d}.png": PNG for n in range(180)}
        task = server.create_task_from_images(names, labels=[question("subject"), question("other")], segment_size=10)
        labels = list(server.state.labels_of(task).values())
        self._labels = dict(zip(RECORDED_LABELS, (label.id for label in labels), strict=True))
        specs = [spec["id"] for label in labels for spec in label.attributes]
        self._specs = dict(zip(RECORDED_SPECS, specs, strict=True))
        start = min(track["frame"] for track in sent) // 10 * 10
        self.job = next(job for job in server.jobs(task) if job.start == start)
        self.server = server
        self.http = httpx.Client(
            base_url=server.url, headers={"Authorization": f"Bearer {server.token(read_only=False)}"}
        )
        answer = self.http.patch(self._path, params={"action": "create"}, json={"tracks": self._ours(sent)})
        assert answer.status_code == 200

    @property
    def _path(self) -> str:
        return f"/api/jobs/{self.job.id}/annotations"

    def _ours(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {name: self._ours(item, name) for name, item in value.items()}
        if isinstance(value, list):
            return [self._ours(item) for item in value]
        return {"label_id": self._labels, "spec_id": self._specs}.get(key, {}).get(value, value)

    def read(self) -> Json:
        answer: Json = self.http.get(self._path).json()
        return answer

    def page(self) -> Page:
        return self.server.open_page("admin", self.job)

    def expected(self, data: Json, before: Json) -> Json:
        """A recorded answer with our labels, and ids reduced to whether they were there before."""
        return comparable(self._ours(data), before)


def comparable(data: Json, before: Json) -> Json:
    """Annotations without what differs between servers: ids become places in ``before`` or "new", attributes a map."""
    frames = {shape["id"]: shape["frame"] for track in before["tracks"] for shape in track["shapes"]}

    def plain(row: Json, ids: dict[int, int]) -> Json:
        values = {item["spec_id"]: item["value"] for item in row["attributes"]}
        made = row | {"id": ids.get(row["id"], "new"), "attributes": values}
        return made | ({"shapes": [plain(shape, frames) for shape in row["shapes"]]} if "shapes" in row else {})

    result = {}
    for kind in ("tags", "shapes", "tracks"):
        known = {row["id"]: place for place, row in enumerate(before[kind])}
        result[kind] = [plain(row, known) for row in data[kind]]
    return result


@pytest.fixture(scope="module")
def server() -> Iterator[CvatStandin]:
    with CvatStandin() as standin:
        yield standin


@pytest.fixture(scope="module")
def folder(spam_cvat_facts: Path) -> Path:
    return spam_cvat_facts / "samples" / "review"


def ids(page: Page) -> list[int]:
    return [row["id"] for row in page.of_kind("tracks")]


def merge_neighbours(page: Page, edit: Recording) -> None:
    """The recording joined the first track to that of the two later ones of which a box appears in the result."""
    first, *others = page.of_kind("tracks")
    merged = next(row for row in edit.after["tracks"] if row["source"] == "manual")
    boxes = [shape["points"] for shape in merged["shapes"]]
    partner = next(row for row in others if row["shapes"][0]["points"] in boxes)
    assert page.merge([first["id"], partner["id"]]) is not None


def move(page: Page, edit: Recording) -> None:
    old = {shape["frame"]: shape["points"] for shape in edit.before["tracks"][0]["shapes"]}
    moved = next(s for s in edit.after["tracks"][0]["shapes"] if old.get(s["frame"]) != s["points"])
    page.move_box(ids(page)[0], moved["points"], moved["frame"])


def draw(page: Page, edit: Recording) -> None:
    made = edit.after["shapes"][0]
    page.draw("subject", made["frame"], made["points"])


def frame_where(edit: Recording, flag: str) -> int:
    return int(next(shape["frame"] for shape in edit.after["tracks"][0]["shapes"] if shape[flag]))


def other_label(page: Page) -> None:
    first, second = page.of_kind("tracks")[:2]
    assert first["label_id"] != second["label_id"]
    assert page.merge([first["id"], second["id"]]) is None


GESTURES: dict[str, Callable[[Page, Recording], Any]] = {
    "attr_immutable": lambda page, edit: page.set_attribute(ids(page)[0], "verdict", "false"),
    "attr_mutable": lambda page, edit: page.set_attribute(ids(page)[0], "m_verdict", "false", frame=83),
    "change_label": lambda page, edit: page.change_label(ids(page)[0], "other"),
    "del_frame": lambda page, edit: page.delete_frame(142),
    "delete_track": lambda page, edit: page.delete(ids(page)[0]),
    "draw_new": draw,
    "merge_diff_label": lambda page, edit: other_label(page),
    "merge_same_label": merge_neighbours,
    "move_box_dense": move,
    "move_box_sparse": move,
    "occluded_q": lambda page, edit: page.set_occluded(ids(page)[0], frame_where(edit, "occluded")),
    "outside_o": lambda page, edit: page.set_outside(ids(page)[0], frame_where(edit, "outside")),
    "split_dense": lambda page, edit: page.split(ids(page)[0], edit.after["tracks"][1]["frame"]),
    "split_sparse": lambda page, edit: page.split(ids(page)[0], edit.after["tracks"][1]["frame"]),
}


@pytest.mark.parametrize("name", GESTURES)
def test_a_gesture_leaves_what_it_left_on_a_real_server(server: CvatStandin, folder: Path, name: str) -> None:
    edit = Recording(server, folder, name)
    before = edit.read()
    assert comparable(before, before) == edit.expected(edit.before, edit._ours(edit.before))
    page = edit.page()
    GESTURES[name](page, edit)
    page.save()
    expected = edit.expected(edit.after, edit._ours(edit.before))
    ours = comparable(edit.read(), before)
    assert [round_points(row) for row in ours["tracks"] + ours["shapes"]] == [
        round_points(row) for row in expected["tracks"] + expected["shapes"]
    ]
    assert edit.job.state == "in progress"


def round_points(row: Json) -> Json:
    """Interpolated boxes differ in the last digits of a float."""
    made = row | ({"points": [round(value, 6) for value in row["points"]]} if "points" in row else {})
    return made | ({"shapes": [round_points(shape) for shape in row["shapes"]]} if "shapes" in row else {})


def test_a_deleted_frame_shows_in_the_meta_of_job_and_task(server: CvatStandin, folder: Path) -> None:
    edit = Recording(server, folder, "del_frame")
    edit.page().delete_frame(142)
    task = edit.job.task.id
    assert edit.http.get(f"/api/jobs/{edit.job.id}/data/meta").json()["deleted_frames"] == [142]
    assert edit.http.get(f"/api/tasks/{task}/data/meta").json()["deleted_frames"] == [142]


def test_finishing_sets_the_state_and_the_date_and_leaves_the_stage(server: CvatStandin, folder: Path) -> None:
    edit = Recording(server, folder, "del_frame")
    path = f"/api/jobs/{edit.job.id}"
    before = edit.http.get(path).json()
    edit.page().finish()
    after = edit.http.get(path).json()
    assert (after["state"], after["stage"]) == ("completed", "annotation")
    assert after["updated_date"] > before["updated_date"]
    assert edit.http.get(f"/api/tasks/{edit.job.task.id}").json()["jobs"]["completed"] == 0
    done = edit.http.get("/api/jobs", params={"task_id": edit.job.task.id, "state": "completed"}).json()["results"]
    assert [job["id"] for job in done] == [edit.job.id]


SHEETS = [
    {
        "name": "REAL person?",
        "type": "tag",
        "attributes": [
            {"name": "answer", "mutable": False, "input_type": "radio", "default_value": "?", "values": VERDICTS}
        ],
    },
    {
        "name": "FIX the box",
        "type": "rectangle",
        "attributes": [
            {
                "name": "answer",
                "mutable": False,
                "input_type": "radio",
                "default_value": "?",
                "values": ["?", "ok", "fixed"],
            }
        ],
    },
]


@pytest.fixture
def sheets(server: CvatStandin) -> tuple[int, httpx.Client]:
    """A job of three sheets, each with a tag of its own group, and one box to fix."""
    task = server.create_task_from_images({f"{n}.png": PNG for n in range(3)}, labels=SHEETS)
    job = server.jobs(task)[0]
    tag, box = server.state.labels_of(task)
    http = httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.token(read_only=False)}"})
    tags = [{"label_id": tag, "frame": n, "group": n + 1, "source": "auto"} for n in range(3)]
    fix = {"label_id": box, "frame": 2, "group": 3, "source": "auto", "type": "rectangle", "points": [1, 1, 9, 9]}
    body = {"tags": tags, "shapes": [fix]}
    http.patch(f"/api/jobs/{job.id}/annotations", params={"action": "create"}, json=body)
    return job.id, http


def test_an_answered_tag_keeps_id_and_source_and_loses_its_group(
    server: CvatStandin, sheets: tuple[int, httpx.Client]
) -> None:
    job, http = sheets
    page = server.open_page("admin", job)
    first = page.of_kind("tags")[0]["id"]
    assert page.frame_name(0) == "0.png"
    assert page.value(first, "answer", kind="tags") == "?"
    page.answer(first, "real")
    page.finish()
    tags = http.get(f"/api/jobs/{job}/annotations").json()["tags"]
    assert [(tag["id"], tag["group"], tag["source"], tag["attributes"][0]["value"]) for tag in tags] == [
        (first, 0, "auto", "real"),
        (first + 1, 2, "auto", "?"),
        (first + 2, 3, "auto", "?"),
    ]


def test_a_redrawn_box_keeps_its_id_and_becomes_semi_auto(
    server: CvatStandin, sheets: tuple[int, httpx.Client]
) -> None:
    job, http = sheets
    page = server.open_page("admin", job)
    box = page.of_kind("shapes")[0]["id"]
    page.move_box(box, [2, 2, 8, 8])
    page.answer(box, "fixed", kind="shapes")
    page.save()
    shape = http.get(f"/api/jobs/{job}/annotations").json()["shapes"][0]
    assert (shape["id"], shape["source"], shape["points"], shape["group"]) == (box, "semi-auto", [2, 2, 8, 8], 3)


def test_an_open_page_overwrites_what_the_server_changed_meanwhile(server: CvatStandin, folder: Path) -> None:
    """A track deleted on the server comes back under its id, and a box moved there is lost without a word."""
    edit = Recording(server, folder, "merge_same_label")
    page = edit.page()
    gone, moved, _ = page.of_kind("tracks")
    elsewhere = edit.page()
    elsewhere.delete(gone["id"])
    elsewhere.move_box(moved["id"], [1, 2, 30, 40], frame=moved["frame"])
    elsewhere.save()
    page.set_occluded(gone["id"], gone["frame"])
    page.set_occluded(moved["id"], moved["frame"] + 1)
    page.save()
    tracks = {row["id"]: row for row in edit.read()["tracks"]}
    assert gone["id"] in tracks
    assert tracks[moved["id"]]["shapes"][0]["points"] == moved["shapes"][0]["points"]


def test_what_the_page_cannot_do_it_refuses(server: CvatStandin, folder: Path) -> None:
    edit = Recording(server, folder, "split_dense")
    page = edit.page()
    track = ids(page)[0]
    with pytest.raises(PageError, match="cannot be split in frame 20"):
        page.split(track, 20)
    with pytest.raises(PageError, match="no label 'cat'"):
        page.draw("cat", 20, [0, 0, 1, 1])
    with pytest.raises(PageError, match="no such object: 77"):
        page.delete(77)
    with pytest.raises(PageError, match="visible in frame 20"):
        page.merge([track, track])
