import errno
import json
import multiprocessing
import os
import threading
import uuid

import numpy as np
import pytest

from spam_cvat.annotation import Annotation
from spam_cvat.cvat import store as store_module
from spam_cvat.cvat.store import Store, server_key
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.errors import SpamError
from spam_cvat.tracks import Tracks

VIDEO = VideoInfo("clip", 10, 64, 48)


@pytest.fixture(params=["folder", "file-url", "memory"])
def store(request, tmp_path):
    return Store(
        {
            "folder": str(tmp_path / "s"),
            "file-url": f"file://{tmp_path}/s",
            "memory": f"memory://{uuid.uuid4().hex}/s",
        }[request.param]
    )


def annotation(box=(1, 2, 11, 22)):
    detections = Detections.create(VIDEO, [3], [box])
    tracks = Tracks.create(VIDEO, [3], [1], [box], detection=[0])
    return Annotation(detections, np.array([0.9], np.float32), (), tracks)


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://cvat.example.org", "cvat.example.org"),
        ("https://CVAT.example.org:443/", "cvat.example.org"),
        ("http://cvat.example.org:80", "cvat.example.org"),
        ("cvat.example.org", "cvat.example.org"),
        ("http://localhost:8080", "localhost_8080"),
        ("https://user:secret@host/cvat/", "host_cvat"),
        ("http://../..", "server"),
    ],
)
def test_a_server_has_one_place_however_it_is_written(url, key):
    assert server_key(url) == key


def test_a_name_for_the_server_joins_two_addresses(monkeypatch):
    monkeypatch.setenv("SPAM_SERVER_NAME", "Our CVAT")
    assert server_key("http://cvat-server:8080") == server_key("https://cvat.example.org") == "our_cvat"


def test_nothing_is_there_before_the_first_write(store):
    task = store.task("http://a", 1)
    assert task.annotation() is None
    assert task.read_json("push") is None
    assert task.backups() == []
    assert task.read_bytes("x") is None
    assert store.runs() == []
    task.delete("x")


def test_what_is_written_comes_back_and_stays_apart_by_task_and_job(store):
    first, second = store.task("http://a", 1), store.task("http://a", 2)
    first.save_annotation(annotation())
    first.save_annotation(annotation((5, 5, 9, 9)), job=7)
    first.write_json("review", {"questions": [1]})
    assert first.annotation().to_bytes() == annotation().to_bytes()
    assert first.annotation(job=7).tracks.box.tolist() == [[5, 5, 9, 9]]
    assert first.read_json("review") == {"questions": [1]}
    assert second.annotation() is None
    assert second.read_json("review") is None


def test_backups_sort_by_time_and_are_never_replaced(store):
    task = store.task("http://a", 1)
    names = [task.backup("push", {"n": n}) for n in range(3)]
    assert task.backups() == names
    assert [task.read_backup(name)["n"] for name in names] == [0, 1, 2]
    with pytest.raises(SpamError, match="no backup nothing; there are"):
        task.read_backup("nothing")


def test_a_torn_json_file_gives_its_predecessor(store):
    task = store.task("http://a", 1)
    task.write_json("push", {"n": 1})
    task.write_json("push", {"n": 2})
    task.write_bytes("push.json", b'{"n": 2, "entr')
    assert task.read_json("push") == {"n": 1}
    task.write_json("push", {"n": 3})
    assert task.read_json("push") == {"n": 3}
    assert json.loads(task.read_bytes("push.previous.json")) == {"n": 1}, "a torn file must not become the predecessor"


def test_a_torn_json_file_without_predecessor_is_told(store):
    task = store.task("http://a", 1)
    task.write_bytes("push.json", b"")
    with pytest.raises(SpamError, match=r"push\.json is damaged and so is its predecessor"):
        task.read_json("push")


def test_answers_are_appended_where_they_are_kept(store):
    task = store.task("http://a", 1)
    for line in ("one\n", "two\n"):
        with task.answers_file() as path, path.open("a") as stream:
            stream.write(line)
    with task.answers_file() as path:
        assert path.read_text() == "one\ntwo\n"


def test_the_answers_appended_before_an_error_are_kept(store):
    task = store.task("http://a", 1)

    def append_and_fail():
        with task.answers_file() as path:
            path.write_text("one\n")
            raise RuntimeError("later")

    with pytest.raises(RuntimeError, match="later"):
        append_and_fail()
    assert task.read_bytes("answers.jsonl") == b"one\n"


def test_runs_are_remembered_up_to_a_limit(store, monkeypatch):
    monkeypatch.setattr(store_module, "RUNS_KEPT", 3)
    for number in range(5):
        store.report_run({"status": "done", "task": number})
    assert [run["task"] for run in store.runs()] == [2, 3, 4]


def test_a_torn_line_of_the_runs_is_left_out(tmp_path):
    store = Store(tmp_path)
    store.report_run({"status": "failed", "error": "no label"})
    with (tmp_path / "runs.jsonl").open("a") as stream:
        stream.write('{"status": "do')
    assert [run["error"] for run in store.runs()] == ["no label"]


def test_a_store_that_can_be_written_passes_its_check_and_keeps_nothing_of_it(tmp_path):
    Store(tmp_path).check_writable()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path, monkeypatch):
    task = Store(tmp_path).task("http://a", 1)
    task.write_json("push", {"n": 1})

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(store_module.os, "fsync", full)
    with pytest.raises(SpamError, match=r"cannot write push.*\.json: No space left on device; free space"):
        task.write_json("push", {"n": 2})
    monkeypatch.undo()
    assert task.read_json("push") == {"n": 1}
    assert sorted(path.name for path in (tmp_path / "a" / "task-1").iterdir()) == ["push.json"], "no half file is left"


def test_a_place_that_is_no_folder_is_told(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SpamError, match="set SPAM_STORE to another place"):
        Store(tmp_path / "file").check_writable()


def test_an_unknown_kind_of_url_is_told():
    with pytest.raises(SpamError, match="store nonsense://x: cannot be opened"):
        Store("nonsense://x")


def test_the_environment_names_the_store(monkeypatch, tmp_path):
    monkeypatch.setenv("SPAM_STORE", str(tmp_path / "there"))
    assert Store().location == str(tmp_path / "there")


def test_two_threads_take_turns(store):
    task, other = store.task("http://a", 1), store.task("http://a", 1)
    counter = {"value": 0, "inside": 0, "most": 0}

    def count(place):
        for _ in range(3):
            with place.lock(timeout=30):
                counter["inside"] += 1
                counter["most"] = max(counter["most"], counter["inside"])
                counter["value"] += 1
                counter["inside"] -= 1

    threads = [threading.Thread(target=count, args=(place,)) for place in (task, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (counter["value"], counter["most"]) == (6, 1)


def test_a_lock_that_is_held_is_told_and_another_task_is_free(store):
    with store.task("http://a", 1).lock():
        with pytest.raises(SpamError, match="in use by another spam-cvat"), store.task("http://a", 1).lock(timeout=0.1):
            pytest.fail("two at once")
        with store.task("http://a", 2).lock(timeout=0.1):
            pass
    with store.task("http://a", 1).lock(timeout=0.1):
        pass


def _hold(root, ready, release):
    with Store(root).task("http://a", 1).lock():
        ready.set()
        release.wait(30)
        os._exit(9)  # a crash: no clean-up runs


def test_the_lock_of_a_crashed_process_is_free_again(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), ready, release))
    process.start()
    assert ready.wait(60)
    with (
        pytest.raises(SpamError, match="in use by another"),
        Store(tmp_path).task("http://a", 1).lock(timeout=0.1),
    ):
        pytest.fail("two at once")
    release.set()
    process.join(30)
    assert process.exitcode == 9
    with Store(tmp_path).task("http://a", 1).lock(timeout=5):
        pass


def test_a_lease_left_in_a_bucket_is_taken_over(monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}")
    task = store.task("http://a", 1)
    task.write_bytes(".task.lock", json.dumps({"owner": "gone", "at": 0}).encode())
    with task.lock(timeout=1):
        pass
