import threading

import numpy as np
import pytest
from cvat_standin import CvatStandin

from spam_cvat.cvat import push
from spam_cvat.cvat.connect import CvatStatusError, connect
from spam_cvat.cvat.push import (
    PushedTrack,
    PushRecord,
    compare_job,
    create_tracks,
    load_record,
    track_digest,
    without_covered,
    write_tracks,
)
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.tasks import job_annotations, read_task, read_tracks, rectangle_tracks
from spam_cvat.detections import VideoInfo
from spam_cvat.errors import CancelledError, CvatError, InputError
from spam_cvat.tracks import Tracks

FRAMES = 12


@pytest.fixture(scope="module")
def server():
    with CvatStandin() as standin:
        yield standin


@pytest.fixture(scope="module")
def conn(server):
    return connect(server.url, server.token("admin", read_only=False))


@pytest.fixture
def task(server, conn):
    return new_task(server, conn)


@pytest.fixture
def store(tmp_path, server, task):
    return Store(tmp_path).task(server.url, task.id)


def new_task(server, conn, **more):
    images = [np.full((48, 64, 3), 5 * number, np.uint8) for number in range(FRAMES)]
    return read_task(conn, server.create_task_from_video(images, **({"segment_size": 4, "overlap": 0} | more)).id)


def some_tracks(task, starts=((0, 0), (20, 20)), frames=range(FRAMES), first=1):
    """Tracks that move one pixel a frame, from the given corners."""
    rows = [
        (frame, number, [left + frame, top, left + frame + 10, top + 20])
        for number, (left, top) in enumerate(starts, first)
        for frame in frames
    ]
    frame, number, box = zip(*rows, strict=True)
    return Tracks.create(task.video, frame, number, box)


def in_jobs(conn, task):
    """All tracks of the task, job by job."""
    return [rectangle_tracks(job_annotations(conn, job.id)) for job in task.annotation_jobs]


def writes(server):
    return [call for call in server.calls if call.method == "PATCH" and call.path.endswith("annotations")]


def test_tracks_are_written_per_job_thinned_and_inside_the_job(conn, task, store):
    tracks = some_tracks(task, frames=range(1, 10))
    report = write_tracks(conn, task, tracks, store=store)
    assert (report.created, report.deleted, report.kept) == (6, 0, 0)
    per_job = in_jobs(conn, task)
    for job, found in zip(task.annotation_jobs, per_job, strict=True):
        frames = [shape["frame"] for track in found for shape in track["shapes"]]
        assert len(found) == 2
        assert min(frames) >= job.start
        assert max(frames) < job.stop
        assert {track["source"] for track in found} == {"auto"}
    assert [len(track["shapes"]) for track in per_job[1]] == [2, 2], "a straight line needs its two ends"
    assert per_job[2][0]["shapes"][-1]["outside"], "a track that ends inside a job is closed there"
    back = read_tracks(conn, task, report.record.identities)
    assert back.tracks.frame.tolist() == tracks.frame.tolist()
    assert back.tracks.track.tolist() == tracks.track.tolist()
    np.testing.assert_allclose(back.tracks.box, tracks.box, atol=1)


def test_the_record_says_which_track_carries_what_and_survives_a_reread(conn, task, store):
    report = write_tracks(conn, task, some_tracks(task), store=store, provenance={"asked": "test"})
    record = load_record(store, task)
    assert record == report.record
    assert record.pending == {}
    assert sorted(set(record.identities.values())) == [1, 2]
    assert record.provenance == {"asked": "test"}
    for job, found in zip(task.annotation_jobs, in_jobs(conn, task), strict=True):
        comparison = compare_job(task, job, found, record)
        assert [entry.track for entry, _ in comparison.untouched] == [1, 2]
        assert (comparison.changed, comparison.deleted, comparison.foreign) == ((), (), ())


def test_writing_the_same_again_changes_nothing(server, conn, task, store):
    tracks = some_tracks(task)
    first = write_tracks(conn, task, tracks, store=store)
    before, count = in_jobs(conn, task), len(writes(server))
    again = write_tracks(conn, task, tracks, store=store)
    assert (again.created, again.deleted, again.kept) == (0, 0, 6)
    assert again.backup is None
    assert again.record.entries == first.record.entries
    assert len(writes(server)) == count
    assert in_jobs(conn, task) == before


def test_new_tracks_replace_our_own_and_those_that_stay_keep_their_ids(conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    ids = [found[0]["id"] for found in in_jobs(conn, task)]
    moved = some_tracks(task, starts=((0, 0), (40, 10)))
    report = write_tracks(conn, task, moved, store=store)
    assert (report.created, report.deleted, report.kept) == (3, 3, 3)
    per_job = in_jobs(conn, task)
    assert [len(found) for found in per_job] == [2, 2, 2]
    assert [found[0]["id"] for found in per_job] == ids
    assert len(report.record.entries) == 6


def test_what_is_replaced_is_in_the_backup(conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    before = in_jobs(conn, task)
    report = write_tracks(conn, task, some_tracks(task, starts=((40, 10),)), store=store)
    backup = store.read_backup(report.backup)
    kept = [backup["jobs"][str(job.id)] for job in task.annotation_jobs]
    assert [entry["annotations"]["tracks"] for entry in kept] == before
    assert [entry["delete"] for entry in kept] == [[track["id"] for track in found] for found in before]
    assert len(backup["record"]["entries"]) == 6


def test_no_tracks_take_ours_away_and_leave_a_humans(server, conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    page = server.open_page("admin", task.annotation_jobs[0].id)
    mine = page.of_kind("tracks")[0]["id"]
    page.move_box(mine, [1, 1, 12, 22], frame=0)
    page.save()
    report = write_tracks(conn, task, Tracks.empty(task.video), store=store)
    assert (report.created, report.deleted, report.human) == (0, 5, 1)
    assert [[track["id"] for track in found] for found in in_jobs(conn, task)] == [[mine], [], []]


def test_a_track_that_a_human_moved_is_kept_and_not_written_beside(server, conn, task, store):
    tracks = some_tracks(task)
    write_tracks(conn, task, tracks, store=store)
    job = task.annotation_jobs[1]
    page = server.open_page("admin", job.id)
    touched = page.of_kind("tracks")[0]["id"]
    page.move_box(touched, [5, 1, 16, 21], frame=5)
    page.save()
    before = in_jobs(conn, task)[1]
    comparison = compare_job(task, job, before, load_record(store, task))
    assert [(entry.track, track["id"]) for entry, track in comparison.changed] == [(1, touched)]
    report = write_tracks(conn, task, tracks, store=store)
    assert (report.created, report.deleted, report.human, report.covered) == (0, 0, 1, (1,))
    assert in_jobs(conn, task)[1] == before


def test_an_attribute_that_a_human_set_makes_a_track_his(server, conn, tmp_path):
    labels = [{"name": "person", "type": "rectangle", "attributes": [
        {"name": "pose", "mutable": False, "input_type": "select", "default_value": "up", "values": ["up", "down"]},
        {"name": "sure", "mutable": True, "input_type": "checkbox", "default_value": "true", "values": ["true"]},
    ]}]  # fmt: skip
    task = new_task(server, conn, labels=labels)
    store = Store(tmp_path).task(server.url, task.id)
    tracks = some_tracks(task)
    write_tracks(conn, task, tracks, store=store)
    assert write_tracks(conn, task, tracks, store=store).kept == 6, "defaults that the server fills in are no change"
    page = server.open_page("admin", task.annotation_jobs[0].id)
    mine = page.of_kind("tracks")[0]["id"]
    page.set_attribute(mine, "pose", "down")
    page.save()
    found = in_jobs(conn, task)[0]
    assert {track["source"] for track in found} == {"auto"}, "CVAT does not mark it"
    comparison = compare_job(task, task.annotation_jobs[0], found, load_record(store, task))
    assert [track["id"] for _, track in comparison.changed] == [mine]
    assert [entry.track for entry, _ in comparison.untouched] == [2]


def test_a_track_that_a_human_deleted_is_told_by_the_comparison(server, conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    page = server.open_page("admin", task.annotation_jobs[0].id)
    page.delete(page.of_kind("tracks")[1]["id"])
    page.save()
    comparison = compare_job(task, task.annotation_jobs[0], in_jobs(conn, task)[0], load_record(store, task))
    assert [entry.track for entry in comparison.deleted] == [2]


def test_a_track_that_a_human_drew_keeps_ours_from_saying_it_again(conn, task, store):
    job = task.annotation_jobs[0]
    human = {
        "label_id": task.labels[0].id, "frame": 0, "group": 0, "source": "manual", "attributes": [],
        "shapes": [{"type": "rectangle", "frame": 0, "points": [1, 1, 12, 21], "outside": False, "occluded": False,
                    "attributes": []}],
    }  # fmt: skip
    create_tracks(conn, job, [human])
    report = write_tracks(conn, task, some_tracks(task), store=store)
    assert report.covered == (1,)
    assert [len(found) for found in in_jobs(conn, task)] == [2, 2, 2], "in the other jobs it is written"
    everything = write_tracks(conn, task, some_tracks(task), store=store, protect=False)
    assert everything.created == 1


def test_only_the_jobs_asked_for_are_written(conn, task, store):
    second = task.annotation_jobs[1]
    write_tracks(conn, task, some_tracks(task), store=store)
    report = write_tracks(conn, task, some_tracks(task, starts=((30, 5),)), store=store, jobs=[second])
    assert (report.created, report.deleted) == (1, 2)
    assert [len(found) for found in in_jobs(conn, task)] == [2, 1, 2]
    assert len(report.record.entries) == 5


def test_frames_that_were_deleted_carry_no_boxes(server, conn, tmp_path):
    task = new_task(server, conn, segment_size=0)
    server.open_page("admin", task.jobs[0].id).delete_frame(4)
    conn.patch(f"/api/jobs/{task.jobs[0].id}/data/meta", {"deleted_frames": [4]})
    task = read_task(conn, task.id)
    report = write_tracks(conn, task, some_tracks(task), store=Store(tmp_path).task(server.url, task.id))
    assert 4 not in read_tracks(conn, task, report.record.identities).tracks.frame


def test_labels_that_the_task_does_not_have_are_left_out_or_told(conn, task, store):
    mixed = Tracks.create(
        task.video, [0, 0], [1, 2], [[0, 0, 9, 9], [20, 20, 40, 40]], label=[0, 1], labels=("person", "zebra")
    )
    assert write_tracks(conn, task, mixed, store=store).created == 1
    unknown = Tracks.create(task.video, [0], [1], [[0, 0, 9, 9]], labels=("zebra", "gnu"))
    with pytest.raises(InputError, match="no label for boxes named 'zebra' or 'gnu'"):
        write_tracks(conn, task, unknown, store=store)


def test_a_shape_outside_its_job_is_refused_before_cvat_takes_it(server, conn, task):
    job = task.annotation_jobs[0]
    late = {"label_id": task.labels[0].id, "frame": 0, "shapes": [{"frame": job.stop, "points": [0, 0, 1, 1]}]}
    count = len(writes(server))
    with pytest.raises(InputError, match=r"is not in 0\.\.3"):
        create_tracks(conn, job, [late])
    assert len(writes(server)) == count


def test_what_is_raised_before_the_first_change_leaves_everything_as_it_was(conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    before, record = in_jobs(conn, task), load_record(store, task)

    def cancelled():
        raise CancelledError("cancelled")

    with pytest.raises(CancelledError):
        write_tracks(conn, task, some_tracks(task, starts=((30, 5),)), store=store, before_write=cancelled)
    assert in_jobs(conn, task) == before
    assert load_record(store, task) == record


@pytest.mark.parametrize(
    ("kind", "after"),
    [("drop-after", 0), ("drop-after", 1), ("drop-after", 4), ("status", 0), ("drop", 3), ("status", 5)],
)
def test_a_write_that_broke_off_anywhere_is_finished_by_the_next_and_nothing_is_there_twice(
    server, conn, task, store, kind, after
):
    write_tracks(conn, task, some_tracks(task), store=store)
    wanted = some_tracks(task, starts=((0, 0), (40, 10), (30, 25)))
    with (
        server.failing("/api/jobs/*/annotations", "PATCH", kind=kind, status=500, after=after, count=1),
        pytest.raises(CvatStatusError),
    ):
        write_tracks(conn, task, wanted, store=store)
    report = write_tracks(conn, task, wanted, store=store)
    per_job = in_jobs(conn, task)
    assert [len(found) for found in per_job] == [3, 3, 3]
    assert report.human == 0, "tracks that a broken write left are recognised as ours"
    assert {entry.cvat_id for entry in report.record.entries} == {track["id"] for found in per_job for track in found}
    assert sorted(entry.track for entry in report.record.entries) == [1] * 3 + [2] * 3 + [3] * 3


def test_a_crash_before_the_record_is_kept_is_recovered_from(conn, task, store, monkeypatch):
    saved = []

    def crash_at_the_second(place, record):
        saved.append(record)
        if len(saved) == 2:
            raise KeyboardInterrupt
        original(place, record)

    original = push.save_record
    monkeypatch.setattr(push, "save_record", crash_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_tracks(conn, task, some_tracks(task), store=store)
    monkeypatch.undo()
    assert len(in_jobs(conn, task)[0]) == 2, "the server has them, the record does not"
    assert load_record(store, task).entries == ()
    report = write_tracks(conn, task, some_tracks(task), store=store)
    assert (report.created, report.kept) == (4, 2)
    assert [len(found) for found in in_jobs(conn, task)] == [2, 2, 2]


def test_two_writers_at_once_take_turns(server, task, tmp_path):
    failures = []

    def run(starts):
        try:
            own = connect(server.url, server.token("admin", read_only=False))
            place = Store(tmp_path).task(server.url, task.id)
            for _ in range(2):
                write_tracks(own, task, some_tracks(task, starts), store=place)
        except Exception as error:  # told to the test below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(starts,)) for starts in (((0, 0), (20, 20)), ((30, 5),))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    conn = connect(server.url, server.token("admin", read_only=False))
    record = load_record(Store(tmp_path).task(server.url, task.id), task)
    present = {track["id"] for found in in_jobs(conn, task) for track in found}
    assert {entry.cvat_id for entry in record.entries} == present
    assert len(present) in (3, 6), "one result or the other, whole"


def test_many_tracks_go_in_several_requests(server, conn, task, store, monkeypatch):
    monkeypatch.setattr(push, "SHAPES_PER_REQUEST", 5)
    count = len(writes(server))
    report = write_tracks(conn, task, some_tracks(task, starts=[(5 * n, 2 * n) for n in range(8)]), store=store)
    assert report.created == 24
    assert len(writes(server)) - count > 3
    assert [entry.track for entry in report.record.entries if entry.job == task.jobs[0].id] == list(range(1, 9))


def test_a_read_only_token_is_told_and_changes_nothing(server, conn, task, store):
    own = connect(server.url, server.token("admin"))
    with pytest.raises(CvatStatusError, match=r'403.*"read_only": false'):
        write_tracks(own, task, some_tracks(task), store=store)
    assert in_jobs(conn, task) == [[], [], []]


def test_a_damaged_record_is_told(task, store):
    store.write_json("push", {"entries": 3})
    with pytest.raises(CvatError, match=r"push\.json is not a push record"):
        load_record(store, task)


def test_entries_of_jobs_and_tracks_that_are_gone_leave_the_record(conn, task, store):
    write_tracks(conn, task, some_tracks(task), store=store)
    record = load_record(store, task)
    stale = PushedTrack(1, 999_999, 5, "x")
    push.save_record(store, PushRecord(record.server, record.task, record.at, (*record.entries, stale)))
    conn.delete(f"/api/jobs/{task.annotation_jobs[0].id}/annotations/")
    report = write_tracks(conn, task, some_tracks(task), store=store)
    assert (report.created, report.kept) == (2, 4)
    assert len(report.record.entries) == 6


def test_the_digest_sees_what_a_human_can_change_and_nothing_else():
    defaults = {5: "no"}
    shape = {"type": "rectangle", "frame": 3, "points": [1.001, 2, 3, 4], "outside": False, "occluded": False,
             "attributes": []}  # fmt: skip
    track = {"label_id": 1, "frame": 3, "group": 0, "source": "auto", "attributes": [], "shapes": [shape]}
    plain = track_digest(track, defaults)
    filled = {"spec_id": 5, "value": "no"}
    same = [
        track | {"id": 7, "source": "semi-auto"},
        track | {"attributes": [filled], "shapes": [shape | {"id": 9, "z_order": 0, "rotation": 0.0}]},
        track | {"shapes": [shape | {"points": [1.0012, 2.0, 3.0, 4.0]}]},
    ]
    other = [
        track | {"label_id": 2},
        track | {"group": 3},
        track | {"attributes": [filled | {"value": "yes"}]},
        track | {"shapes": [shape | {"points": [1.02, 2, 3, 4]}]},
        track | {"shapes": [shape | {"outside": True}]},
        track | {"shapes": [shape | {"occluded": True}]},
        track | {"shapes": [shape | {"rotation": 2.0}]},
        track | {"shapes": [shape | {"attributes": [filled | {"value": "yes"}]}]},
        track | {"shapes": [shape, shape | {"frame": 5}]},
        track | {"shapes": []},
    ]
    assert [track_digest(item, defaults) == plain for item in same] == [True] * len(same)
    assert [track_digest(item, defaults) == plain for item in other] == [False] * len(other)


@pytest.mark.parametrize(
    ("frames", "offset", "covered"),
    [
        (range(0, 10), 0, True),  # the same boxes
        (range(0, 10), 3, True),  # 10 wide, 3 apart: IoU 0.54
        (range(0, 10), 5, False),  # IoU 1/3
        (range(5, 15), 0, True),  # half of its frames
        (range(8, 18), 0, False),  # two frames in passing
        (range(20, 30), 0, False),  # never at the same time
    ],
)
def test_a_track_is_covered_by_one_that_shows_the_same_for_long(frames, offset, covered):
    video = VideoInfo("clip", 40, 200, 100)
    ours = Tracks.create(video, range(10), [4] * 10, [[0, 0, 10, 20]] * 10)
    other = Tracks.create(video, frames, [1] * len(frames), [[offset, 0, 10 + offset, 20]] * len(frames))
    left, gone = without_covered(ours, [other])
    assert gone == ((4,) if covered else ())
    assert len(left) == (0 if covered else 10)
