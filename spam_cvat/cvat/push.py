"""Push: write tracks into a task's jobs without losing human work and without writing anything twice.

In: Tracks, a task, its place in the store. Out: CVAT's tracks, and the push record: which CVAT track carries which of
our tracks in which job, with a digest of what the server holds.

Writing is per job. In each job the tracks that we wrote earlier and that nobody touched since (``source`` still
``auto``, digest unchanged) are ours to replace; everything else is left alone. What is to be written is compared with
what is there first, so that writing the same tracks again changes nothing. Before anything changes, a backup and the
intent are put into the store; a run that was cut off between the server's write and ours is thereby recognised by the
next one, which takes the tracks over instead of writing them twice.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from spam_cvat.boxes import iou_pairs
from spam_cvat.cvat.connect import Connection
from spam_cvat.cvat.store import TaskStore, digest_of, utc_now
from spam_cvat.cvat.tasks import (
    ANNOTATIONS_SECONDS,
    JobInfo,
    TaskInfo,
    boxes_of,
    job_annotations,
    rectangle_tracks,
)
from spam_cvat.errors import CvatError, InputError
from spam_cvat.formats import cvat as cvat_format
from spam_cvat.tracks import Tracks

SHAPES_PER_REQUEST = 20_000
"""CVAT takes some 6,000 shapes a second; one request stays well under its proxy's limits of time and size."""

log = logging.getLogger(__name__)


# --- The push record --------------------------------------------------------------------------------------------------


def track_digest(track: Mapping[str, Any], defaults: Mapping[int, str]) -> str:
    """Digest of what a CVAT track says, equal before writing and after reading back, however often it is reread.

    Left out are ids, ``source``, the order of things, and attributes that have their default value, which the server
    fills in. Coordinates count in hundredths of a pixel.

    Args:
        track: CVAT's track object.
        defaults: default value of each attribute, by ``spec_id``.
    """
    return digest_of([
        track["label_id"],
        track.get("group") or 0,
        _set_attributes(track, defaults),
        sorted(_shape_facts(shape, defaults) for shape in track["shapes"]),
        [track_digest(element, defaults) for element in track.get("elements") or ()],
    ])  # fmt: skip


def _shape_facts(shape: Mapping[str, Any], defaults: Mapping[int, str]) -> list[Any]:
    return [
        shape["frame"],
        shape["type"],
        [round(float(value) * 100) for value in shape["points"]],
        bool(shape.get("outside")),
        bool(shape.get("occluded")),
        int(shape.get("z_order") or 0),
        round(float(shape.get("rotation") or 0) * 100),
        _set_attributes(shape, defaults),
    ]


def _set_attributes(thing: Mapping[str, Any], defaults: Mapping[int, str]) -> list[list[Any]]:
    values = {int(entry["spec_id"]): str(entry["value"]) for entry in thing.get("attributes") or ()}
    return [[spec, value] for spec, value in sorted(values.items()) if value != defaults.get(spec)]


@dataclass(frozen=True)
class PushedTrack:
    """One CVAT track that we wrote.

    Attributes:
        track: our identity.
        job: the job it lies in.
        cvat_id: CVAT's number of it.
        digest: :func:`track_digest` of it as read back.
    """

    track: int
    job: int
    cvat_id: int
    digest: str


@dataclass(frozen=True)
class PushRecord:
    """Which CVAT tracks of a task are ours.

    Attributes:
        server: its address.
        task: its number.
        at: time of the last write, ISO 8601, empty before the first.
        entries: the tracks that we wrote and have not replaced.
        pending: by job, what a write that did not come to its end was about to do.
        provenance: what the last writer noted: program version, digests of weights and answers, who asked.
        backup: name of the backup taken before the last write.
    """

    server: str
    task: int
    at: str = ""
    entries: tuple[PushedTrack, ...] = ()
    pending: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    backup: str | None = None

    def of_job(self, job_id: int) -> dict[int, PushedTrack]:
        """The entries of one job by CVAT's number."""
        return {entry.cvat_id: entry for entry in self.entries if entry.job == job_id}

    @property
    def identities(self) -> dict[tuple[int, int], int]:
        """(job, CVAT track id) -> our identity."""
        return {(entry.job, entry.cvat_id): entry.track for entry in self.entries}


def load_record(store: TaskStore, task: TaskInfo) -> PushRecord:
    """The task's push record, an empty one before the first write."""
    value = store.read_json("push")
    if value is None:
        return PushRecord(task.server, task.id)
    try:
        return PushRecord(
            server=value["server"],
            task=value["task"],
            at=value["at"],
            entries=tuple(PushedTrack(**entry) for entry in value["entries"]),
            pending=value["pending"],
            provenance=value["provenance"],
            backup=value["backup"],
        )
    except (KeyError, TypeError) as error:
        raise CvatError(
            f"{store.location}/push.json is not a push record ({error}); move it away to start over"
        ) from error


def save_record(store: TaskStore, record: PushRecord) -> None:
    """Keep the push record."""
    store.write_json("push", {"format": "spam-cvat push record", "version": 1, **asdict(record)})


@dataclass(frozen=True)
class JobComparison:
    """What became of the tracks that we wrote into a job: the two sides that a three-way merge needs.

    Attributes:
        job: the job.
        untouched: entries whose track is there as we left it, with the track.
        changed: entries whose track a human has changed since, with the track.
        deleted: entries whose track is gone.
        foreign: tracks of boxes that we did not write.
    """

    job: JobInfo
    untouched: tuple[tuple[PushedTrack, dict[str, Any]], ...]
    changed: tuple[tuple[PushedTrack, dict[str, Any]], ...]
    deleted: tuple[PushedTrack, ...]
    foreign: tuple[dict[str, Any], ...]

    @property
    def human(self) -> list[dict[str, Any]]:
        """The tracks that are not ours to replace."""
        return [*self.foreign, *(track for _, track in self.changed)]


def compare_job(task: TaskInfo, job: JobInfo, tracks: Sequence[dict[str, Any]], record: PushRecord) -> JobComparison:
    """Compare a job's tracks as they are now with what the record says we wrote.

    Untouched means the same digest and ``source`` still ``auto``; moving a box in the page makes it ``semi-auto``,
    changing an attribute only changes the digest.
    """
    ours = record.of_job(job.id)
    untouched, changed, foreign = [], [], []
    for track in tracks:
        entry = ours.get(track["id"])
        if entry is None:
            foreign.append(track)
        elif track.get("source") == "auto" and track_digest(track, task.attribute_defaults) == entry.digest:
            untouched.append((entry, track))
        else:
            changed.append((entry, track))
    present = {track["id"] for track in tracks}
    deleted = tuple(entry for number, entry in ours.items() if number not in present)
    return JobComparison(job, tuple(untouched), tuple(changed), deleted, tuple(foreign))


# --- Writing ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PushReport:
    """What a write did.

    Attributes:
        record: the push record after it.
        created: CVAT tracks made.
        deleted: untouched CVAT tracks of ours that were taken away.
        kept: CVAT tracks of ours that were the same already.
        human: tracks that a human drew or changed, left alone.
        covered: our identities that were not written in some job, because a human's track shows the same object.
        backup: name of the backup, None where nothing changed.
    """

    record: PushRecord
    created: int
    deleted: int
    kept: int
    human: int
    covered: tuple[int, ...]
    backup: str | None


@dataclass(frozen=True)
class _JobPlan:
    """What is to be done in one job."""

    job: JobInfo
    before: dict[str, Any]
    create: tuple[tuple[int, dict[str, Any]], ...]
    delete: tuple[dict[str, Any], ...]
    keep: tuple[PushedTrack, ...]
    human: int
    covered: tuple[int, ...]

    @property
    def changes(self) -> bool:
        return bool(self.create or self.delete)


def write_tracks(
    conn: Connection,
    task: TaskInfo,
    tracks: Tracks,
    *,
    store: TaskStore,
    label_ids: Mapping[str, int] | None = None,
    jobs: Sequence[JobInfo] | None = None,
    protect: bool = True,
    provenance: Mapping[str, Any] | None = None,
    before_write: Callable[[], None] | None = None,
    locked: bool = False,
) -> PushReport:
    """Make the task hold these tracks, in place of those that we wrote earlier and that nobody touched.

    Each job gets its part of every track, thinned to keyframes and closed with ``outside`` inside the job. Tracks that
    are there already stay as they are, with their ids. Nothing is written twice, also after a run that was cut off.

    Args:
        conn: the server.
        task: the task.
        tracks: boxes in the task's frame numbers; identities from 1.
        store: the task's place in the store: record, backup and lock.
        label_ids: the task's label id for each label of the tracks; by default matched by name.
        jobs: only these jobs are written, by default all annotation jobs.
        protect: leave out, job by job, a track that shows an object which a human's track shows already.
        provenance: kept in the record.
        before_write: called right before the first change, after all reading; whatever it raises stops the write.
        locked: the caller holds ``store.lock()``.

    Raises:
        InputError: none of the tracks' labels is known to the task.
        CvatError: the server refused or failed; running it again carries on.
    """
    labels = dict(label_ids) if label_ids is not None else task.match_labels(tracks.labels)
    usable = np.isin(tracks.label, [row for row, name in enumerate(tracks.labels) if name in labels])
    tracks = tracks if usable.all() else tracks.select(usable)
    if locked:
        return _write(conn, task, tracks, store, labels, jobs, protect, provenance or {}, before_write)
    with store.lock():
        return _write(conn, task, tracks, store, labels, jobs, protect, provenance or {}, before_write)


def _write(
    conn: Connection,
    task: TaskInfo,
    tracks: Tracks,
    store: TaskStore,
    labels: Mapping[str, int],
    jobs: Sequence[JobInfo] | None,
    protect: bool,
    provenance: Mapping[str, Any],
    before_write: Callable[[], None] | None,
) -> PushReport:
    record = load_record(store, task)
    plans = []
    for job in task.annotation_jobs if jobs is None else jobs:
        before = job_annotations(conn, job.id)
        record = _adopt(task, job, rectangle_tracks(before), record)
        plans.append(_plan(task, job, before, tracks, labels, record, protect))
    changing = [plan for plan in plans if plan.changes]
    record = _with_kept(task, record, plans)
    backup = None
    if changing:
        backup = store.backup("push", _backup(task, changing, record))
        if before_write is not None:
            before_write()
        pending = {str(plan.job.id): _intent(task, plan) for plan in changing}
        record = replace(record, at=utc_now(), pending=pending, provenance=dict(provenance), backup=backup)
        save_record(store, record)
        for plan in changing:
            record = _execute(conn, task, plan, record, store)
    elif before_write is not None:
        before_write()
    record = replace(record, at=record.at or utc_now(), pending={}, provenance=dict(provenance))
    save_record(store, record)
    return PushReport(
        record=record,
        created=sum(len(plan.create) for plan in plans),
        deleted=sum(len(plan.delete) for plan in plans),
        kept=sum(len(plan.keep) for plan in plans),
        human=sum(plan.human for plan in plans),
        covered=tuple(sorted({track for plan in plans for track in plan.covered})),
        backup=backup,
    )


def _adopt(task: TaskInfo, job: JobInfo, current: Sequence[dict[str, Any]], record: PushRecord) -> PushRecord:
    """Take over tracks that an interrupted write of ours put into the job without living to note it."""
    intent = record.pending.get(str(job.id))
    if not intent:
        return record
    before, known = set(intent["before"]), record.of_job(job.id)
    wanted: dict[str, list[int]] = {}
    for track, digest in intent["create"]:
        wanted.setdefault(digest, []).append(track)
    adopted = []
    for found in current:
        if found["id"] in before or found["id"] in known or found.get("source") != "auto":
            continue
        digest = track_digest(found, task.attribute_defaults)
        if wanted.get(digest):
            adopted.append(PushedTrack(wanted[digest].pop(0), job.id, found["id"], digest))
    if adopted:
        log.info("task %d, job %d: %d tracks of an interrupted write taken over", task.id, job.id, len(adopted))
    return replace(record, entries=(*record.entries, *adopted))


def _plan(
    task: TaskInfo,
    job: JobInfo,
    before: dict[str, Any],
    tracks: Tracks,
    labels: Mapping[str, int],
    record: PushRecord,
    protect: bool,
) -> _JobPlan:
    comparison = compare_job(task, job, rectangle_tracks(before), record)
    mine = tracks.select((tracks.frame >= job.start) & (tracks.frame < job.stop) & ~np.isin(tracks.frame, task.deleted))
    covered: tuple[int, ...] = ()
    if protect and comparison.human and len(mine):
        mine, covered = without_covered(mine, [boxes_of(task, track, job) for track in comparison.human])
    present: dict[str, list[tuple[PushedTrack, dict[str, Any]]]] = {}
    for entry, track in comparison.untouched:
        present.setdefault(entry.digest, []).append((entry, track))
    create, keep = [], []
    for number, track in tracks_of_job(task, job, mine, labels):
        same = present.get(track_digest(track, task.attribute_defaults))
        if same:
            keep.append(replace(same.pop(0)[0], track=number))
        else:
            create.append((number, track))
    delete = tuple(track for same in present.values() for _, track in same)
    return _JobPlan(job, before, tuple(create), delete, tuple(keep), len(comparison.human), covered)


def tracks_of_job(
    task: TaskInfo, job: JobInfo, tracks: Tracks, labels: Mapping[str, int]
) -> list[tuple[int, dict[str, Any]]]:
    """The CVAT track objects that show these tracks in the frames of a job, each with our identity."""
    inside = tracks.select((tracks.frame >= job.start) & (tracks.frame < job.stop))
    # A track seen in the job's last frame stays open there: the frame that would close it lies in the next job, and
    # CVAT closes it itself where it reads the whole task.
    objects = cvat_format.tracks_to_cvat(inside, labels, job.start, job.stop)
    return [(int(number), track) for number, track in zip(inside.ids, objects, strict=True)]


def without_covered(
    tracks: Tracks, others: Sequence[Tracks], iou: float = 0.5, share: float = 0.5
) -> tuple[Tracks, tuple[int, ...]]:
    """Leave out the tracks that show what one of the others shows.

    A track is covered when in at least ``share`` of the frames in which both it and another one have a box, and in at
    least ``share`` of the shorter one's frames, the boxes overlap by ``iou``.

    Returns:
        The other tracks, and the identities left out.
    """
    covered = [
        int(number)
        for number in tracks.ids
        if any(_covers(tracks, tracks.rows(int(number)), other, iou, share) for other in others)
    ]
    return tracks.select(~np.isin(tracks.track, covered)), tuple(covered)


def _covers(tracks: Tracks, rows: slice, other: Tracks, iou: float, share: float) -> bool:
    frames = tracks.frame[rows]
    shared, mine, theirs = np.intersect1d(frames, other.frame, assume_unique=True, return_indices=True)
    if not shared.size:
        return False
    together = int((iou_pairs(tracks.box[rows][mine], other.box[theirs]) >= iou).sum())
    return together >= share * len(shared) and together >= share * min(len(frames), len(other))


def _with_kept(task: TaskInfo, record: PushRecord, plans: Sequence[_JobPlan]) -> PushRecord:
    """The record with the identities that kept tracks now carry, without tracks and jobs that are gone."""
    kept = {(entry.job, entry.cvat_id): entry for plan in plans for entry in plan.keep}
    present = {plan.job.id: {track["id"] for track in plan.before["tracks"]} for plan in plans}
    jobs = {job.id for job in task.jobs}
    entries = [
        kept.get((entry.job, entry.cvat_id), entry)
        for entry in record.entries
        if entry.job in jobs and (entry.job not in present or entry.cvat_id in present[entry.job])
    ]
    return replace(record, entries=tuple(entries))


def _backup(task: TaskInfo, plans: Sequence[_JobPlan], record: PushRecord) -> dict[str, Any]:
    """What a write replaces: each changing job as it was, and which of its tracks are taken away."""
    return {
        "server": task.server,
        "task": task.id,
        "record": asdict(record),
        "jobs": {
            str(plan.job.id): {"annotations": plan.before, "delete": [track["id"] for track in plan.delete]}
            for plan in plans
        },
    }


def _intent(task: TaskInfo, plan: _JobPlan) -> dict[str, Any]:
    """What the next run must know to recognise this write's tracks, should this one not live to note them."""
    return {
        "before": [track["id"] for track in plan.before["tracks"]],
        "create": [[number, track_digest(track, task.attribute_defaults)] for number, track in plan.create],
    }


def _execute(conn: Connection, task: TaskInfo, plan: _JobPlan, record: PushRecord, store: TaskStore) -> PushRecord:
    """Create first and delete then: a crash in between leaves too much, which the next run sees, never too little."""
    created: list[PushedTrack] = []
    for batch in _batches(plan.create):
        made = create_tracks(conn, plan.job, [track for _, track in batch])
        created += [
            PushedTrack(number, plan.job.id, track["id"], track_digest(sent, task.attribute_defaults))
            for (number, sent), track in zip(batch, made, strict=True)
        ]
        record = replace(record, entries=(*record.entries, *created[-len(batch) :]))
        save_record(store, record)
    delete_tracks(conn, plan.job, plan.delete)
    gone = {track["id"] for track in plan.delete}
    read_back = {track["id"]: track for track in rectangle_tracks(job_annotations(conn, plan.job.id))}
    missing = [entry.cvat_id for entry in created if entry.cvat_id not in read_back]
    left = gone & set(read_back)
    if missing or left:
        raise CvatError(
            f"job {plan.job.id}: CVAT does not hold what was written ({len(missing)} tracks missing, {len(left)} not "
            "deleted); is somebody saving this job in a page right now? Run it again when he is done"
        )
    fresh = {entry.cvat_id for entry in created}
    entries = [
        replace(entry, digest=track_digest(read_back[entry.cvat_id], task.attribute_defaults))
        if entry.job == plan.job.id and entry.cvat_id in fresh
        else entry
        for entry in record.entries
        if not (entry.job == plan.job.id and entry.cvat_id in gone)
    ]
    pending = {job: intent for job, intent in record.pending.items() if job != str(plan.job.id)}
    record = replace(record, entries=tuple(entries), pending=pending)
    save_record(store, record)
    return record


def _batches(create: Sequence[tuple[int, dict[str, Any]]]) -> Iterator[list[tuple[int, dict[str, Any]]]]:
    batch: list[tuple[int, dict[str, Any]]] = []
    shapes = 0
    for item in create:
        if batch and shapes + len(item[1]["shapes"]) > SHAPES_PER_REQUEST:
            yield batch
            batch, shapes = [], 0
        batch.append(item)
        shapes += len(item[1]["shapes"])
    if batch:
        yield batch


def create_tracks(conn: Connection, job: JobInfo, tracks: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Add tracks to a job; returns what the server made of them, in the same order, with ids.

    Raises:
        InputError: a track reaches outside the job, which CVAT would take without complaint.
        CvatStatusError: the server refused.
    """
    for track in tracks:
        frames = [shape["frame"] for shape in track["shapes"]]
        if not frames or min(frames) < job.start or max(frames) >= job.stop:
            raise InputError(f"job {job.id}: a track with frames {frames[:3]}... is not in {job.start}..{job.stop - 1}")
    answer = conn.patch(
        f"/api/jobs/{job.id}/annotations/",
        {"version": 0, "tags": [], "shapes": [], "tracks": list(tracks)},
        query={"action": "create"},
        what=f"writing {len(tracks)} tracks into job {job.id}",
        timeout=ANNOTATIONS_SECONDS,
    )
    made = answer["tracks"]
    if len(made) != len(tracks):
        raise CvatError(f"job {job.id}: {len(made)} tracks came back of {len(tracks)} written; run it again")
    return made


def delete_tracks(conn: Connection, job: JobInfo, tracks: Sequence[Mapping[str, Any]]) -> None:
    """Take tracks away from a job by their ids; each must be given as read, for CVAT wants to see a shape of it."""
    if not tracks:
        return
    conn.patch(
        f"/api/jobs/{job.id}/annotations/",
        {
            "version": 0,
            "tags": [],
            "shapes": [],
            "tracks": [{**track, "shapes": list(track["shapes"][:1])} for track in tracks],
        },
        query={"action": "delete"},
        what=f"replacing {len(tracks)} of our tracks in job {job.id}",
        timeout=ANNOTATIONS_SECONDS,
    )
