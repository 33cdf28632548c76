"""The review loop over HTTP: answers come home, human edits stay, nothing is written twice."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from companion_world import make_scene, make_world
from cvat_standin import CvatStandin

from spam_cvat.answers import resolve
from spam_cvat.cvat import review_tasks
from spam_cvat.cvat.annotate import answers_of
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.sync import create_review, sync_task, undo_task
from spam_cvat.errors import CvatError, InputError, SpamError
from spam_cvat.evaluation import evaluate


@pytest.fixture(scope="module")
def scene():
    return make_scene()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(review_tasks, "STATUS_SECONDS", 0.02)


@pytest.fixture
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture
def world(server, scene, tmp_path):
    return make_world(server, tmp_path / "store", scene)


@pytest.fixture
def parts(server, scene, tmp_path):
    """The same task, cut into three jobs."""
    return make_world(server, tmp_path / "store", scene, segment_size=20)


def sync(world, **options):
    return sync_task(world.conn, world.store, world.task, **options)


@pytest.mark.parametrize("form", ["sheets", "tracklets"])
def test_the_loop_makes_labels_better_and_honours_every_answer(parts, form):
    world = parts
    world.annotate()
    before = evaluate(world.scene.ground_truth, world.read())
    report = world.review("5%", form)
    assert report.created
    world.answer(by_hand=form == "tracklets")
    synced = sync(world)
    assert synced.answers > 0
    assert synced.finished
    after = evaluate(world.scene.ground_truth, world.read())
    assert after.HOTA > before.HOTA
    assert after.IDF1 > before.IDF1
    annotation = world.place.annotation()
    clamps = resolve(answers_of(world.place), annotation.detections)
    assert clamps
    assert clamps.violations(annotation.tracks) == []


def test_everything_twice_is_everything_once(world):
    world.annotate()
    again = world.annotate()
    assert (again.write.created, again.write.updated, again.write.deleted) == (0, 0, 0)
    first = world.review()
    second = world.review()
    assert (second.created, second.task) == (False, first.task)
    world.answer()
    sync(world)
    content = world.content()
    writes = len(world.server.calls)
    report = sync(world)
    assert (report.answers, report.solved, report.write.created, report.write.updated) == (0, False, 0, 0)
    assert not [c for c in world.server.calls[writes:] if c.method in ("PATCH", "PUT", "POST", "DELETE")]
    assert world.content() == content


def test_a_dry_run_writes_nothing(world, tmp_path):
    world.annotate()
    world.review()
    world.answer()
    content, files = world.content(), {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    report = sync(world, dry_run=True)
    assert report.dry_run
    assert report.answers > 0
    assert world.content() == content
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    real = sync(world)
    assert (real.answers, real.write.created, real.write.updated) == (
        report.answers, report.write.created, report.write.updated,
    )  # fmt: skip


def visible(shapes, frame):
    """The box that a track shows in a frame, by CVAT's rule."""
    before = [s for s in shapes if s[0] <= frame]
    if not before or before[-1][1]:
        return None
    after = [s for s in shapes if s[0] >= frame]
    left, right = before[-1], (after or before)[0]
    share = (frame - left[0]) / max(right[0] - left[0], 1)
    return tuple(np.array(left[2]) * (1 - share) + np.array(right[2]) * share)


def longest(world, job=0):
    tracks = world.annotations(world.jobs()[job])["tracks"]
    return max(tracks, key=lambda t: t["shapes"][-1]["frame"] - t["shapes"][0]["frame"])


def test_edits_in_the_task_survive_every_sync(world):
    world.annotate()
    moved = longest(world)
    page = world.page()
    frame = moved["shapes"][0]["frame"] + 4
    page.move_box(moved["id"], (1, 2, 33, 44), frame=frame)
    victim = next(t["id"] for t in page.of_kind("tracks") if t["id"] != moved["id"])
    gone = world.content()[victim]
    page.delete(victim, kind="tracks")
    page.save()
    page.finish()
    world.review("5%")
    world.answer()
    for _ in range(2):
        report = sync(world)
        now = world.content()
        assert visible(now[moved["id"]], frame) == (1, 2, 33, 44)
        assert victim not in now
        start, box = gone[0][0], np.array(gone[0][2])
        assert not any(
            (there := visible(shapes, start)) is not None and np.abs(np.array(there) - box).max() < 2
            for shapes in now.values()
        )
    assert report.write.human >= 1
    kinds = {answer.kind for answer in answers_of(world.place) if (answer.question or "").startswith("edit")}
    assert {"refine", "reject"} <= kinds


def test_a_track_drawn_by_a_human_is_neither_touched_nor_repeated(world):
    world.annotate()
    model = longest(world)
    page = world.page()
    page.delete(model["id"], kind="tracks")
    page.save()
    job = world.jobs()[0]
    body = {"tracks": [{**{k: v for k, v in model.items() if k != "id"}, "source": "manual",
                        "shapes": [{k: v for k, v in s.items() if k != "id"} for s in model["shapes"]]}],
            "shapes": [], "tags": [], "version": 0}  # fmt: skip
    made = world.conn.patch(f"/api/jobs/{job}/annotations/", body, query={"action": "create"})["tracks"][0]["id"]
    page.finish()
    before = world.content()[made]
    sync(world)
    now = world.content()
    assert now[made] == before
    middle = (model["shapes"][0]["frame"] + model["shapes"][-1]["frame"]) // 2
    box = visible(before, middle)
    twins = [i for i, s in now.items() if visible(s, middle) and np.abs(np.subtract(visible(s, middle), box)).max() < 2]
    assert twins == [made]


def test_a_job_somebody_works_in_is_held_back_and_said_so(world):
    world.annotate()
    page = world.page()
    page.move_box(longest(world)["id"], (1, 2, 33, 44), frame=longest(world)["shapes"][0]["frame"])
    page.save()
    world.review("5%")
    world.answer()
    content = world.content()
    report = sync(world)
    assert report.answers > 0
    assert "is working in it" in report.write.held[0]
    assert not report.finished
    assert world.content() == content
    forced = sync(world, force=True)
    assert not forced.write.held
    assert "in progress" in forced.write.warnings[0]
    assert world.content() != content


def test_two_syncs_at_once_write_once(world):
    world.annotate()
    world.review("5%")
    world.answer()
    with ThreadPoolExecutor(2) as pool:
        reports = list(pool.map(lambda _: sync(world), range(2)))
    assert min(report.answers for report in reports) == 0
    logged = [(answer.question, answer.kind, answer.detections) for answer in answers_of(world.place)]
    assert len(logged) == len(set(logged))
    again = sync(world)
    assert (again.answers, again.write.created, again.write.updated, again.write.deleted) == (0, 0, 0, 0)


def test_a_changed_reply_replaces_the_earlier_one(world):
    world.annotate()
    world.review("5%")
    review = world.last_review()
    world.answer()
    sync(world)
    asked = review.batch(0)[0]
    page = world.server.open_page("admin", review.jobs[0])
    tag = next(t for t in page.of_kind("tags") if page.frame_name(t["frame"]) == asked.files[0])
    old = page.value(tag["id"], "answer", kind="tags")
    page.answer(tag["id"], next(value for value in asked.question.choices if value not in (old, "unsure", "mixed")))
    world.server.clock.advance(5)
    page.save()
    report = sync(world)
    assert report.jobs_read == 1
    assert report.answers >= 1
    clamps = resolve(answers_of(world.place), world.place.annotation().detections)
    assert any(asked.question.id in line for line in clamps.replaced)
    page.answer(tag["id"], "?")
    world.server.clock.advance(5)
    page.save()
    sync(world)
    assert answers_of(world.place)[-1].kind == "withdraw"


def test_nonsense_in_a_review_job_counts_as_not_answered(world):
    world.annotate()
    world.review("5%")
    review = world.last_review()
    job = review.jobs[0]
    tags = world.annotations(job)["tags"]
    tags[0]["attributes"][0]["value"] = "banana"
    world.conn.patch(f"/api/jobs/{job}/annotations/", {"tags": tags[:1], "shapes": [], "tracks": [], "version": 0},
                     query={"action": "update"})  # fmt: skip
    world.conn.patch(f"/api/jobs/{job}/annotations/", {"tags": tags[1:2], "shapes": [], "tracks": [], "version": 0},
                     query={"action": "delete"})  # fmt: skip
    world.conn.patch(f"/api/jobs/{job}", {"state": "completed"})
    report = sync(world)
    assert report.answers == 0
    assert set(report.replies) == {"?"}
    assert any("banana" in note for note in report.notes)


def test_undo_restores_what_a_sync_replaced(parts):
    world = parts
    world.annotate()
    before = world.content()
    world.review("5%")
    world.answer()
    sync(world)
    assert world.content() != before
    plan = undo_task(world.conn, world.store, world.task, dry_run=True)
    assert plan.restored + plan.deleted > 0
    undo_task(world.conn, world.store, world.task)
    assert world.content() == before
    undo_task(world.conn, world.store, world.task)
    assert world.content() == {}
    with pytest.raises(SpamError, match="nothing to undo"):
        undo_task(world.conn, world.store, world.task)
    # The answers are still there, and the next sync uses them.
    assert sync(world).write.created > 0


def test_undo_does_not_run_over_newer_edits(world):
    world.annotate()
    world.review("5%")
    world.answer()
    sync(world)
    page = world.page()
    track = longest(world)
    page.move_box(track["id"], (1, 2, 33, 44), frame=track["shapes"][0]["frame"])
    page.save()
    content = world.content()
    with pytest.raises(SpamError, match="nothing was undone"):
        undo_task(world.conn, world.store, world.task, steps=2)
    report = undo_task(world.conn, world.store, world.task, steps=2, force=True)
    assert report.kept
    assert world.content() == {track["id"]: content[track["id"]]}


def shown(world):
    """The boxes in the task, whoever carries them."""
    tracks = world.read()
    return sorted(zip(tracks.frame.tolist(), tracks.box.round(1).tolist(), strict=True))


@pytest.mark.parametrize("kind", ["drop", "drop-after"])
def test_a_sync_cut_off_at_every_write_is_finished_by_the_next(server, scene, tmp_path, kind):
    """``drop-after``: the server did it and we never heard; ``drop``: it did not."""
    worlds = [make_world(server, tmp_path / name, scene, segment_size=30) for name in ("whole", "cut")]
    for world in worlds:
        world.annotate()
        world.review("5%")
        world.answer()
    whole, world = worlds
    sync(whole)
    cuts = 0
    while True:
        after = cuts % 3 if kind == "drop" else 0
        with server.failing("/api/jobs/*/annotations", "PATCH", kind=kind, count=1, after=after) as fault:
            try:
                sync(world)
            except CvatError:
                cuts += 1
        if not fault.struck:
            break
    assert cuts >= 2
    assert shown(world) == shown(whole)
    assert sync(world).write.created == 0


def test_without_a_store_the_task_itself_is_enough(world, tmp_path):
    world.annotate()
    elsewhere = Store(tmp_path / "elsewhere")
    report = create_review(world.conn, elsewhere, world.task, "5%")
    assert any("rebuilt from its" in note for note in report.notes)
    before = world.read()
    synced = sync_task(world.conn, elsewhere, world.task)
    assert any("taken for ours" in note for note in synced.notes)
    assert synced.write.human == 0
    # The tracks were replaced, not repeated: nothing is there twice.
    after = world.read()
    assert 0.8 * len(before) < len(after) < 1.2 * len(before)
    assert sync_task(world.conn, elsewhere, world.task).write.created == 0


def test_a_task_without_anything_says_what_to_do(world):
    with pytest.raises(InputError, match="annotate it first"):
        sync(world)


def test_a_task_without_the_label_is_refused_before_anything_changes(server, scene, tmp_path):
    world = make_world(server, tmp_path / "store", scene)
    world.annotate()
    other = server.create_task_from_video([np.zeros((240, 320, 3), np.uint8)] * 48, labels=("car", "bus"))
    world.store.task(world.conn.url, other.id).save_annotation(world.place.annotation())
    with pytest.raises(InputError, match="has no label for boxes named 'person'"):
        sync_task(world.conn, world.store, other.id)


def test_a_deleted_review_task_is_told_of_and_can_be_asked_again(world):
    world.annotate()
    first = world.review()
    world.conn.delete(f"/api/tasks/{first.task}")
    report = sync(world)
    assert any("is gone" in note for note in report.notes)
    second = world.review()
    assert second.created
    assert second.task != first.task


def test_watching_ends_when_every_job_is_answered(world):
    world.annotate()
    world.review("5%")
    seen = []

    def on_report(report):
        seen.append(report)
        if len(seen) == 1:
            world.answer()

    report = sync(world, watch=True, interval=0.01, on_report=on_report)
    assert report.finished
    assert [r.jobs_open for r in seen] == [1, 0]


def test_frames_deleted_in_the_task_get_no_boxes(world):
    world.annotate()
    world.conn.patch(f"/api/tasks/{world.task}/data/meta", {"deleted_frames": [5, 6]})
    world.review("5%")
    world.answer()
    sync(world)
    assert not np.isin(world.read().frame, [5, 6]).any()
