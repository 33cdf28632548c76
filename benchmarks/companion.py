"""Companion: how long the review loop takes on a large task, against the CVAT stand-in.

In: nothing; a street scene is generated and its boxes put into a task as rectangles. Out: ``results.json`` with one row
per stage (seconds, requests, megabytes sent and received, tracks and boxes), and the peak memory. The stand-in runs in
the same process, so its share of the time is in the figures; a real server is slower (10.9 s for 200 tracks of 300
keyframes).

    python -m benchmarks.companion --out DIR [--json] [--frames 3000] [--people 40] [--jobs 6] [--budget 100]
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from cvat_standin import CvatStandin

from benchmarks.annotators import answer_review
from benchmarks.common import finish, main, options, peak_memory_mib, progress
from spam_cvat.cvat import review_tasks
from spam_cvat.cvat.annotate import annotate_task
from spam_cvat.cvat.connect import Connection, connect
from spam_cvat.cvat.export import export_task
from spam_cvat.cvat.review_record import load_reviews
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.sync import create_review, sync_task, undo_task
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.evaluation import evaluate
from spam_cvat.review.oracle import SimulatedAnnotator
from spam_cvat.training.synthetic import Scene, generate_scene, preset

COLUMNS = ("data", "variant", "seconds", "requests", "MB_sent", "MB_received", "tracks", "boxes", "HOTA", "IDF1")
SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "1", "values": []}
LEAST_SCORE = 0.1


def run(arguments: Sequence[str] | None = None) -> None:
    parser = options(__doc__)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--people", type=float, default=40, help="mean number in the image")
    parser.add_argument("--jobs", type=int, default=6, help="jobs that the task is cut into")
    parser.add_argument("--budget", default="100", help="clicks or percent")
    parser.add_argument("--form", choices=("sheets", "tracklets"), default="sheets")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    began = time.perf_counter()
    with CvatStandin() as server, tempfile.TemporaryDirectory() as folder:
        rows = Loop(server, Path(folder), args).rows()
    finish(args, rows, began, COLUMNS, peak_memory_mib=round(peak_memory_mib()))


class Loop:
    """The stages, one after the other, each measured."""

    def __init__(self, server: CvatStandin, folder: Path, args: argparse.Namespace) -> None:
        """Generate the scene and make the task."""
        config = replace(preset("street"), num_frames=args.frames, people=args.people, width=960, height=540)
        self.scene = generate_scene(args.seed, config)
        self.server, self.args, self.folder = server, args, folder
        self.data = f"street {args.frames} frames"
        self.store = Store(folder / "store")
        self.conn: Connection = connect(server.url, server.token("admin", read_only=False))
        self.task = make_task(server, self.conn, self.scene, args.jobs)
        self._rows: list[dict[str, Any]] = []

    def rows(self) -> list[dict[str, Any]]:
        """Run everything."""
        review_tasks.STATUS_SECONDS = 0.2
        self._stage("annotate", self._annotate)
        self._stage("annotate-again", self._annotate)
        self._stage("review", self._review)
        self._stage("review-again", self._review)
        self._stage("answer", self._answer)
        self._stage("sync-dry-run", lambda: self._sync(dry_run=True))
        self._stage("sync", self._sync)
        self._stage("sync-again", self._sync)
        self._stage("export", lambda: export_task(self.conn, self.store, self.task, self.folder / "export"))
        self._stage("undo", lambda: undo_task(self.conn, self.store, self.task))
        return self._rows

    def _stage(self, name: str, action: Callable[[], Any]) -> None:
        first = len(self.server.calls)
        began = time.perf_counter()
        action()
        seconds = time.perf_counter() - began
        calls = self.server.calls[first:]
        tracks = read_tracks(self.conn, read_task(self.conn, self.task)).tracks
        scores = evaluate(self.scene.ground_truth, tracks)
        self._rows.append(
            {
                "data": self.data,
                "variant": name,
                "seconds": round(seconds, 2),
                "requests": len(calls),
                "MB_sent": round(sum(call.received for call in calls) / 1e6, 2),
                "MB_received": round(sum(call.sent for call in calls) / 1e6, 2),
                "tracks": len(tracks.ids),
                "boxes": len(tracks),
                "HOTA": round(100 * scores.HOTA, 2),
                "IDF1": round(100 * scores.IDF1, 2),
            }
        )
        progress(f"{self.data} {name}: {seconds:.1f} s, {len(calls)} requests")

    def _annotate(self) -> None:
        annotate_task(self.conn, self.store, self.task, detector="task", embedder="none", motion="none")

    def _review(self) -> None:
        create_review(self.conn, self.store, self.task, self.args.budget, self.args.form)

    def _answer(self) -> None:
        place = self.store.task(self.conn.url, self.task)
        annotation = place.annotation()
        assert annotation is not None
        oracle = SimulatedAnnotator(self.scene.ground_truth, annotation.detections)
        for review in load_reviews(place):
            answer_review(self.server, review, oracle.reply, by_hand=self.args.form == "tracklets")

    def _sync(self, dry_run: bool = False) -> None:
        sync_task(self.conn, self.store, self.task, dry_run=dry_run)


def make_task(server: CvatStandin, conn: Connection, scene: Scene, jobs: int) -> int:
    """A task of grey frames with the scene's boxes as rectangles; their scores are an attribute."""
    found, config = scene.detections, scene.config
    found = found.select(found.score >= LEAST_SCORE)
    grey = np.full((config.height, config.width, 3), 128, np.uint8)
    labels = [{"name": "person", "type": "rectangle", "attributes": [SCORE]}]
    size = -(-config.num_frames // jobs)
    task = server.create_task_from_video([grey] * config.num_frames, labels=labels, segment_size=size, overlap=0)
    info = read_task(conn, task.id)
    [label] = info.labels
    for job in info.annotation_jobs:
        rows = range(int(found.frame_start[job.start]), int(found.frame_start[job.stop]))
        shapes = [
            {
                "frame": int(found.frame[row]),
                "type": "rectangle",
                "points": found.box[row].astype(float).round(2).tolist(),
                "label_id": label.id,
                "source": "auto",
                "attributes": [{"spec_id": label.attributes[0].id, "value": f"{found.score[row]:.4f}"}],
            }
            for row in rows
        ]
        body = {"version": 0, "tags": [], "shapes": shapes, "tracks": []}
        conn.patch(f"/api/jobs/{job.id}/annotations/", body, query={"action": "create"})
    return int(task.id)


if __name__ == "__main__":
    main(run)
