"""Reliability: what goes wrong between the function, the companion and a CVAT server, and what then happens.

In: a generated scene as rectangles of a task in the CVAT stand-in, and one failure after another. Out: a row for each
case: what was done, what happened, and whether that is right: a failure is one clear line, running the command again
carries on, nothing is written twice, and what a human did is still there.

The commands are cut off *at each of their calls in turn*, in three ways: the server is gone before the call is done,
gone after it was done and before the answer came, and answering 503. After every cut the command is run again, and cut
off one call later, until it comes through; what is then in the task must be what one undisturbed run leaves.

    python -m benchmarks.faults --out DIR [--json] [--case TEXT] [--weights FILE]
"""

import errno
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from companion_world import World, make_scene, make_world
from cvat_standin import CvatStandin, FunctionError

from benchmarks.common import Row, finish, main, options, progress
from spam_cvat.cvat import review_tasks
from spam_cvat.cvat.annotate import answers_of
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.review_record import load_reviews
from spam_cvat.cvat.sync import sync_task, undo_task
from spam_cvat.errors import SpamError
from spam_cvat.serving.function import Function
from spam_cvat.serving.session import Login
from spam_cvat.serving.settings import Settings
from spam_cvat.training.synthetic import Scene
from spam_cvat.video import open_video

COLUMNS = ("variant", "outcome", "ok", "cuts", "seconds")
DRAWN = (5.0, 5.0, 40.0, 60.0)
"""The box of a track that a human has drawn before anything goes wrong."""
WAYS = {
    "gone before": {"kind": "drop"},
    "gone after": {"kind": "drop-after"},
    "503": {"kind": "status", "status": 503},
}


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--case", help="only cases whose name contains this")
    parser.add_argument("--weights", type=Path, help="weights of the hierarchy in place of those shipped")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    rows: list[Row] = []
    # What goes wrong here goes wrong on purpose.
    logging.getLogger("spam_cvat").setLevel(logging.CRITICAL)
    with mock.patch.object(review_tasks, "STATUS_SECONDS", 0.02):
        for name, case in cases().items():
            if args.case and args.case not in name:
                continue
            rows.append(tried(name, case, args.out / "work", args.weights))
            progress(f"{'ok' if rows[-1]['ok'] else 'WRONG'}: {name}: {rows[-1]['outcome']}")
    shutil.rmtree(args.out / "work", ignore_errors=True)
    failed = [row["variant"] for row in rows if not row["ok"]]
    finish(args, rows, began, COLUMNS, failed=failed)
    if failed:
        raise SpamError(f"{len(failed)} of {len(rows)} cases went wrong: {', '.join(failed)}")


class Wrong(Exception):
    """A case ended otherwise than it must; the message says how."""


def require(condition: object, message: str) -> None:
    """Raise Wrong unless a condition holds."""
    if not condition:
        raise Wrong(message)


@dataclass
class Place:
    """Where a case is played: a server of its own, a scene, and as many equal tasks as it asks for.

    Attributes:
        server: the stand-in.
        folder: for stores and files.
        scene: what is in the task.
        weights: of the hierarchy, None for those shipped.
        cuts: how often a command was cut off.
    """

    server: CvatStandin
    folder: Path
    scene: Scene
    weights: Path | None
    cuts: int = 0
    worlds: int = 0

    def world(self, *, annotated: bool = False, answered: bool = False) -> World:
        """A task in two jobs in which a human has drawn a track; annotated, and its review answered, if asked for."""
        self.worlds += 1
        world = make_world(self.server, self.folder / f"store-{self.worlds}", self.scene, segment_size=30)
        job = world.jobs()[0]
        label = world.server.open_page("admin", job).label("person")["id"]
        box = {"type": "rectangle", "points": list(DRAWN)}
        shapes = [{"frame": 0, **box}, {"frame": 20, **box}, {"frame": 21, "outside": True, **box}]
        body = {"tracks": [{"label_id": label, "frame": 0, "source": "manual", "shapes": shapes}]}
        world.conn.patch(f"/api/jobs/{job}/annotations", body, query={"action": "create"})
        if annotated or answered:
            self.annotate(world)
        if answered:
            world.review("5%")
            world.answer()
        return world

    def annotate(self, world: World) -> Any:
        """Run ``annotate`` on a task."""
        return world.annotate(weights=self.weights)

    def sync(self, world: World, **more: Any) -> Any:
        """Run ``sync`` on a task."""
        return sync_task(world.conn, world.store, world.task, weights=self.weights, **more)

    @contextmanager
    def function(self, world: World, **settings: Any) -> Iterator[list[Function]]:
        """Offer the function, in this process; the list holds the worker, which a case may replace."""
        made = [self.worker(world, **settings)]

        def called(body: Any) -> Any:
            status, value = made[0].answer("POST", body)
            if status >= 400:
                raise FunctionError(f"{status}: {value}", status)
            return value

        self.server.functions.add("spam-cvat", called)
        try:
            yield made
        finally:
            made[0].close()

    def worker(self, world: World, token: str | None = None, **settings: Any) -> Function:
        """A worker of the function that takes the task's rectangles for detections."""
        chosen = Settings(
            detector="task", embedder="none", motion=False, weights=str(self.weights) if self.weights else None
        )
        login = Login(lambda: connect(self.server.url, token or self.server.token(read_only=False)))
        return Function(replace(chosen, **settings), world.store, login)

    def click(self, world: World, wait: bool = True) -> str:
        """Start automatic annotation; returns the request's id."""
        made = world.conn.post("/api/lambda/requests", {"function": "spam-cvat", "task": world.task})
        if wait:
            require(self.server.wait(120), "the request did not end")
        return str(made["id"])


def shown(world: World) -> list[Any]:
    """All boxes in the task, whoever carries them."""
    tracks = world.read()
    return sorted(zip(tracks.frame.tolist(), tracks.box.round(1).tolist(), strict=True))


def drawn(world: World) -> bool:
    """Whether the human's track is there, once, as it was."""
    tracks = world.read()
    here = np.abs(tracks.box - np.array(DRAWN, np.float32)).max(1) < 0.01
    return bool(here.sum() == 21 and len(np.unique(tracks.track[here])) == 1)


def clear(error: BaseException) -> str:
    """The error's one line.

    Raises:
        Wrong: it is none that a user can act on.
    """
    text = str(error)
    require(isinstance(error, SpamError), f"unclear: {type(error).__name__}: {text[:200]}")
    require("\n" not in text and 10 < len(text) < 600, f"not one line: {text[:200]!r}")
    return text


def refused(action: Callable[[], Any]) -> str:
    """The clear line with which an action fails.

    Raises:
        Wrong: it does not fail, or not clearly.
    """
    try:
        action()
    except Exception as error:
        return clear(error)
    raise Wrong("it did not fail")


Case = Callable[[Place], str]


def tried(name: str, case: Case, folder: Path, weights: Path | None) -> Row:
    """Play a case on a server of its own and report."""
    began = time.perf_counter()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with CvatStandin() as server:
        place = Place(server, folder, make_scene(), weights)
        try:
            outcome, ok = case(place), True
        except Wrong as error:
            outcome, ok = str(error), False
        except Exception as error:
            outcome, ok = f"{type(error).__name__}: {error}", False
    seconds = round(time.perf_counter() - began, 1)
    return {"data": "generated", "variant": name, "outcome": outcome, "ok": ok, "cuts": place.cuts, "seconds": seconds}


# --- Cut off at every call --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Command:
    """A command to cut off: how the task is prepared, what is run, and what must be left."""

    prepared: dict[str, bool]
    action: Callable[[Place, World], Any]
    left: Callable[[World], Any]


def reviews(world: World) -> list[Any]:
    """The reviews that exist, with what they ask."""
    return sorted(sorted(review.ids) for review in load_reviews(world.place) if review.state != "lost")


COMMANDS = {
    "annotate": Command({}, lambda place, world: place.annotate(world), shown),
    "review": Command(
        {"annotated": True},
        lambda place, world: world.review("5%"),
        lambda world: (reviews(world), len([t for t in world.conn.pages("/api/tasks") if t["id"] > world.task])),
    ),
    "sync": Command(
        {"answered": True},
        lambda place, world: place.sync(world),
        lambda world: (shown(world), len(answers_of(world.place))),
    ),
    "undo": Command({"annotated": True}, lambda place, world: undo_task(world.conn, world.store, world.task), shown),
}


def cut_off(command: Command, way: dict[str, Any]) -> Case:
    """The case of a command that is cut off at each of its calls."""

    def case(place: Place) -> str:
        first = place.world(**command.prepared)
        command.action(place, first)
        expected = command.left(first)
        world = place.world(**command.prepared)
        said = set()
        for after in range(500):
            rules = [place.server.faults.add(after=after, count=1, **way)]
            # What broke stays broken until the command has ended.
            rules.append(place.server.faults.add(after=after, count=None, kind="drop"))
            try:
                command.action(place, world)
            except Exception as error:
                said.add(clear(error).split(":")[0])
                place.cuts += 1
                undone = False
            else:
                undone = True
            finally:
                place.server.faults.clear()
            require(drawn(world), f"after {place.cuts} cuts the human's track is gone")
            if undone:
                break
        require(place.cuts > 2, "it was hardly cut off at all")
        found = command.left(world)
        require(found == expected, f"after {place.cuts} cuts the result is not that of one run")
        return f"cut off {place.cuts} times, each with a clear line, and finished as in one run"

    return case


# --- Single cases -----------------------------------------------------------------------------------------------------


def token_expires(place: Place) -> str:
    world = place.world()
    token = place.server.token(read_only=False)
    short = replace(world, conn=connect(place.server.url, token))
    with place.server.failing("/api/jobs/*/annotations", "PATCH", kind="status", status=401):
        line = refused(lambda: place.annotate(short))
    require("token" in line or "log" in line, f"the line does not say what to do: {line}")
    place.annotate(world)
    require(drawn(world), "the human's track is gone")
    return line


def read_only_token(place: Place) -> str:
    world = place.world()
    before = world.content()
    short = replace(world, conn=connect(place.server.url, place.server.token(read_only=True)))
    line = refused(lambda: place.annotate(short))
    require(world.content() == before, "something was written")
    return line


def no_right(place: Place) -> str:
    world = place.world()
    place.server.add_user("stranger")
    short = replace(world, conn=connect(place.server.url, place.server.token("stranger", read_only=False)))
    return refused(lambda: place.annotate(short))


def server_away(place: Place) -> str:
    world = place.world(annotated=True)
    before = shown(world)
    with place.server.away():
        line = refused(lambda: place.sync(world))
    place.sync(world)
    require(shown(world) == before, "the labels changed")
    return line


def at_once(action: Callable[[Place, World], Any], **prepared: bool) -> Case:
    """The case of a command that is started three times at the same moment."""

    def case(place: Place) -> str:
        first = place.world(**prepared)
        action(place, first)
        world = place.world(**prepared)
        errors: list[BaseException] = []

        def work() -> None:
            try:
                action(place, replace(world, conn=connect(place.server.url, place.server.token(read_only=False))))
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lines = {clear(error) for error in errors}
        require(len(errors) < 3, f"none came through: {lines}")
        require(shown(world) == shown(first), "the result is not that of one run")
        require(drawn(world), "the human's track is gone")
        return f"{3 - len(errors)} of 3 ran, one after the other; written once"

    return case


def disk_full(place: Place) -> str:
    world = place.world()
    before = world.content()

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with mock.patch("os.fsync", full):
        line = refused(lambda: place.annotate(world))
    require(world.content() == before, "CVAT was written to without a backup")
    place.annotate(world)
    require(drawn(world), "the human's track is gone")
    return line


def corrupt_video(place: Place) -> str:
    path = place.folder / "broken.mp4"
    path.write_bytes(b"\0" * 5000)
    return refused(lambda: list(open_video(path).frames()))


def nothing_detected(place: Place) -> str:
    world = place.world()
    for job in world.jobs():
        held = world.annotations(job)
        world.conn.put(f"/api/jobs/{job}/annotations", {**held, "shapes": [], "tracks": []})
    return refused(lambda: place.annotate(world))


def boxes_without_area(place: Place) -> str:
    world = place.world()
    label = world.server.open_page("admin", world.jobs()[0]).label("person")["id"]
    boxes = [[10, 10, 10, 40], [50, 50, 20, 20], [-900, -900, -800, -800]]
    shapes = [{"label_id": label, "frame": 3, "type": "rectangle", "points": box} for box in boxes]
    world.conn.patch(f"/api/jobs/{world.jobs()[0]}/annotations", {"shapes": shapes}, query={"action": "create"})
    report = place.annotate(world)
    require(report.tracks > 0 and drawn(world), "no tracks, or the human's is gone")
    return f"left out; {report.tracks} tracks from the others"


def label_missing(place: Place) -> str:
    world = place.world(annotated=True)
    other = place.server.create_task_from_video([np.zeros((180, 240, 3), np.uint8)] * 48, labels=("car", "bus"))
    world.store.task(world.conn.url, other.id).save_annotation(world.place.annotation())
    return refused(lambda: place.sync(replace(world, task=other.id)))


def frames_deleted(place: Place) -> str:
    world = place.world(annotated=True)
    gone = [5, 6, 7, 30]
    world.conn.patch(f"/api/tasks/{world.task}/data/meta", {"deleted_frames": gone})
    report = place.annotate(world)
    require(report.frames == 48 - len(gone), "deleted frames were counted")
    require(drawn(world), "the human's track is gone")
    review = world.review("5%")
    world.answer()
    place.sync(world)
    return f"annotated without them, {review.questions} questions about the others"


def human_edits(place: Place) -> str:
    world = place.world(annotated=True)
    page = world.page()
    moved = max(page.of_kind("tracks"), key=lambda t: (t["source"] != "manual", t["shapes"][-1]["frame"]))
    page.move_box(moved["id"], (1, 2, 33, 44), frame=moved["frame"])
    other = next(t for t in page.of_kind("tracks") if t["id"] != moved["id"] and t["source"] != "manual")
    page.delete(other["id"], kind="tracks")
    page.finish()
    place.annotate(world)
    now = world.content()
    require(now[moved["id"]][0][2] == (1, 2, 33, 44), "the moved box is lost")
    require(other["id"] not in now, "the deleted track came back")
    require(drawn(world), "the human's track is gone")
    return "a moved box, a deleted and a drawn track are as the human left them"


def review_deleted(place: Place) -> str:
    world = place.world(annotated=True)
    first = world.review("5%")
    world.conn.delete(f"/api/tasks/{first.task}")
    report = place.sync(world)
    require(any("gone" in note for note in report.notes), "it was not told")
    require(world.review("5%").created, "it could not be asked again")
    return "told, and asked again in a new review task"


def one_click(place: Place) -> list[Any]:
    """What one undisturbed click leaves."""
    world = place.world()
    with place.function(world):
        place.click(world)
    return shown(world)


def clicked_twice(place: Place) -> str:
    expected = one_click(place)
    world = place.world()
    with place.function(world):
        place.click(world)
        ids = set(world.content())
        place.click(world)
    require(set(world.content()) == ids, "tracks changed their ids")
    require(shown(world) == expected and drawn(world), "the result is not that of one click")
    return "the second click changed nothing"


def cancelled(at: int) -> Case:
    """The case of a request cancelled during a call; the last is -1."""

    def case(place: Place) -> str:
        world = place.world()
        before = world.content()
        calls = 0
        with place.function(world) as made:
            worker = made[0]
            last = 48 - 1 if at < 0 else at

            class Cancelling:
                """The worker, in whose call the user cancels."""

                def answer(self, method: str, body: Any) -> Any:
                    nonlocal calls
                    if calls == last:
                        path = f"/api/lambda/requests/action=autoannotate&target=task&target_id={world.task}"
                        world.conn.delete(path)
                    calls += 1
                    return worker.answer(method, body)

                def close(self) -> None:
                    worker.close()

            made[0] = Cancelling()  # type: ignore[call-overload]
            place.click(world)
            require(world.content() == before, "a cancelled run wrote tracks")
            made[0] = worker
            place.click(world)
        require(len(world.content()) > len(before), "the next click wrote nothing")
        return "nothing written; the next click writes"

    return case


class Restarting:
    """A worker that is replaced by a new one at its twentieth call."""

    def __init__(self, place: Place, world: World, worker: Function) -> None:
        """Begin with a worker."""
        self.place, self.world, self.worker = place, world, worker
        self.calls = 0

    def answer(self, method: str, body: Any) -> Any:
        """Answer as the worker of the moment does."""
        self.calls += 1
        if self.calls == 20:
            self.worker.close()
            self.worker = self.place.worker(self.world)
        return self.worker.answer(method, body)

    def close(self) -> None:
        """Close the worker of the moment."""
        self.worker.close()


def restarted(place: Place) -> str:
    expected = one_click(place)
    world = place.world()
    with place.function(world) as made:
        made[0] = Restarting(place, world, made[0])  # type: ignore[call-overload]
        place.click(world)
    require(shown(world) == expected, "the result is not that of one run")
    return "the new worker carried on; written once"


def restarted_in_stillness(place: Place) -> str:
    """All frames are equal: the new worker cannot tell where it is, and must say so rather than end in silence."""
    world = place.world()
    before = world.content()
    media = place.server.state.tasks[world.task].media
    assert media is not None
    first = media.frames.original(0)
    with mock.patch.object(media.frames, "original", return_value=first), place.function(world) as made:
        made[0] = Restarting(place, world, made[0])  # type: ignore[call-overload]
        id = place.click(world)
    record = world.conn.get(f"/api/lambda/requests/{id}")
    if record["status"] == "failed":
        return f"the request failed: {record['exc_info'].strip().splitlines()[-1]}"
    require(world.content() != before, "the request finished, and nothing was written")
    return "the new worker carried on"


def write_fails(place: Place) -> str:
    expected = one_click(place)
    world = place.world()
    before = world.content()
    with place.function(world):
        with place.server.failing("/api/jobs/*/annotations", "PATCH", kind="status", status=503):
            id = place.click(world)
        record = world.conn.get(f"/api/lambda/requests/{id}")
        require(record["status"] == "failed", "the failure does not show")
        require(world.content() == before, "something was written")
        place.click(world)
    require(shown(world) == expected, "the next click did not write what one click writes")
    return "the request failed; the next click wrote everything once"


def function_read_only(place: Place) -> str:
    world = place.world()
    before = world.content()
    with place.function(world, token=place.server.token(read_only=True)):
        id = place.click(world)
    record = world.conn.get(f"/api/lambda/requests/{id}")
    require(record["status"] == "failed" and "read-only" in record["exc_info"], "the failure does not say why")
    require(world.content() == before, "something was written")
    return "the request failed and names the read-only token"


def not_an_image(place: Place) -> str:
    world = place.world()
    worker = place.worker(world)
    bodies: list[Any] = [b"no JSON", {"image": "%%%"}, {"image": "aGVsbG8="}, {}, [1], {"task": 99999}, {"task": "x"}]
    for body in bodies:
        status, value = worker.answer("POST", body)
        require(400 <= status < 600 and "\n" not in value["error"], f"{body!r} was answered with {status} {value}")
    worker.close()
    return f"{len(bodies)} kinds of nonsense, each refused with one line"


def server_restarts_during_upload(place: Place) -> str:
    """CVAT itself, as a client sees it: an upload that breaks leaves no half task behind for the companion."""
    world = place.world(annotated=True)
    with place.server.failing("/api/tasks/*/data", "POST", kind="drop"):
        line = refused(lambda: world.review("5%"))
    require(world.review("5%").created, "the review was not resumed")
    tasks = [task for task in world.conn.pages("/api/tasks") if task["id"] > world.task and task["size"]]
    require(len(tasks) == 1, f"{len(tasks)} review tasks")
    return line


def cases() -> dict[str, Case]:
    """All cases by name."""
    made: dict[str, Case] = {
        f"{name} cut off: {way}": cut_off(command, settings)
        for name, command in COMMANDS.items()
        for way, settings in WAYS.items()
    }
    return made | {
        "server away": server_away,
        "token expires": token_expires,
        "token is read-only": read_only_token,
        "no right on the task": no_right,
        "three annotates at once": at_once(lambda place, world: place.annotate(world)),
        "three syncs at once": at_once(lambda place, world: place.sync(world), answered=True),
        "disk full": disk_full,
        "corrupt video": corrupt_video,
        "no detections": nothing_detected,
        "boxes without area": boxes_without_area,
        "label missing": label_missing,
        "frames deleted": frames_deleted,
        "edited by a human": human_edits,
        "review task deleted": review_deleted,
        "review upload breaks": server_restarts_during_upload,
        "clicked twice": clicked_twice,
        "cancelled midway": cancelled(10),
        "cancelled in the last call": cancelled(-1),
        "function restarted midway": restarted,
        "function restarted midway, still picture": restarted_in_stillness,
        "last call cannot write": write_fails,
        "function's token is read-only": function_read_only,
        "function called with nonsense": not_an_image,
    }


if __name__ == "__main__":
    main(run)
