"""Write-back: a new result into a task by three-way merge, and the way back.

In: tracks, a task, its place in the store. Out: what was written, kept and withheld, job by job. Beside the push record
(``push.json``, shared with the function) this keeps ``merged.json``: each track as we left it and the frames in it that
are a human's, so that a later run still knows them.

Every write is preceded by a backup and by a note of what is about to be done; a run that is cut off at any point is
finished by the next one, which recognises what arrived.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from spam_cvat.cvat.connect import Connection
from spam_cvat.cvat.merge import Conflict, JobPlan, Pushed, Write, is_ours, merge_job
from spam_cvat.cvat.push import (
    SHAPES_PER_REQUEST,
    PushedTrack,
    PushRecord,
    create_tracks,
    delete_tracks,
    load_record,
    save_record,
    track_digest,
    tracks_of_job,
)
from spam_cvat.cvat.spans import differing_frames, read_span
from spam_cvat.cvat.store import TaskStore, utc_now
from spam_cvat.cvat.tasks import ANNOTATIONS_SECONDS, JobInfo, TaskInfo, job_annotations
from spam_cvat.errors import CvatError, SpamError
from spam_cvat.tracks import Tracks

QUIET_MINUTES = 15.0
"""A job in progress, saved more recently than this, may be open in somebody's page, which would overwrite our write."""

log = logging.getLogger(__name__)

Json = dict[str, Any]


# --- What we left there -----------------------------------------------------------------------------------------------


@dataclass
class Memory:
    """What is remembered of the tracks in a task, by job.

    Attributes:
        record: the push record.
        base: the tracks as we left them.
        updated: each job's time of change right after our last write.
        undone: names of backups that were restored already.
        notes: what had to be guessed, in words.
    """

    record: PushRecord
    base: dict[int, list[Pushed]]
    updated: dict[int, str] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def recall(
    task: TaskInfo,
    store: TaskStore,
    by_job: Mapping[int, Json],
    tracks: Tracks | None = None,
    labels: Mapping[str, int] | None = None,
) -> Memory:
    """What we left in a task's jobs.

    Known from our own last write; where the function wrote since, from its push record, whose tracks are taken as they
    are when nobody touched them and otherwise from the ``tracks`` it wrote. Where nothing is recorded at all, the
    task's untouched automatic tracks are taken for ours, and the notes say so.

    Args:
        task: the task.
        store: its place.
        by_job: the jobs' annotations now.
        tracks: of the stored annotation.
        labels: label ids by name, for ``tracks``.
    """
    record = load_record(store, task)
    value = store.read_json("merged") or {}
    mine = {int(job): [Pushed.from_json(item) for item in items] for job, items in (value.get("jobs") or {}).items()}
    memory = Memory(
        record,
        {},
        {int(job): str(at) for job, at in (value.get("updated") or {}).items()},
        list(value.get("undone") or ()),
    )
    pending = value.get("pending") or {}
    if value.get("push") == record.at and mine:
        memory.base = mine
    elif not record.at and not record.entries:
        memory.base = {job: _presumed(annotations) for job, annotations in by_job.items()}
        if any(memory.base.values()):
            memory.notes.append(
                "the store knows nothing of this task: its automatic tracks that nobody edited are taken for ours"
            )
    else:
        memory.base = {
            job: _recorded(task, task.job(job), annotations, record, mine.get(job, ()), tracks, labels)
            for job, annotations in by_job.items()
        }
    for job, note in pending.items():
        if int(job) in by_job:
            memory.base[int(job)] = _adopted(memory.base.get(int(job), []), by_job[int(job)], note, task.job(int(job)))
    return memory


def _presumed(annotations: Json) -> list[Pushed]:
    tracks = [track for track in annotations["tracks"] if is_ours(track)]
    return [Pushed(int(track["id"]), number, track) for number, track in enumerate(tracks, 1)]


def _recorded(
    task: TaskInfo,
    job: JobInfo,
    annotations: Json,
    record: PushRecord,
    mine: Iterable[Pushed],
    tracks: Tracks | None,
    labels: Mapping[str, int] | None,
) -> list[Pushed]:
    """The base after somebody else's push."""
    present = {int(track["id"]): track for track in annotations["tracks"]}
    written: dict[int, Json] = {}
    if tracks is not None and labels is not None:
        written = dict(tracks_of_job(task, job, _usable(tracks, task, labels), labels))
    out: dict[int, Pushed] = {}
    for entry in record.of_job(job.id).values():
        now = present.get(entry.cvat_id)
        if now is not None and track_digest(now, task.attribute_defaults) == entry.digest:
            out[entry.cvat_id] = Pushed(entry.cvat_id, entry.track, now)
        elif entry.track in written:
            out[entry.cvat_id] = Pushed(entry.cvat_id, entry.track, written[entry.track])
    for pushed in mine:
        if pushed.id not in present and pushed.id not in record.of_job(job.id):
            continue  # replaced by the other writer
        if pushed.ours is not None or pushed.id not in present:
            out[pushed.id] = pushed
    return list(out.values())


def _adopted(base: Sequence[Pushed], annotations: Json, note: Json, job: JobInfo) -> list[Pushed]:
    """The base after a write of ours that was cut off: what arrived is ours, what was taken away was by us."""
    present = {int(track["id"]): track for track in annotations["tracks"]}
    out = {pushed.id: pushed for pushed in base}
    for number in note["delete"]:
        if number not in present:
            out.pop(number, None)
    before, taken = set(note["before"]), set()
    for item in note["writes"]:
        write = Write(**{**item, "human": tuple(item["human"])})
        wanted = read_span(write.content, job.start, job.stop - 1)
        places = [write.id] if write.id is not None else [number for number in present if number not in before]
        for number in places:
            now = present.get(number)
            if now is None or number in taken or int(now["label_id"]) != int(write.content["label_id"]):
                continue
            if not len(differing_frames(wanted, read_span(now, job.start, job.stop - 1), boxes_only=True)):
                out[number] = write.pushed(now)
                taken.add(number)
                break
    return list(out.values())


def _remember(store: TaskStore, memory: Memory, pending: Mapping[int, Json] | None = None) -> None:
    store.write_json(
        "merged",
        {
            "format": "spam-cvat merge record",
            "version": 1,
            "push": memory.record.at,
            "jobs": {str(job): [pushed.to_json() for pushed in items] for job, items in memory.base.items()},
            "updated": {str(job): at for job, at in memory.updated.items()},
            "undone": memory.undone,
            "pending": {str(job): note for job, note in (pending or {}).items()},
        },
    )


# --- What is to be done -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """A job that is not written now.

    Attributes:
        job: its number.
        reason: in words.
    """

    job: int
    reason: str


@dataclass(frozen=True)
class WritePlan:
    """What a write would do.

    Attributes:
        jobs: the plan for each job that may be written.
        before: the jobs' annotations it was made for.
        held: jobs left alone for now.
        warnings: in words.
    """

    jobs: Mapping[int, JobPlan]
    before: Mapping[int, Json]
    held: tuple[Held, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def writes(self) -> int:
        """Tracks that would be created, updated or deleted."""
        return sum(plan.writes for plan in self.jobs.values())

    def count(self, name: str) -> int:
        """How many tracks of all jobs are in ``create``, ``update``, ``delete``, ``keep`` or ``human``."""
        return sum(len(getattr(plan, name)) for plan in self.jobs.values())

    @property
    def withheld(self) -> int:
        """Boxes not written because a human decided about them."""
        return sum(plan.withheld for plan in self.jobs.values())

    @property
    def conflicts(self) -> tuple[Conflict, ...]:
        """Where a human's version was kept against the new result."""
        return tuple(conflict for plan in self.jobs.values() for conflict in plan.conflicts)


def read_jobs(conn: Connection, task: TaskInfo) -> dict[int, Json]:
    """The annotations of a task's own jobs."""
    return {job.id: job_annotations(conn, job.id) for job in task.annotation_jobs}


def make_plan(
    task: TaskInfo,
    memory: Memory,
    by_job: Mapping[int, Json],
    tracks: Tracks,
    labels: Mapping[str, int],
    *,
    force: bool = False,
    restore: bool = False,
    now: datetime | None = None,
) -> WritePlan:
    """How to bring tracks into a task without losing human work.

    Args:
        task: the task, just read.
        memory: what we left there.
        by_job: the jobs' annotations now.
        tracks: the new result, in the task's frame numbers.
        labels: the task's label id for each label of the tracks; other labels are left out.
        force: write also into jobs that somebody may have open.
        restore: a job from which all our tracks were deleted is written anew.
        now: the time, for tests.
    """
    usable = _usable(tracks, task, labels)
    plans: dict[int, JobPlan] = {}
    held: list[Held] = []
    warnings: list[str] = []
    for job in task.annotation_jobs:
        theirs = by_job[job.id]["tracks"]
        base = memory.base.get(job.id, [])
        emptied = restore and not {pushed.id for pushed in base} & {int(track["id"]) for track in theirs}
        plan = merge_job(
            base, theirs, tracks_of_job(task, job, usable, labels), job.start, job.stop - 1, restore=emptied
        )
        busy = _busy(job, memory.updated.get(job.id) or memory.record.at, now or datetime.now(UTC))
        if plan.writes and busy and not force:
            held.append(Held(job.id, busy))
            continue
        if plan.writes and job.state == "in progress":
            warnings.append(
                f"job {job.id} is in progress ({job.assignee or 'nobody assigned'}): a page that is still open there "
                "would overwrite what is written now; reload it"
            )
        plans[job.id] = plan
    return WritePlan(plans, {job: by_job[job] for job in plans}, tuple(held), tuple(warnings))


def _usable(tracks: Tracks, task: TaskInfo, labels: Mapping[str, int]) -> Tracks:
    """Boxes with a label that the task has, in frames that are not deleted."""
    named = np.isin(tracks.label, [row for row, name in enumerate(tracks.labels) if name in labels])
    keep = named & ~np.isin(tracks.frame, task.deleted) & (tracks.frame < task.size)
    return tracks if keep.all() else tracks.select(keep)


def _busy(job: JobInfo, ours: str, now: datetime) -> str:
    """Why a human may have the job open right now; empty where that is not likely."""
    if job.state != "in progress" or not job.updated:
        return ""
    changed = datetime.fromisoformat(job.updated)
    if ours and changed <= datetime.fromisoformat(ours):
        return ""
    minutes = (now - changed).total_seconds() / 60
    if minutes > QUIET_MINUTES:
        return ""
    who = job.assignee or "somebody"
    return (
        f"{who} is working in it (saved {max(minutes, 0):.0f} min ago): an open page would overwrite what is written; "
        "sync again when the job is completed or at rest, or use --force"
    )


# --- Doing it ---------------------------------------------------------------------------------------------------------


def carry_out(
    conn: Connection,
    task: TaskInfo,
    store: TaskStore,
    memory: Memory,
    plan: WritePlan,
    *,
    provenance: Mapping[str, Any] | None = None,
    kind: str = "sync",
    progress: Callable[[int, int], None] | None = None,
) -> str | None:
    """Write a plan into CVAT; the caller holds the task's lock.

    Args:
        conn: the server.
        task: the task.
        store: its place.
        memory: what we left there; brought up to date.
        plan: what to do.
        provenance: kept in the push record.
        kind: of the backup.
        progress: called with the jobs done and to do.

    Returns:
        The backup's name; None where there was nothing to write.

    Raises:
        CvatError: the server refused or failed; running it again carries on.
    """
    changing = {job: item for job, item in plan.jobs.items() if item.writes}
    backup = None
    if changing:
        backup = store.backup(kind, _backup(task, memory, plan, changing))
        pending = {job: _intent(plan.before[job], item) for job, item in changing.items()}
        _remember(store, memory, pending)
        for done, (job, item) in enumerate(changing.items()):
            if progress:
                progress(done, len(changing))
            memory.base[job] = _execute(conn, task.job(job), item, plan.before[job])
            del pending[job]
            memory.updated[job] = _updated(conn, job)
            _remember(store, memory, pending)
        if progress:
            progress(len(changing), len(changing))
    for job, item in plan.jobs.items():
        if not item.writes:
            memory.base[job] = list(item.keep)
    memory.record = _record(task, memory, provenance, backup)
    save_record(store, memory.record)
    _remember(store, memory)
    return backup


def _backup(task: TaskInfo, memory: Memory, plan: WritePlan, changing: Mapping[int, JobPlan]) -> Json:
    return {
        "server": task.server,
        "task": task.id,
        "record": asdict(memory.record),
        "merged": {str(job): [pushed.to_json() for pushed in items] for job, items in memory.base.items()},
        "jobs": {
            str(job): {
                "annotations": plan.before[job],
                "delete": [pushed.id for pushed in item.delete],
                "update": [write.id for write in item.update],
            }
            for job, item in changing.items()
        },
    }


def _intent(before: Json, plan: JobPlan) -> Json:
    return {
        "before": [track["id"] for track in before["tracks"]],
        "delete": [pushed.id for pushed in plan.delete],
        "writes": [asdict(write) for write in (*plan.update, *plan.create)],
    }


def _execute(conn: Connection, job: JobInfo, plan: JobPlan, before: Json) -> list[Pushed]:
    """Update, create, delete, in this order: a crash in between leaves too much, never too little."""
    there = {int(track["id"]): track for track in before["tracks"]}
    for batch in _batches(plan.update):
        update_tracks(conn, job, [{"id": write.id, **write.content} for write in batch])
    made: list[tuple[Write, int]] = [(write, write.id) for write in plan.update if write.id is not None]
    for batch in _batches(plan.create):
        answer = create_tracks(conn, job, [dict(write.content) for write in batch])
        made += [(write, int(track["id"])) for write, track in zip(batch, answer, strict=True)]
    delete_tracks(conn, job, [there[pushed.id] for pushed in plan.delete])
    now = {int(track["id"]): track for track in job_annotations(conn, job.id)["tracks"]}
    missing = [number for _, number in made if number not in now]
    left = [pushed.id for pushed in plan.delete if pushed.id in now]
    if missing or left:
        raise CvatError(
            f"job {job.id}: CVAT does not hold what was written ({len(missing)} tracks missing, {len(left)} not "
            "deleted); is somebody saving this job in a page right now? Run it again later"
        )
    return [*plan.keep, *(write.pushed(now[number]) for write, number in made)]


def _batches(writes: Sequence[Write]) -> Iterable[list[Write]]:
    batch: list[Write] = []
    shapes = 0
    for write in writes:
        if batch and shapes + len(write.content["shapes"]) > SHAPES_PER_REQUEST:
            yield batch
            batch, shapes = [], 0
        batch.append(write)
        shapes += len(write.content["shapes"])
    if batch:
        yield batch


def update_tracks(conn: Connection, job: JobInfo, tracks: Sequence[Json]) -> None:
    """Replace tracks under their ids; a track that is gone comes back with its id, as when a page saves it."""
    if not tracks:
        return
    conn.patch(
        f"/api/jobs/{job.id}/annotations/",
        {"version": 0, "tags": [], "shapes": [], "tracks": list(tracks)},
        query={"action": "update"},
        what=f"updating {len(tracks)} tracks in job {job.id}",
        timeout=ANNOTATIONS_SECONDS,
    )


def _updated(conn: Connection, job: int) -> str:
    return str(conn.get(f"/api/jobs/{job}", what=f"job {job}")["updated_date"])


def _record(task: TaskInfo, memory: Memory, provenance: Mapping[str, Any] | None, backup: str | None) -> PushRecord:
    """The push record that goes with the base, for the function's next run."""
    defaults = task.attribute_defaults
    entries = [
        PushedTrack(pushed.track, job, pushed.id, track_digest(pushed.content, defaults))
        for job, items in memory.base.items()
        for pushed in items
    ]
    return replace(
        memory.record,
        server=task.server,
        task=task.id,
        at=utc_now(),
        entries=tuple(entries),
        pending={},
        provenance=dict(provenance or memory.record.provenance),
        backup=backup or memory.record.backup,
    )


# --- And back ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UndoPlan:
    """What restoring a backup would do.

    Attributes:
        backup: its name.
        at: when it was taken.
        restore: tracks to put back as they were, by job.
        delete: tracks to take away, by job.
        kept: what a human changed since and therefore stays, in words.
        before: the jobs' annotations now.
    """

    backup: str
    at: str
    restore: Mapping[int, Sequence[Json]]
    delete: Mapping[int, Sequence[Json]]
    kept: tuple[str, ...]
    before: Mapping[int, Json]

    @property
    def writes(self) -> int:
        """Tracks that would change."""
        return sum(map(len, self.restore.values())) + sum(map(len, self.delete.values()))


def plan_undo(task: TaskInfo, store: TaskStore, memory: Memory, by_job: Mapping[int, Json]) -> UndoPlan:
    """How to take the last write back.

    A track of ours goes back to what it was before, one that the write created goes away, one that it deleted comes
    back. What a human touched after the write stays and is told of.

    Raises:
        SpamError: there is nothing to undo.
    """
    names = [name for name in store.backups() if name not in memory.undone and name.split("-")[1] in ("push", "sync")]
    if not names:
        raise SpamError(f"task {task.id}: nothing to undo: {store.location} holds no backup that was not restored yet")
    value = store.read_backup(names[-1])
    restore: dict[int, list[Json]] = {}
    delete: dict[int, list[Json]] = {}
    kept: list[str] = []
    before: dict[int, Json] = {}
    for key, entry in value["jobs"].items():
        number = int(key)
        if number not in by_job:
            kept.append(f"job {number} is gone from the task: nothing to restore there")
            continue
        job = task.job(number)
        before[number] = by_job[number]
        old = {int(track["id"]): track for track in entry["annotations"]["tracks"]}
        now = {int(track["id"]): track for track in by_job[number]["tracks"]}
        left = {pushed.id: pushed for pushed in memory.base.get(number, [])}
        taken = set(entry["delete"])
        for identity, pushed in left.items():
            track = now.get(identity)
            if track is None:
                if identity in old:
                    kept.append(f"job {number}: track {identity} was deleted by a human since: stays deleted")
                continue
            touched = (
                bool(len(_differences(pushed.content, track, job))) or track["label_id"] != pushed.content["label_id"]
            )
            if identity in old and not _same(old[identity], track, job):
                if touched:
                    kept.append(f"job {number}: track {identity} was edited by a human since: stays as it is")
                else:
                    restore.setdefault(number, []).append(old[identity])
            elif identity not in old:
                if touched:
                    kept.append(f"job {number}: track {identity}, new then, was edited by a human since: stays")
                else:
                    delete.setdefault(number, []).append(track)
        restore.setdefault(number, []).extend(old[i] for i in taken if i in old and i not in now)
    return UndoPlan(names[-1], str(value["at"]), restore, delete, tuple(kept), before)


def _differences(a: Mapping[str, Any], b: Mapping[str, Any], job: JobInfo) -> Any:
    return differing_frames(read_span(a, job.start, job.stop - 1), read_span(b, job.start, job.stop - 1))


def _same(a: Mapping[str, Any], b: Mapping[str, Any], job: JobInfo) -> bool:
    return a["label_id"] == b["label_id"] and not len(_differences(a, b, job))


def carry_out_undo(conn: Connection, task: TaskInfo, store: TaskStore, memory: Memory, plan: UndoPlan) -> None:
    """Restore a backup; what is there now goes into a backup of its own first. The caller holds the task's lock."""
    value = store.read_backup(plan.backup)
    store.backup("undo", {"server": task.server, "task": task.id, "undone": plan.backup,
                          "jobs": {str(job): {"annotations": item} for job, item in plan.before.items()}})  # fmt: skip
    for job in sorted({*plan.restore, *plan.delete}):
        tracks = [_without_shape_ids(track) for track in plan.restore.get(job, ())]
        update_tracks(conn, task.job(job), tracks)
        delete_tracks(conn, task.job(job), plan.delete.get(job, ()))
        memory.updated[job] = _updated(conn, job)
    record = PushRecord(**{**value["record"], "entries": tuple(PushedTrack(**e) for e in value["record"]["entries"])})
    merged = {
        int(job): [Pushed.from_json(item) for item in items] for job, items in (value.get("merged") or {}).items()
    }
    memory.record = replace(record, at=utc_now(), pending={}, backup=memory.record.backup)
    memory.base = merged
    memory.undone = [*memory.undone, plan.backup]
    save_record(store, memory.record)
    if merged:
        _remember(store, memory)
    else:
        # The backup is the function's: the base follows from the push record.
        memory.base = recall(task, store, read_jobs(conn, task)).base
        _remember(store, memory)


def _without_shape_ids(track: Mapping[str, Any]) -> Json:
    shapes = [{key: value for key, value in shape.items() if key != "id"} for shape in track["shapes"]]
    return {**track, "shapes": shapes}
