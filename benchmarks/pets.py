"""PETS on real pixels: the whole loop through a CVAT server, from a video file to reviewed labels.

In: ``vtest.avi`` and its ground truth, the CVAT stand-in, and a detector: ``hog``, or ``onnx`` (YOLOX-nano boxes with
person-reidentification-retail-0248 embeddings, files from ``SPAM_WEIGHTS``). The task is made from the video with the
cvat-sdk; one request for automatic annotation runs the function, which serves in a process of its own; questions go out
as review jobs, and a simulated annotator answers them in the jobs, over the API as the page writes; ``sync`` brings the
answers home, ``export`` writes the labels. Out: a row before and one after the review for each detector, with the
seconds of each stage, the clicks spent and the memory used, and result files read back from the task.

    python -m benchmarks.pets --out DIR [--json] [--detector hog|onnx] [--share 0.03] [--rounds 4] [--form sheets]
        [--frames N]
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from cvat_sdk.api_client import models
from cvat_standin import CvatStandin

from benchmarks.annotators import answer_review
from benchmarks.common import (
    PERCENT,
    Row,
    data_folder,
    finish,
    main,
    options,
    peak_memory_mib,
    percent,
    progress,
)
from spam_cvat.cvat.connect import Connection, connect
from spam_cvat.cvat.export import export_task
from spam_cvat.cvat.push import load_record
from spam_cvat.cvat.review_record import load_reviews
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.sync import create_review, sync_task
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.errors import InputError, SpamError
from spam_cvat.evaluation import evaluate
from spam_cvat.formats.mot import Sequence as MotSequence
from spam_cvat.formats.mot import read_sequence, write_tracks
from spam_cvat.review.oracle import SimulatedAnnotator
from spam_cvat.review.questions import Question, Reply, cost
from spam_cvat.review.selection import CLICKS_PER_BOX
from spam_cvat.review.simulate import Case
from spam_cvat.tracks import Tracks

DATA = "PETS09-S2L1"
ANNOTATORS = ("anna", "ben")
SPARE_ROUNDS, SPARE = 3, 0.02
"""Rounds after the last in which clicks that were not needed are spent, while they are this share of the budget."""
MEMORY = ("function_memory_mib", "companion_and_server_memory_mib")
COLUMNS = ("data", "variant", *PERCENT, "IDSW", "clicks", "share", "questions", "seconds", *MEMORY)
YOLOX, REIDENTIFICATION = "yolox_nano_416.onnx", "person-reidentification-retail-0248.onnx"
FUNCTION = "from spam_cvat.serving.gateway import serve; serve(port={port})"


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--detector", action="append", choices=("hog", "onnx"), help="only this one; may be repeated")
    parser.add_argument("--share", type=float, default=0.03, help="clicks to spend, as a share of full manual work")
    parser.add_argument("--rounds", type=int, default=4, help="review tasks among which the clicks are divided")
    parser.add_argument("--form", choices=("sheets", "tracklets"), default="sheets", help="form of the review jobs")
    parser.add_argument("--error-rate", type=float, default=0.0, help="share of wrong replies")
    parser.add_argument("--frames", type=int, help="only so many frames from the first; by default all")
    parser.add_argument("--weights", type=Path, help="weights of the hierarchy in place of those shipped")
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    sequence = read_sequence(data_folder("pets09") / DATA, "yolox_nano")
    if args.frames:
        sequence = sequence.window(0, args.frames)
    rows: list[Row] = []
    for detector in args.detector or ("hog", "onnx"):
        loop = Loop(detector, sequence, args.out, args.share, args.rounds, args.form, args.error_rate, args.weights)
        rows += loop.rows()
    finish(args, rows, began, COLUMNS)


def specs(detector: str) -> tuple[str, str]:
    """Detector and embedder of a variant.

    Raises:
        InputError: a network's file is not there.
    """
    if detector == "hog":
        return "hog", "histogram"
    folder = Path(os.environ.get("SPAM_WEIGHTS", "../shared/weights"))
    for name in (YOLOX, REIDENTIFICATION):
        if not (folder / name).is_file():
            raise InputError(f"{folder / name}: no such file; point SPAM_WEIGHTS at the networks")
    return f"onnx:{(folder / YOLOX).resolve()}", f"onnx:{(folder / REIDENTIFICATION).resolve()}"


@dataclass
class Loop:
    """One detector's run, stage by stage.

    Attributes:
        detector: ``hog`` or ``onnx``.
        sequence: the video with its ground truth.
        out: folder of the results.
        share: clicks to spend, of full manual work.
        rounds: review tasks among which they are divided.
        form: of the review jobs.
        error_rate: share of wrong replies.
        weights: of the hierarchy, None for those shipped.
        seconds: by stage.
        clicks: spent so far.
        questions: asked so far.
    """

    detector: str
    sequence: MotSequence
    out: Path
    share: float
    rounds: int
    form: str
    error_rate: float
    weights: Path | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    clicks: float = 0.0
    questions: int = 0

    def rows(self) -> list[Row]:
        """Run everything; the rows before and after the review."""
        folder = self.out / f"store-{self.detector}"
        shutil.rmtree(folder, ignore_errors=True)
        with CvatStandin() as server:
            server.add_user("lead")
            organization = server.add_organization("lab", "lead")
            for name in ANNOTATORS:
                server.add_user(name)
                server.add_member(organization, name, "worker")
            token = server.token("lead", read_only=False)
            store = Store(str(folder))
            with connect(server.url, token, organization="lab") as conn:
                task = self._create(conn)
                memory = self._click(server, conn, task, token, folder)
                before = self._row("before", conn, store, task, memory)
                self._review(server, conn, store, task)
                after = self._row("after", conn, store, task, memory)
                with self._timed("export"):
                    export_task(conn, store, task, self.out / f"labels-{self.detector}")
        after["seconds_by_stage"] = {stage: round(value, 2) for stage, value in self.seconds.items()}
        after["seconds"] = round(sum(self.seconds.values()), 1)
        return [before, after]

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - began
        progress(f"{DATA} {self.detector}: {stage} {self.seconds[stage]:.1f} s")

    def _create(self, conn: Connection) -> int:
        """The task, from the video file."""
        spec = models.TaskWriteRequest(
            name=DATA, labels=[models.PatchedLabelRequest(name="person", type="rectangle")], segment_size=200
        )
        with self._timed("create"):
            task = conn.client.tasks.create_from_data(
                spec,
                [self.sequence.folder / "vtest.avi"],
                data_params={"stop_frame": self.sequence.video.num_frames - 1},
                status_check_period=0.2,
            )
        return int(task.id)

    def _click(self, server: CvatStandin, conn: Connection, task: int, token: str, store: Path) -> float:
        """One click on *Automatic annotation*: the function, in its own process, is called frame by frame.

        Returns:
            The most memory that the function's process has held, in MiB.

        Raises:
            SpamError: the run failed; the message has the last line of the server's account.
        """
        detector, embedder = specs(self.detector)
        environment = {
            "SPAM_CVAT_URL": server.url,
            "SPAM_CVAT_TOKEN": token,
            "SPAM_CVAT_ORGANIZATION": "lab",
            "SPAM_STORE": str(store),
            "SPAM_DETECTOR": detector,
            "SPAM_EMBEDDER": embedder,
            "SPAM_WEIGHTS_FILE": str(self.weights.resolve()) if self.weights else "",
        }
        with serving(environment, self.out / f"function-{self.detector}.log") as (url, process):
            server.functions.dashboard = url
            name = conn.get("/api/lambda/functions", what="the list of functions")[0]["id"]
            with self._timed("annotate"):
                made = conn.post("/api/lambda/requests", {"function": name, "task": task}, what="the request")
                server.wait(timeout=7200)
            record = conn.get(f"/api/lambda/requests/{made['id']}", what="the request")
            if record["status"] != "finished":
                raise SpamError(f"the function failed: {str(record['exc_info']).strip().splitlines()[-1]}")
            memory = peak_of(process.pid)
        server.functions.dashboard = None
        return memory

    def _row(self, moment: str, conn: Connection, store: Store, task: int, memory: float) -> Row:
        """Score what the task holds now."""
        tracks = self._tracks(conn, store, task)
        variant = f"{self.detector}-{moment}"
        write_tracks(self.out / variant / f"{DATA}.txt", tracks)
        assert self.sequence.ground_truth is not None
        scores = percent(evaluate(self.sequence.ground_truth, tracks))
        progress(f"{DATA} {variant}: HOTA {scores['HOTA']:.2f}, IDF1 {scores['IDF1']:.2f}")
        return {
            "data": DATA,
            "variant": variant,
            **scores,
            "clicks": self.clicks,
            "share": round(self.clicks / self._full, 5),
            "questions": self.questions,
            "seconds": round(sum(self.seconds.values()), 1),
            "function_memory_mib": round(memory),
            "companion_and_server_memory_mib": round(peak_memory_mib()),
        }

    @staticmethod
    def _tracks(conn: Connection, store: Store, task: int) -> Tracks:
        info = read_task(conn, task)
        known = load_record(store.task(conn.url, task), info).identities
        return read_tracks(conn, info, known).tracks.relabelled()

    @property
    def _full(self) -> float:
        """Clicks of full manual work."""
        return CLICKS_PER_BOX * len(Case.of(self.sequence).people)

    def _review(self, server: CvatStandin, conn: Connection, store: Store, task: int) -> None:
        """Ask, answer in the jobs, bring home; as often as there are rounds, or until nothing is left to ask.

        Replies often cost less than they might have: what is left then is spent in a few rounds more.
        """
        budget = self.share * self._full
        for round in range(self.rounds + SPARE_ROUNDS):
            clicks = (budget - self.clicks) / max(self.rounds - round, 1)
            if clicks < max(1.0, SPARE * budget):
                break
            with self._timed("review"):
                report = create_review(conn, store, task, f"{clicks:.2f}", self.form, ANNOTATORS)
            if report.task is None:
                progress(f"{DATA} {self.detector}: nothing left to ask")
                break
            with self._timed("answer"):
                self._answer(server, conn, store, task, report.task)
            with self._timed("sync"):
                sync_task(conn, store, task, weights=self.weights)

    def _answer(self, server: CvatStandin, conn: Connection, store: Store, task: int, review_task: int) -> None:
        """Every annotator opens his jobs, answers question by question, and finishes."""
        place = store.task(conn.url, task)
        annotation = place.annotation()
        if annotation is None:
            raise SpamError(f"{place.location} holds no annotation")
        annotator = SimulatedAnnotator(Case.of(self.sequence).visible, annotation.detections, self.error_rate)
        review = next(review for review in load_reviews(place) if review.task == review_task)

        def reply(question: Question) -> Reply:
            said = annotator.reply(question)
            self.clicks += cost(question, said)
            return said

        for job in server.jobs(review_task):
            user = job.assignee.username if job.assignee else "lead"
            work = answer_review(server, review, reply, user=user, jobs=[job.id], by_hand=self.form == "tracklets")
            self.questions += work.questions


@contextmanager
def serving(environment: Mapping[str, str], log: Path) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """The function in a process of its own, what it says in a file: where it listens, and the process.

    Raises:
        SpamError: it does not come up.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-c", FUNCTION.format(port=port)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with (
        log.open("wb") as said,
        subprocess.Popen(command, env=os.environ | environment, stdout=said, stderr=said) as process,
    ):
        try:
            _await(url, process, log)
            yield url, process
        finally:
            process.terminate()


def _await(url: str, process: "subprocess.Popen[bytes]", log: Path, seconds: float = 120.0) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and process.poll() is None:
        try:
            httpx.get(f"{url}/health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            time.sleep(0.2)
        else:
            return
    said = log.read_text(errors="replace").strip()
    raise SpamError(f"the function did not start: {said.splitlines()[-1] if said else 'it said nothing'}")


def peak_of(pid: int) -> float:
    """The most memory that another process has held, in MiB; 0 where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.is_file():
        return 0.0
    found: dict[str, Any] = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return float(str(found.get("VmHWM", "0")).split()[0]) / 1024


if __name__ == "__main__":
    main(run)
