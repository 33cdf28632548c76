"""Sessions: from single calls with an image and nothing else to tracks for a whole video.

In: the images that CVAT sends to the function, one a call; what CVAT lists of its running requests. Out: tracks in the
task, written inside the last call of a request.

CVAT does not tell a function which task or frame an image is of. It lists its running requests, though, and calls are
strictly in frame order, so the image must be the next frame of one of them. That is checked: the image's SHA-256 must
be that of the task's frame in original quality. A session belongs to one request, named by ``(id, enqueued)``. While
there is only one, checking each tenth image and the last is enough, because the images between two matches are put in
order by their own digests should one of them turn out to be a stranger; with several, every image is checked. What
matches none is answered as by a plain detector, and what came already with nothing: the loop of a request that was
cancelled may run on beside its successor's. What matches two is refused: nothing is ever written on a guess.
"""

import bisect
import hashlib
import itertools
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any

import numpy as np

from spam_cvat.annotation import Annotation
from spam_cvat.cvat.annotate import answers_of, save_motion
from spam_cvat.cvat.connect import Connection, CvatStatusError
from spam_cvat.cvat.push import PushReport, load_record, write_tracks
from spam_cvat.cvat.store import Store, TaskStore, digest_of
from spam_cvat.cvat.tasks import JobInfo, TaskInfo, TaskVideo, frame_bytes, read_detections, read_task
from spam_cvat.detections import Detections, VideoInfo
from spam_cvat.engine import annotate
from spam_cvat.errors import CancelledError, CvatError, SpamError
from spam_cvat.motion import MASK_SCORE, BackgroundFollower
from spam_cvat.serving.harvest import GivenPerception, Harvest, Perception, Seen
from spam_cvat.serving.settings import Settings
from spam_cvat.tracks import Tracks
from spam_cvat.video import Image

CHECK_EVERY = 10
"""With a single request running, each tenth image is checked against the task's frame."""

SLACK = 3
"""How many frames further on an image is looked for, where it is not the one expected."""

SEARCH_SECONDS = 40.0
"""How long a session that was begun elsewhere may look for its place."""

QUIET = 20
"""A cancelled request's loop that still ran would have shown an image among so many of others."""

DIGESTS_KEPT = 20_000

log = logging.getLogger(__name__)


def image_digest(data: bytes) -> str:
    """SHA-256 of an image file."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Run:
    """A request for automatic annotation, as CVAT lists it.

    Attributes:
        id: of the request; the same for every request on a task.
        enqueued: when it was made; with the id it names the request.
        status: queued, started, finished, ...
        task: number of the task.
        job: number of the job, None for the whole task.
        threshold: what the user set, None where nothing.
        progress: percent, None before the first call has ended.
        organization: in whose context it is listed; None where none is needed.
    """

    id: str
    enqueued: str
    status: str
    task: int
    job: int | None
    threshold: float | None
    progress: int | None
    organization: str | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What names the request."""
        return self.id, self.enqueued

    @classmethod
    def read(cls, record: Mapping[str, Any], organization: str | None = None) -> "Run":
        """Take CVAT's record."""
        function = record["function"]
        return cls(
            id=record["id"],
            enqueued=record["enqueued"],
            status=record["status"],
            task=function["task"],
            job=function.get("job"),
            threshold=function.get("threshold"),
            progress=record.get("progress"),
            organization=organization,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a whole run.

    Attributes:
        task: number of the task.
        job: number of the job, None for the whole task.
        frames: how many were looked at.
        tracks: identities found.
        boxes: boxes of them.
        push: what was written.
        seconds: from the first frame to the last write.
    """

    task: int
    job: int | None
    frames: int
    tracks: int
    boxes: int
    push: PushReport
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for an answer or a log."""
        return {
            "task": self.task,
            "job": self.job,
            "frames": self.frames,
            "tracks": self.tracks,
            "boxes": self.boxes,
            "created": self.push.created,
            "replaced": self.push.deleted,
            "unchanged": self.push.kept,
            "human_tracks_kept": self.push.human,
            "covered_by_human_tracks": len(self.push.covered),
            "backup": self.push.backup,
            "seconds": round(self.seconds, 1),
        }


# --- From frames to tracks: what one-click runs and direct calls share ------------------------------------------------


class VideoRun:
    """One pass over the frames of a task or of one of its jobs.

    Args:
        conn: the server.
        store: where things are remembered.
        task: the task.
        job: only this job.
        perception: looks at the pixels; None takes the rectangles that the task holds.
        settings: of the function.

    Raises:
        InputError: the task has no label that fits, or the rectangles asked for are not there.
    """

    def __init__(
        self,
        conn: Connection,
        store: Store,
        task: TaskInfo,
        job: JobInfo | None,
        perception: Perception | None,
        settings: Settings,
    ) -> None:
        """Find the labels and what is known of the frames already."""
        self.conn, self.task, self.job, self.settings = conn, task, job, settings
        self.store: TaskStore = store.task(conn.url, task.id)
        self.perception = perception or GivenPerception(read_detections(conn, task), settings)
        self.labels = task.match_labels(self.perception.labels, settings.labels)
        self.frames = task.frames(job)
        self.harvest = Harvest(self.store, task.digest, f"{self.perception.name} motion={settings.motion}")
        self.begun = time.monotonic()
        self._before = dict(itertools.pairwise(reversed(self.frames)))
        self._follower = BackgroundFollower()
        self._followed: int | None = None

    def see(self, frame: int, image: Image) -> Seen:
        """Boxes, appearance and, where the frame before was given last, camera motion."""
        seen = self.perception.see(image, frame)
        if not self.settings.motion:
            return seen
        if self._followed is None or self._before.get(frame) != self._followed:
            self._follower, self._followed = BackgroundFollower(), None
        sure = seen.boxes.box[seen.boxes.score >= MASK_SCORE]
        warp = self._follower.step(image, sure)
        follows, self._followed = self._followed is not None, frame
        return replace(seen, warp=warp if follows else None)

    def missing(self) -> list[int]:
        """Frames that nobody has looked at, here or in another process."""
        if any(frame not in self.harvest for frame in self.frames):
            self.harvest.refresh()
        return [frame for frame in self.frames if frame not in self.harvest]

    def fetch_missing(self, each: Callable[[int], None]) -> int:
        """Fetch the frames that nobody has looked at; ``each`` is called with the number of those done.

        Returns:
            How many there were.
        """
        missing = self.missing()
        with TaskVideo(self.conn, self.task, self.job) as video:
            for done, (frame, image) in enumerate(video.numbered(missing), 1):
                self.harvest.add(frame, self.see(frame, image))
                each(done)
        return len(missing)

    def conclude(
        self,
        *,
        threshold: float | None = None,
        provenance: Mapping[str, Any] | None = None,
        before_write: Callable[[], None] | None = None,
    ) -> Outcome:
        """Associate what was seen and write the tracks.

        Answers that humans gave about this task are kept. The Annotation is put into the store beside the record.

        Args:
            threshold: leave out tracks of which no box is as sure as this.
            provenance: kept with the record.
            before_write: called right before the first change; what it raises stops the write.
        """
        detections = self.harvest.detections(self.task.video, self.frames, self.perception.labels)
        named = [row for row, name in enumerate(self.perception.labels) if name in self.labels]
        detections = detections.select(np.isin(detections.label, named))
        answers = answers_of(self.store)
        warps = self.harvest.warps(self.task.size) if self.settings.motion else None
        annotation = annotate(detections, warps=warps, answers=answers, weights=self.settings.weights_path)
        with self.store.lock():
            tracks = self._numbered_apart(sure_tracks(annotation.tracks, threshold))
            source = {
                **annotation.provenance,
                "perception": self.perception.name,
                "annotation": digest_of([annotation.detections.id.tolist(), annotation.tracks.track.tolist()]),
                **(provenance or {}),
            }
            push = write_tracks(
                self.conn,
                self.task,
                tracks,
                store=self.store,
                label_ids=self.labels,
                jobs=None if self.job is None else [self.job],
                provenance=source,
                before_write=before_write,
                locked=True,
            )
            kept = Annotation(
                annotation.detections, annotation.gate, annotation.levels, tracks, annotation.config, source
            )
            self.store.save_annotation(kept, None if self.job is None else self.job.id)
            if self.job is None:
                save_motion(self.store, warps)
        self.harvest.discard()
        return Outcome(
            task=self.task.id,
            job=None if self.job is None else self.job.id,
            frames=len(self.frames),
            tracks=len(tracks.ids),
            boxes=len(tracks),
            push=push,
            seconds=time.monotonic() - self.begun,
        )

    def _numbered_apart(self, tracks: Tracks) -> Tracks:
        """Identities of a job's run must not be those that other jobs of the task carry."""
        if self.job is None:
            return tracks
        others = [entry.track for entry in load_record(self.store, self.task).entries if entry.job != self.job.id]
        return shifted(tracks, max(others, default=0))


def warm_up(settings: Settings) -> None:
    """Load the hierarchy's weights once, so that a file that is missing shows before the first run ends.

    Raises:
        InputError: the weights cannot be read.
    """
    annotate(Detections.empty(VideoInfo("warm-up", 2, 64, 64)), weights=settings.weights_path)


def shifted(tracks: Tracks, by: int) -> Tracks:
    """The same tracks with higher identities."""
    return Tracks.create(
        tracks.video,
        tracks.frame,
        tracks.track + by,
        tracks.box,
        tracks.score,
        tracks.detection,
        tracks.label,
        tracks.labels,
    )


def sure_tracks(tracks: Tracks, threshold: float | None) -> Tracks:
    """The tracks of which at least one box is as sure as the threshold; all of them where it is None."""
    if threshold is None or not len(tracks):
        return tracks
    best = np.maximum.reduceat(tracks.score, tracks.track_start[:-1])
    return tracks.select(np.isin(tracks.track, tracks.ids[best >= threshold]))


class Login:
    """A login to CVAT that may write, made at first need.

    Args:
        connect: logs in.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        """Do nothing yet: the function must start while CVAT is away."""
        self._connect = connect
        self._lock = Lock()
        self._connection: Connection | None = None

    @property
    def connection(self) -> Connection:
        """The connection. Raises CvatError where the login fails or its token may only read."""
        with self._lock:
            if self._connection is None:
                connection = self._connect()
                if connection.token_is_read_only():
                    raise CvatError(
                        f"the access token for {connection.url} is read-only, which new tokens are by default: tracks "
                        'could not be written; make one with "read_only": false'
                    )
                self._connection = connection
            return self._connection


# --- One request ------------------------------------------------------------------------------------------------------


@dataclass
class _Taken:
    """An image taken for the frame at a place of the run, not checked yet."""

    place: int
    digest: str
    seen: Seen | None


class Session:
    """One request: which frame comes next, and what was seen so far.

    Two loops of CVAT may show one request's frames: a cancelled one runs on beside its successor. The session follows
    the one that is ahead; ``echo`` is the place that the other one shows next.
    """

    def __init__(self, run: Run, video: VideoRun) -> None:
        """Begin at the first frame."""
        self.run = run
        self.video = video
        self.place = 0
        self.anchored = False
        self.quiet = 0
        self.superseded = False
        self.echo: int | None = None
        self.came: dict[str, int] = {}
        self._doubled = 0
        self._unchecked: list[_Taken] = []
        self._checked_to = 0

    @property
    def complete(self) -> bool:
        """Whether all frames have come."""
        return self.place >= len(self.video.frames)

    @property
    def must_check(self) -> bool:
        """Whether the next image has to be checked even while this is the only request."""
        last = self.place == len(self.video.frames) - 1
        return not self.anchored or last or self.place % CHECK_EVERY == 0 or self.complete or self._doubled > 0

    @property
    def shown_again(self) -> bool:
        """Whether a second loop was in the midst of the frames of late."""
        return self._doubled > 0 and self.echo is not None and self.echo < len(self.video.frames)

    def restart(self) -> None:
        """Begin again; what was seen of the frames stays known."""
        self.place, self.anchored, self._checked_to = 0, False, 0
        self.superseded, self.echo, self._doubled = False, None, 0
        self._unchecked, self.came = [], {}

    def come_again(self, place: int) -> None:
        """The image at ``place`` came a second time: from now on each image is checked, until that has ended."""
        self.echo, self._doubled = place + 1, QUIET

    def outlive(self) -> None:
        """The request has ended, but calls of its other loop may still come, in order."""
        self.run = replace(self.run, enqueued=f"after {self.run.enqueued}", status="cancelled")
        self.quiet, self.came = 0, {}

    def ignore(self, place: int, digest: str) -> None:
        """Pass over the frame at ``place``: the request was cancelled."""
        self.place, self.came[digest] = place + 1, place

    def take(self, place: int, digest: str, image: Callable[[], Image], checked: bool) -> None:
        """Take an image for the frame at ``place``."""
        frame = self.video.frames[place]
        seen = None if frame in self.video.harvest else self.video.see(frame, image())
        self._unchecked.append(_Taken(place, digest, seen))
        self.place, self._doubled = place + 1, max(0, self._doubled - 1)
        if checked:
            self.settle()

    def settle(self) -> None:
        """All images so far are in place: keep what was seen in them."""
        for taken in self._unchecked:
            self.came[taken.digest] = taken.place
            if taken.seen is not None:
                self.video.harvest.add(self.video.frames[taken.place], taken.seen)
        self._unchecked, self._checked_to, self.anchored = [], self.place, True

    def realign(self, digest: str, digest_of_place: Callable[[int], str], further: Iterable[int]) -> int | None:
        """Find the place of an image that is not the expected frame, and put the unchecked ones before it in place.

        Those that are none of the frames to come are dropped: somebody else's call, or another loop's, came in between.

        Args:
            digest: of the image.
            digest_of_place: digest of the frame at a place.
            further: more places to look at, when it is none of the next few.

        Returns:
            The image's place, None where it is none of this run's frames.
        """
        end = min(self.place + SLACK, len(self.video.frames))
        following = self._checked_to
        kept, dropped = [], []
        for taken in self._unchecked:
            found = next((place for place in range(following, end) if digest_of_place(place) == taken.digest), None)
            if found is None:
                dropped.append(taken.digest)
            else:
                # Camera motion was measured against the image before, which may have been the stranger.
                seen = taken.seen and replace(taken.seen, warp=None)
                kept.append(_Taken(found, taken.digest, seen))
                following = found + 1
        if self._unchecked:
            self._unchecked, self.place = kept, following
            self.settle()
        for again in (self.came[other] for other in dropped if other in self.came):
            self.come_again(again)
        nearby = range(following, end)
        for place in (*nearby, *(place for place in further if place >= end)):
            if digest_of_place(place) == digest:
                return place
        return None


# --- All requests -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Verdict:
    """What was done with an image.

    Attributes:
        kind: ``taken`` into a session, ``ignored`` because its request is dead, or ``plain``: it belongs to none.
        detail: one line for the log.
        outcome: of the run, where this was its last image.
    """

    kind: str
    detail: str
    outcome: Outcome | None = None


@dataclass
class _Candidate:
    """A request that is running, with its session or the reason why there is none."""

    run: Run
    session: Session | None
    error: SpamError | None = None


@dataclass
class Sessions:
    """All requests that this process works on. Calls are served one at a time.

    Args:
        login: to CVAT.
        store: where things are remembered.
        perception: looks at pixels; None where the rectangles in the task are to be used.
        settings: of the function.
    """

    login: Login
    store: Store
    perception: Perception | None
    settings: Settings
    _open: dict[tuple[str, str], Session] = field(default_factory=dict)
    _digests: OrderedDict[tuple[int, str, int], str] = field(default_factory=OrderedDict)
    _lock: Lock = field(default_factory=Lock)
    _organizations: tuple[str, ...] | None = None

    def offer(self, data: bytes, image: Callable[[], Image], begun: float) -> Verdict:
        """Take an image that CVAT sent.

        Args:
            data: the image file.
            image: decodes it.
            begun: when the call came in, by ``time.monotonic``.

        Raises:
            SpamError: the request cannot be served; nothing was written.
        """
        with self._lock:
            digest = image_digest(data)
            try:
                runs = self._listing()
            except SpamError as error:
                self._note({"status": "failed", "task": None, "job": None, "error": str(error)})
                raise
            found = self._place(digest, runs)
            if found is None:
                return Verdict("plain", "no running request of this function shows this image as its next frame")
            session, place, checked = found
            if place is None:
                return Verdict("ignored", f"{session.run.id}: an image that came already")
            if session.run.status != "started":
                session.ignore(place, digest)
                return Verdict("ignored", f"{session.run.id} was cancelled: frame {place} of it is not used")
            try:
                session.take(place, digest, image, checked)
                if not session.complete:
                    return Verdict("taken", f"{session.run.id}: {session.place} of {len(session.video.frames)} frames")
                return self._finish(session, begun)
            except Exception as error:
                # CVAT fails the whole request on one bad answer: the session ends here, whatever went wrong.
                self._drop(session, "failed", str(error) or type(error).__name__)
                raise

    def close(self) -> None:
        """Keep what was seen, for the process that follows."""
        with self._lock:
            for session in self._open.values():
                session.video.harvest.flush()

    @property
    def connection(self) -> Connection:
        """The server."""
        return self.login.connection

    @property
    def progress(self) -> list[str]:
        """One line for each request that is being worked on."""
        return [f"{open.run.id}: {open.place} of {len(open.video.frames)} frames" for open in self._open.values()]

    # --- whose image is it? ---

    def _listing(self) -> list[Run]:
        """CVAT's requests of this function, those in the organizations we belong to included."""
        runs = self._requests(None)
        if self.connection.organization is None and not any(run.status == "started" for run in runs):
            if self._organizations is None:
                known = self.connection.pages("/api/organizations", what="our organizations")
                self._organizations = tuple(entry["slug"] for entry in known)
            for slug in self._organizations:
                runs += [run for run in self._requests(slug) if run.key not in {other.key for other in runs}]
        return runs

    def _requests(self, organization: str | None) -> list[Run]:
        records = self.connection.get(
            "/api/lambda/requests", what="CVAT's running requests", organization=organization, timeout=20.0
        )
        return [
            Run.read(record, organization)
            for record in records
            if record["function"]["id"] in self.settings.function_names
        ]

    def _place(self, digest: str, runs: Sequence[Run]) -> tuple[Session, int | None, bool] | None:
        """The session whose frame the image is, its place there (None: it came already), and whether it was checked."""
        self._forget(runs)
        live = [self._candidate(run) for run in runs if run.status == "started"]
        sessions = [candidate.session for candidate in live if candidate.session is not None]
        dead = self._dead(runs)
        if len(live) == len(sessions) == 1 and not dead and not self.settings.verify_all:
            only = sessions[0]
            if not only.must_check:
                return only, only.place, False
        for attempt in (self._expected, self._first, self._elsewhere):
            # A cancelled request's loop may run on; its images are told apart from those of living requests.
            for group in (sessions, dead):
                places = [(session, place) for session in group for place in attempt(session, digest)]
                if len(places) > 1 and group is sessions:
                    names = " and ".join(session.run.id for session, _ in places)
                    raise CvatError(
                        f"two running requests show the same image ({names}): which one this call belongs to cannot be "
                        "told, and nothing is written on a guess; annotate these tasks one after the other"
                    )
                if places:
                    session, place = places[0]
                    self._bury(dead, session)
                    if place == 0 and session.place and not session.complete:
                        session.come_again(0)
                        return session, None, True
                    if place == 0 and session.place:
                        session.restart()
                    return session, place, True
        for candidate in live:
            if candidate.error is not None:
                self._report(candidate.run, "failed", str(candidate.error))
                raise candidate.error
        for session in (*sessions, *dead):
            again = self._again(session, digest)
            if again is not None:
                session.come_again(again)
                return session, None, True
        # Cancelled and asked for again before its first call: nothing tells of it but the queued request.
        for stray in self._strays([run for run in runs if run.status == "queued" and run.progress is None]):
            for place in self._expected(stray, digest):
                return stray, place, True
        return None

    def _bury(self, dead: Sequence[Session], shown: Session) -> None:
        """Forget cancelled requests of which no image has come for long: their loops have ended."""
        for session in dead:
            session.quiet = 0 if session is shown else session.quiet + 1
            if session.quiet > QUIET:
                session.video.harvest.flush()
                self._open = {key: other for key, other in self._open.items() if other is not session}

    def _candidate(self, run: Run) -> _Candidate:
        session = self._open.get(run.key)
        if session is not None:
            session.run, session.superseded = run, False
            return _Candidate(run, session)
        try:
            task = read_task(self.connection, run.task, fps=self.settings.fps)
            job = None if run.job is None else task.job(run.job)
            video = VideoRun(self.connection, self.store, task, job, self.perception, self.settings)
        except SpamError as error:
            # Another request may be fine: this one's error is told when the image belongs to nobody else.
            return _Candidate(run, None, error)
        self._open[run.key] = Session(run, video)
        return _Candidate(run, self._open[run.key])

    def _dead(self, runs: Sequence[Run]) -> list[Session]:
        """Sessions of cancelled requests whose loop may still run, because the task has been asked for again."""
        listed = {run.id: run for run in runs}
        dead = []
        for session in self._open.values():
            now = listed.get(session.run.id)
            if now is not None and (now.key != session.run.key or now.status != "started"):
                session.superseded |= now.key != session.run.key and now.status != "finished"
                session.run = replace(session.run, status="cancelled")
                dead.append(session)
        # After a restart of ours such a loop shows only as a queued request that makes progress.
        known = {session.run.id for session in dead}
        waiting = [run for run in runs if run.status not in ("started", "finished") and run.progress is not None]
        return dead + self._strays([run for run in waiting if run.id not in known])

    def _strays(self, waiting: Sequence[Run]) -> list[Session]:
        """Sessions for cancelled requests that we never saw running, on the tasks of requests that wait."""
        strays = []
        for run in waiting:
            session = self._candidate(replace(run, enqueued=f"before {run.enqueued}")).session
            if session is not None:
                session.run = replace(session.run, status="cancelled")
                strays.append(session)
        return strays

    def _forget(self, runs: Sequence[Run]) -> None:
        """Let go of sessions whose request has ended; what they saw stays in the store.

        A request that is gone was cancelled, and its loop ends with the call in flight. One that is listed with another
        time was asked for again: its loop may run on, even while the other is listed as finished. Where the end of one
        of two loops has been written over the record of both, the other one's calls are still to come.
        """
        listed = {run.id: run for run in runs}
        for key, session in list(self._open.items()):
            now = listed.get(session.run.id)
            if now is not None and (now.key != session.run.key or now.status != "finished"):
                continue
            self._open.pop(key).video.harvest.flush()
            followed = any(other.run.id == session.run.id for other in self._open.values())
            if now is not None and (session.shown_again or (session.superseded and not followed)):
                session.outlive()
                self._open[session.run.key] = session

    def _expected(self, session: Session, digest: str) -> Iterator[int]:
        if not session.complete and self._digest(session, session.place) == digest:
            if joined_late(session):
                _check_unlike(session, digest, lambda place: self._digest(session, place))
            yield session.place

    def _first(self, session: Session, digest: str) -> Iterator[int]:
        """A key that we know may come again from its first frame: after a cancel and an immediate restart."""
        if session.place and self._digest(session, 0) == digest:
            yield 0

    def _again(self, session: Session, digest: str) -> int | None:
        """The place of an image that came already, None where it is none: a second loop is behind the first."""
        if session.echo is not None:
            for place in range(session.echo, min(session.echo + SLACK, session.place)):
                if self._digest(session, place) == digest:
                    return place
        return session.came.get(digest)

    def _elsewhere(self, session: Session, digest: str) -> Iterator[int]:
        """Calls may have gone to another process, or a stranger's image may have been taken for a frame."""
        deadline = time.monotonic() + SEARCH_SECONDS

        def look(place: int) -> str:
            if time.monotonic() > deadline:
                raise CvatError(f"{session.run.id}: the place of an image was not found in {SEARCH_SECONDS:.0f} s")
            return self._digest(session, place)

        likely = likely_places(session)
        if joined_late(session):
            _check_unlike(session, digest, look)
        # In a session that was followed from its beginning the next frames suffice, unless CVAT is further on.
        behind = bool(likely) and likely[0] > session.place + SLACK
        place = session.realign(digest, look, likely if behind or not session.anchored else ())
        if place is not None:
            yield place

    def _digest(self, session: Session, place: int) -> str:
        task, frame = session.video.task, session.video.frames[place]
        key = (task.id, task.digest, frame)
        if key not in self._digests:
            self._digests[key] = image_digest(frame_bytes(self.connection, task.id, frame, timeout=30.0))
            while len(self._digests) > DIGESTS_KEPT:
                self._digests.popitem(last=False)
        return self._digests[key]

    # --- the end of a run ---

    def _finish(self, session: Session, begun: float) -> Verdict:
        """Write the tracks, if the request is still running and there is time."""
        run, video = session.run, session.video
        limit = begun + self.settings.call_seconds

        def in_time(_: int = 0) -> None:
            if time.monotonic() > limit:
                raise CvatError(
                    f"task {run.task}: the last call took over {self.settings.call_seconds:.0f} s, and CVAT would have "
                    'given up: nothing was written; call the function with {"task": %d}, which has no such limit'
                    % run.task
                )

        def still_wanted() -> None:
            in_time()
            self._check_running(run)

        fetched = video.fetch_missing(in_time)
        if fetched:
            log.info("%s: %d frames that did not come by were fetched", run.id, fetched)
        try:
            outcome = video.conclude(
                threshold=run.threshold,
                provenance={"asked": "automatic annotation", "request": run.id, "enqueued": run.enqueued},
                before_write=still_wanted,
            )
        except CancelledError as error:
            self._drop(session, "cancelled", str(error))
            return Verdict("ignored", str(error))
        self._report(run, "done", None, outcome)
        # The session stays known, complete: its request is listed as started until this call has returned.
        return Verdict("taken", f"{run.id}: {outcome.tracks} tracks written", outcome)

    def _check_running(self, run: Run) -> None:
        """Raise CancelledError where the request is no longer what it was when its first frame came."""
        try:
            record = self.connection.get(
                f"/api/lambda/requests/{run.id}", what=f"request {run.id}", organization=run.organization, timeout=20.0
            )
        except CvatStatusError as error:
            if error.status != 404:
                raise
            raise CancelledError(f"{run.id} was cancelled: nothing was written") from None
        now = Run.read(record)
        if now.status != "started" or now.key != run.key:
            raise CancelledError(f"{run.id} was cancelled ({now.status}): nothing was written")

    def _drop(self, session: Session, status: str, error: str) -> None:
        """End a session without a write; what was seen is kept for the next one."""
        for key in [key for key, other in self._open.items() if other is session]:
            del self._open[key]
        try:
            session.video.harvest.flush()
        except SpamError as problem:
            log.error("what was seen of task %d is lost: %s", session.run.task, problem)
        self._report(session.run, status, error)

    def _report(self, run: Run, status: str, error: str | None, outcome: Outcome | None = None) -> None:
        report = {"status": status, "task": run.task, "job": run.job, "error": error}
        self._note(report | ({"outcome": outcome.to_json()} if outcome else {}))

    def _note(self, report: dict[str, Any]) -> None:
        """Remember how a run ended, for the doctor: the page says only that it failed."""
        try:
            self.store.report_run({"kind": "automatic annotation", **report})
        except SpamError as problem:
            # What happened matters more than that it cannot be noted.
            log.error("%s (this could not be noted: %s)", report["error"] or report["status"], problem)


def joined_late(session: Session) -> bool:
    """Whether a session has seen nothing yet of a request that has already got beyond its first frames."""
    unseen = not session.place and not session.anchored and session.run.progress is not None
    return unseen and 0 not in likely_places(session)


def _check_unlike(session: Session, digest: str, digest_of_place: Callable[[int], str]) -> None:
    """Refuse to guess the place of the first image that a process sees of a request, where frames look alike.

    A wrong guess would put boxes into wrong frames, or let the run end before or after its last call, unwritten.

    Raises:
        CvatError: the image is the frame at several of the places where the request may be.
    """
    found: list[int] = []
    likely = likely_places(session)
    for place in (*(place for place in range(SLACK) if place not in likely), *likely):
        if found and found[-1] in likely and place > found[-1] + SLACK:
            return
        if digest_of_place(place) == digest:
            found.append(place)
        if len(found) > 1:
            raise CvatError(
                f"{session.run.id}: this process was started in the midst of the request, and its frames look alike: "
                "which of them has come cannot be told, and nothing is written on a guess; start it again"
            )


def likely_places(session: Session) -> range:
    """Places at which a request may be by its progress: the share of the whole task before the last frame, in percent.

    With it a function that was restarted finds its place in few fetches.
    """
    frames, size = session.video.frames, session.video.task.size
    progress = session.run.progress or 0
    low = bisect.bisect_left(frames, math.floor(progress * size / 100) - 1)
    high = bisect.bisect_right(frames, math.ceil((progress + 1) * size / 100) + 1)
    return range(low, high)
