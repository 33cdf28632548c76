import json
import multiprocessing
import os

import pytest

from spam_cvat.answers import Answer
from spam_cvat.errors import SpamError
from spam_cvat.review.answers import AnswersLog


def answer(number: int) -> Answer:
    return Answer("accept", (number,), by="ann", at="2030-01-01T00:00:00Z", job="7", clicks=1.0)


def test_what_is_appended_is_read_in_order(tmp_path):
    log = AnswersLog(tmp_path / "deep" / "answers.jsonl")
    assert log.answers() == []
    assert log.append([answer(1), answer(2)]) == 2
    assert log.append([]) == 0
    log.append([answer(3)])
    assert log.read().answers == [answer(1), answer(2), answer(3)]
    assert log.read().problems == []
    assert [json.loads(line)["clicks"] for line in log.path.read_text().splitlines()] == [1.0, 1.0, 1.0]


def test_a_torn_last_line_is_reported_and_the_rest_kept(tmp_path):
    log = AnswersLog(tmp_path / "answers.jsonl")
    log.append([answer(1), answer(2)])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole[:-9])
    content = log.read()
    assert content.answers == [answer(1)]
    assert len(content.problems) == 1
    assert "answers.jsonl:2: not an answer (torn" in content.problems[0]


def test_appending_after_a_torn_line_loses_nothing(tmp_path):
    log = AnswersLog(tmp_path / "answers.jsonl")
    log.append([answer(1), answer(2)])
    torn = log.path.read_bytes()[:-9]
    log.path.write_bytes(torn)
    log.append([answer(3)])
    assert log.path.read_bytes().startswith(torn)
    assert log.read().answers == [answer(1), answer(3)]
    assert len(log.read().problems) == 1


def test_foreign_lines_are_reported_with_their_number(tmp_path):
    log = AnswersLog(tmp_path / "answers.jsonl")
    log.append([answer(1)])
    with log.path.open("a") as stream:
        stream.write('\n{"kind": "sing", "detections": ["1"]}\n[1]\n')
    log.append([answer(2)])
    content = log.read()
    assert content.answers == [answer(1), answer(2)]
    assert [problem.split(":")[1] for problem in content.problems] == ["3", "4"]


def test_the_digest_changes_with_content_and_order(tmp_path):
    one, two = AnswersLog(tmp_path / "one.jsonl"), AnswersLog(tmp_path / "two.jsonl")
    one.append([answer(1), answer(2)])
    two.append([answer(1)])
    assert one.digest() != two.digest()
    two.append([answer(2)])
    assert one.digest() == two.digest()


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpamError, match="cannot write answers"):
        AnswersLog(tmp_path / "file" / "answers.jsonl").append([answer(1)])
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SpamError, match="cannot read answers"):
        AnswersLog(tmp_path / "folder.jsonl").read()


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path, monkeypatch):
    log = AnswersLog(tmp_path / "answers.jsonl")
    log.append([answer(1)])
    before = log.path.read_bytes()
    real_write = os.write

    def write_half(handle, data):
        real_write(handle, bytes(data[: len(data) // 2]))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", write_half)
    with pytest.raises(SpamError, match="No space left"):
        log.append([answer(2)])
    assert log.path.read_bytes() == before


def _append(path, start):
    log = AnswersLog(path)
    for number in range(start, start + 20):
        log.append([answer(number), answer(1000 + number)])


def test_writers_take_turns(tmp_path):
    path = tmp_path / "answers.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(path, start)) for start in (0, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    content = AnswersLog(path).read()
    assert content.problems == []
    numbers = [entry.detections[0] for entry in content.answers]
    assert sorted(numbers) == sorted(n + k for n in [*range(20), *range(100, 120)] for k in (0, 1000))
    # The two answers of one append stand side by side.
    assert all(numbers[i + 1] == numbers[i] + 1000 for i in range(0, len(numbers), 2))
