"""A small CVAT with a task of generated detections, for tests of the review loop."""

from dataclasses import dataclass, replace

import numpy as np
from cvat_standin import CvatStandin

from benchmarks.annotators import answer_review
from spam_cvat.cvat.annotate import annotate_task
from spam_cvat.cvat.connect import Connection, connect
from spam_cvat.cvat.review_record import load_reviews
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.sync import create_review
from spam_cvat.cvat.tasks import read_task, read_tracks
from spam_cvat.review.oracle import SimulatedAnnotator
from spam_cvat.training.synthetic import ClutterConfig, Scene, generate_scene, preset

FRAMES = 48
SCORE = {"name": "score", "mutable": False, "input_type": "text", "default_value": "1", "values": []}


@dataclass
class World:
    """The server, who talks to it, what is true."""

    server: CvatStandin
    conn: Connection
    store: Store
    task: int
    scene: Scene

    @property
    def place(self):
        return self.store.task(self.conn.url, self.task)

    @property
    def oracle(self):
        return SimulatedAnnotator(self.scene.ground_truth, self.place.annotation().detections).reply

    def jobs(self, task=None):
        return [job.id for job in self.server.jobs(task or self.task)]

    def read(self):
        """The task's tracks as boxes."""
        return read_tracks(self.conn, read_task(self.conn, self.task)).tracks

    def content(self):
        """What a human sees in the task: CVAT track id -> shapes, in all jobs."""
        return {
            track["id"]: [(s["frame"], s["outside"], tuple(s["points"])) for s in track["shapes"]]
            for job in self.jobs()
            for track in self.annotations(job)["tracks"]
        }

    def annotations(self, job):
        return self.conn.get(f"/api/jobs/{job}/annotations/")

    def page(self, index=0, user="admin"):
        return self.server.open_page(user, self.jobs()[index])

    def annotate(self, **options):
        return annotate_task(
            self.conn, self.store, self.task, detector="task", embedder="none", motion="none", **options
        )

    def review(self, budget="5%", form="sheets", **options):
        return create_review(self.conn, self.store, self.task, budget, form, **options)

    def last_review(self):
        return load_reviews(self.place)[-1]

    def answer(self, **options):
        return answer_review(self.server, self.last_review(), self.oracle, **options)


def make_scene(seed=3):
    """Six people who change places often before a weak detector: there is something left for humans to mend."""
    config = preset("dance", num_frames=FRAMES, width=240, height=180, people=6, clutter=ClutterConfig())
    motion = replace(config.motion, swap_time=1.2, partners=0.5, liveliness=2.0)
    return generate_scene(seed, replace(config, motion=motion, detector=replace(config.detector, base=2.2)))


def make_world(server: CvatStandin, folder, scene: Scene, segment_size=0) -> World:
    """A task with the scene's detections as rectangles, and an empty store."""
    # Frames are told apart by their grey.
    size = (scene.config.height, scene.config.width, 3)
    video = [np.full(size, 80 + frame, np.uint8) for frame in range(scene.config.num_frames)]
    labels = [{"name": "person", "type": "rectangle", "attributes": [SCORE]}]
    task = server.create_task_from_video(video, name="clip", labels=labels, segment_size=segment_size, overlap=0)
    conn = connect(server.url, server.token("admin", read_only=False))
    info = read_task(conn, task.id)
    label = info.labels[0]
    for job in info.annotation_jobs:
        found = scene.detections
        shapes = [
            {
                "frame": int(found.frame[row]),
                "type": "rectangle",
                "points": found.box[row].astype(float).round(2).tolist(),
                "label_id": label.id,
                "source": "auto",
                "attributes": [{"spec_id": label.attributes[0].id, "value": f"{found.score[row]:.4f}"}],
            }
            for row in range(len(found))
            if job.start <= found.frame[row] < job.stop
        ]
        body = {"version": 0, "tags": [], "shapes": shapes, "tracks": []}
        conn.patch(f"/api/jobs/{job.id}/annotations/", body, query={"action": "create"})
    return World(server, conn, Store(folder), task.id, scene)
