"""Three-way merge: our news arrive, and no human edit is lost."""

import copy
import json

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from spam_cvat.cvat.merge import (
    Pushed,
    from_ranges,
    is_ours,
    merge_job,
    to_ranges,
)
from spam_cvat.cvat.spans import compose, differing_frames, read_span

START, STOP = 0, 19


def track(rows, label=1, identity=None, stop=STOP, attributes=(), source="auto"):
    """A CVAT track from (frame, x, y) rows of 10x20 boxes; closed with outside one frame after the last row."""
    shapes = [
        {"type": "rectangle", "frame": f, "points": [x, y, x + 10.0, y + 20.0], "outside": False, "occluded": False,
         "attributes": list(attributes)}
        for f, x, y in rows
    ]  # fmt: skip
    if rows and rows[-1][0] < stop:
        shapes.append({**shapes[-1], "frame": rows[-1][0] + 1, "outside": True})
    out = {"label_id": label, "frame": rows[0][0], "group": 0, "source": source, "attributes": [], "shapes": shapes}
    return out if identity is None else {"id": identity, **out}


class Server:
    """A job's tracks as CVAT keeps them: just enough to carry out a plan."""

    def __init__(self):
        self.tracks, self.next = {}, 100

    def put(self, content, identity=None):
        identity = identity if identity is not None else self.next
        self.next = max(self.next, identity + 1)
        self.tracks[identity] = {"id": identity, **copy.deepcopy({k: v for k, v in content.items() if k != "id"})}
        return self.tracks[identity]

    def carry_out(self, plan):
        """Apply the plan; returns the new base."""
        for pushed in plan.delete:
            del self.tracks[pushed.id]
        written = [
            write.pushed(copy.deepcopy(self.put(write.content, write.id))) for write in (*plan.update, *plan.create)
        ]
        return [*plan.keep, *written]

    def theirs(self):
        return copy.deepcopy(list(self.tracks.values()))


def pushed(*contents):
    """A server and a base after a first push of these tracks, identities 1, 2, ..."""
    server = Server()
    plan = merge_job([], [], list(enumerate(contents, 1)), START, STOP)
    return server, server.carry_out(plan)


def merge(server, base, *contents, **options):
    return merge_job(base, server.theirs(), list(enumerate(contents, 1)), START, STOP, **options)


def line(first, last, x, y=0.0, step=2.0):
    return [(f, x + step * (f - first), y) for f in (first, last)]


A, B, C = line(0, 9, 0), line(0, 19, 0, 100), line(12, 19, 40)


def seen(content):
    """frame -> box of a track."""
    span = read_span(content, START, STOP)
    return {int(f): tuple(span.at(int(f)).round(3)) for f in span.visible}


def test_the_first_push_creates_everything():
    server, base = pushed(track(A), track(B))
    assert [seen(t) for t in server.theirs()] == [seen(track(A)), seen(track(B))]
    assert [p.track for p in base] == [1, 2]


def test_the_same_result_again_writes_nothing():
    server, base = pushed(track(A), track(B))
    plan = merge(server, base, track(B), track(A))
    assert plan.writes == 0
    assert {p.id: p.track for p in plan.keep} == {100: 2, 101: 1}


def test_untouched_tracks_take_the_new_result_and_keep_their_ids():
    server, base = pushed(track(A), track(B))
    longer = track([*A, (15, 30, 0)])
    plan = merge(server, base, longer)
    assert [(w.id, seen(w.content)) for w in plan.update] == [(100, seen(longer))]
    assert [p.id for p in plan.delete] == [101]
    assert not plan.create


def move(server, identity, frame, box, **more):
    """What the page does when a human drags a box: one keyframe changes or is added."""
    now = server.tracks[identity]
    shapes = {s["frame"]: s for s in now["shapes"]}
    shapes[frame] = {"type": "rectangle", "frame": frame, "points": list(box), "outside": False, "occluded": False,
                     "attributes": [], **more}  # fmt: skip
    now["shapes"] = [shapes[f] for f in sorted(shapes)]
    now["source"] = "semi-auto"


def test_a_moved_box_stays_and_the_rest_takes_the_new_result():
    server, base = pushed(track(A), track(B))
    move(server, 100, 5, (50, 50, 70, 90))
    before = seen(server.tracks[100])
    longer = track([*A, (15, 30, 0)])
    plan = merge(server, base, longer, track(B))
    base = server.carry_out(plan)
    now = seen(server.tracks[100])
    # The human's keyframe moves what lies between its neighbours too: that is what the human saw and kept.
    assert {f: now[f] for f in range(1, 9)} == {f: before[f] for f in range(1, 9)}
    assert {f: now[f] for f in range(10, 16)} == {f: seen(longer)[f] for f in range(10, 16)}
    assert plan.human == (100,)
    # It stays the human's in the next round, although it is now part of what we wrote.
    plan = merge(server, base, track(line(0, 15, 1)), track(B))
    base = server.carry_out(plan)
    assert seen(server.tracks[100])[5] == (50, 50, 70, 90)
    assert [c.id for c in plan.conflicts] == [100]


def test_an_edited_track_without_counterpart_is_kept_whole_and_reported():
    server, base = pushed(track(A), track(B))
    move(server, 100, 5, (3, 3, 13, 23))
    before = server.theirs()[0]
    plan = merge(server, base, track(B))
    server.carry_out(plan)
    assert server.tracks[100] == before
    assert plan.writes == 0
    assert "kept as it is" in str(plan.conflicts[0])


def test_a_deleted_track_does_not_come_back_now_or_later():
    server, base = pushed(track(A), track(B))
    del server.tracks[100]
    for _ in range(2):
        plan = merge(server, base, track(A), track(B))
        assert plan.writes == 0
        assert plan.withheld == 10
        base = server.carry_out(plan)
    plan = merge(server, base, track(A), track(B), restore=True)
    assert [w.track for w in plan.create] == [1]


def test_a_merge_made_in_the_page_stays():
    server, base = pushed(track(A), track(B), track(C))
    rows = [*A, (12, *C[0][1:]), (19, *C[1][1:])]
    del server.tracks[100], server.tracks[102]
    human = server.put(track(rows, source="manual"))
    plan = merge(server, base, track(A), track(B), track(C))
    assert plan.writes == 0
    assert plan.human == (human["id"],)


def test_a_split_made_in_the_page_stays():
    server, base = pushed(track(B))
    del server.tracks[100]
    first, second = track([B[0], (9, 18, 100)]), track([(10, 20, 100), B[1]])
    server.put({**first, "source": "manual"})
    server.put({**second, "source": "manual"})
    plan = merge(server, base, track(B))
    assert plan.writes == 0


def test_a_human_track_is_not_repeated_and_not_touched():
    server, base = pushed(track(B))
    human = copy.deepcopy(server.put(track(line(3, 8, 200), source="manual")))
    plan = merge(server, base, track(line(0, 10, 194)), track(B))
    server.carry_out(plan)
    assert server.tracks[human["id"]] == human
    rest = [t for t in server.theirs() if t["id"] not in (100, human["id"])]
    assert [sorted(seen(t)) for t in rest] == [[0, 1, 2, 9, 10]]


def test_a_tail_marked_outside_stays_outside():
    server, base = pushed(track(B))
    move(server, 100, 10, (20, 100, 30, 120), outside=True)
    server.tracks[100]["shapes"] = server.tracks[100]["shapes"][:2]
    base = server.carry_out(merge(server, base, track(B)))
    assert sorted(seen(server.tracks[100])) == list(range(10))
    assert merge(server, base, track(line(0, 19, 0.5, 100))).writes == 1


def test_label_and_attributes_a_human_set_stay():
    server, base = pushed(track(A))
    server.tracks[100] |= {"label_id": 7, "attributes": [{"spec_id": 3, "value": "tall"}]}
    server.carry_out(merge(server, base, track([*A, (15, 30, 0)])))
    assert server.tracks[100]["label_id"] == 7
    assert server.tracks[100]["attributes"] == [{"spec_id": 3, "value": "tall"}]
    assert max(seen(server.tracks[100])) == 15


def test_attribute_order_is_no_edit():
    values = [{"spec_id": 1, "value": "a"}, {"spec_id": 2, "value": "b"}]
    server, base = pushed(track(A, attributes=values))
    for shape in server.tracks[100]["shapes"]:
        shape["attributes"] = shape["attributes"][::-1]
    assert merge(server, base, track(A)).human == ()


def test_a_mutable_attribute_a_human_set_stays_in_its_frames_only():
    off, on = [{"spec_id": 1, "value": "no"}], [{"spec_id": 1, "value": "yes"}]
    rows = [(f, 2.0 * f, 0.0) for f in range(10)]
    server, base = pushed(track(rows, attributes=off))
    server.tracks[100]["shapes"][4]["attributes"] = on
    plan = merge(server, base, track([(f, 2.0 * f + 1, 0.0) for f in range(10)]))
    server.carry_out(plan)
    span = read_span(server.tracks[100], START, STOP)
    assert [f for f in range(10) if span.property_at(f)[2] == ((1, "yes"),)] == [4]
    assert seen(server.tracks[100])[4][0] == 8
    assert seen(server.tracks[100])[5][0] == 11


def test_a_join_with_an_edited_track_extends_the_edited_one():
    server, base = pushed(track(A), track(C))
    move(server, 100, 9, (19, 1, 29, 21))
    both = track([*A, *C])
    plan = merge(server, base, both)
    server.carry_out(plan)
    assert list(server.tracks) == [100]
    assert seen(server.tracks[100])[9] == (19, 1, 29, 21)
    assert seen(server.tracks[100])[15] == seen(both)[15]


def test_records_survive_json():
    item = Pushed(5, 2, track(A, identity=5), (1, 2, 3, 7), track(B), True, "0a1b")
    assert Pushed.from_json(json.loads(json.dumps(item.to_json()))) == item


@given(st.sets(st.integers(0, 50)))
def test_ranges_lose_nothing(frames):
    assert from_ranges(to_ranges(sorted(frames))) == tuple(sorted(frames))


def test_only_untouched_automatic_rectangles_are_ours():
    assert is_ours(track(A))
    assert not is_ours(track(A, source="semi-auto"))
    assert not is_ours({**track(A), "shapes": [{"type": "polygon", "frame": 0, "points": [0.0] * 6}]})


# --- Properties ------------------------------------------------------------------------------------------------------


@st.composite
def results(draw, most=4):
    """A result: up to ``most`` tracks; each may change lanes half-way, as a corrected identity switch does."""
    out = []
    swap = draw(st.integers(START, STOP + 1))
    shift = draw(st.integers(0, most))
    lanes = draw(st.sampled_from([60.0, 60.0, 5.0, 2.0]))  # apart, or near-duplicates
    for lane in range(draw(st.integers(0, most))):
        first = draw(st.integers(START, STOP))
        last = draw(st.integers(first, STOP))
        frames = sorted({first, last, *draw(st.lists(st.integers(first, last), max_size=3))})
        jitter = draw(st.sampled_from([0, 0, 1.5, 40]))
        out.append(
            track([(f, 3.0 * f + jitter, lanes * (lane if f < swap else (lane + shift) % (most + 1))) for f in frames])
        )
    return out


@st.composite
def edits(draw):
    """What a human does to the job between two pushes."""
    return draw(
        st.lists(
            st.tuples(
                st.sampled_from(["move", "delete", "label", "new", "outside"]),
                st.integers(0, 9),
                st.integers(START, STOP),
                st.floats(0, 100),
            ),
            max_size=5,
        )
    )


def perform(server, script):
    for what, which, frame, x in script:
        ids = sorted(server.tracks)
        if what == "new":
            server.put(track(line(frame, min(frame + 4, STOP), x, 10.0) if frame < STOP else [(frame, x, 10.0)],
                             source="manual"))  # fmt: skip
        elif ids:
            identity = ids[which % len(ids)]
            if what == "delete":
                del server.tracks[identity]
            elif what == "label":
                server.tracks[identity]["label_id"] = 9
            else:
                move(server, identity, frame, (x, 5.0, x + 8, 25.0), outside=what == "outside")


# Three tracks, of which a human deletes the second.
MIDDLE_DELETED = {
    "first": [],
    "edits1": [],
    "second": [track([(0, 0, 0)]), track([(0, 0, 60), (2, 6, 60)]), track([(0, 0, 120)])],
    "edits2": [("delete", 1, 0, 0.0)],
}


@settings(max_examples=100, deadline=None)
@given(results(), edits(), results(), edits(), results())
# Two tracks pass through a box that a human deleted: it must be the same one that gives it up each time.
@example(
    **MIDDLE_DELETED,
    third=[
        track([(0, 0, 0)]),
        track([(0, 0, 60)]),
        track([(0, 0, 120), (4, 12, 0)]),
        track([(0, 0, 180), (2, 6, 60)]),
    ],
)
# The same, and what is left of one of them looks like the other.
@example(
    **MIDDLE_DELETED,
    third=[
        track([(0, 0, 0)]),
        track([(0, 0, 60)]),
        track([(0, 0, 120), (2, 6, 0)]),
        track([(1, 3, 60), (2, 6, 60)]),
    ],
)
# A human's box says all of what the result has left of near-duplicates.
@example(
    first=[track([(0, 0, 0)]), track([(0, 0, 2), (1, 3, 2)]), track([(0, 0, 4)]), track([(0, 0, 6)])],
    edits1=[("move", 1, 0, 0.0)],
    second=[track([(0, 0, 0)])],
    edits2=[],
    third=[],
)
# Near-duplicates trade places beside an edited one.
@example(
    first=[track([(0, 0, 0), (1, 3, 0)]), track([(0, 0, 2)])],
    edits1=[("move", 0, 0, 0.0)],
    second=[track([(0, 0, 4), (1, 3, 4)]), track([(0, 0, 6), (1, 3, 6)])],
    edits2=[],
    third=[],
)
def test_no_edit_is_ever_lost_and_merging_twice_is_merging_once(first, edits1, second, edits2, third):
    server, base = pushed(*first)
    humans = {}
    for script, result in ((edits1, second), (edits2, third)):
        before = {t["id"]: t for t in server.theirs()}
        perform(server, script)
        theirs = {t["id"]: t for t in server.theirs()}
        deleted = set(before) - set(theirs)
        changed = {
            identity: set(
                differing_frames(read_span(before[identity], START, STOP), read_span(now, START, STOP)).tolist()
            )
            for identity, now in theirs.items()
            if identity in before
        }
        # A human who undoes an edit gives the frame back.
        edited = {
            p.id: set(
                differing_frames(read_span(p.content, START, STOP), read_span(theirs[p.id], START, STOP)).tolist()
            )
            | set(p.human)
            for p in base
            if p.id in theirs
        }
        foreign = {identity for identity in theirs if identity not in {p.id for p in base}}
        base = server.carry_out(merge(server, base, *result))
        # 1. What a human made whole is exactly as it was.
        assert all(server.tracks.get(identity) == theirs[identity] for identity in foreign)
        # 2. Every frame a human changed, now or earlier, shows what the human left there.
        for identity, frames in changed.items():
            kept = humans.setdefault(identity, {})
            span = read_span(theirs[identity], START, STOP)
            kept.update({f: span.at(f) for f in frames})
            humans[identity] = {f: box for f, box in kept.items() if f in edited.get(identity, frames)}
        for identity in deleted:
            humans.pop(identity, None)
            # 3. What a human deleted is not back under its id.
            assert identity not in server.tracks
        for identity, kept in humans.items():
            if not kept:
                continue
            span = read_span(server.tracks[identity], START, STOP)
            for frame, box in kept.items():
                now = span.at(frame)
                assert (now is None) == (box is None), (identity, frame)
                assert now is None or np.allclose(now, box, atol=0.02)
        # 4. A second merge of the same result changes nothing.
        again = merge(server, base, *result)
        assert again.writes == 0, again


@settings(max_examples=50, deadline=None)
@given(results(), results())
def test_without_edits_the_job_shows_the_new_result(first, second):
    server, base = pushed(*first)
    server.carry_out(merge(server, base, *second))
    assert sorted(sorted(seen(t).items()) for t in server.theirs()) == sorted(
        sorted(seen(t).items()) for t in second if seen(t)
    )


@settings(max_examples=50, deadline=None)
@given(results(most=1), results(most=1), st.lists(st.integers(-1, 1), min_size=20, max_size=20))
def test_a_composed_track_shows_exactly_what_was_picked(first, second, pick):
    spans = [read_span(t, START, STOP) for t in (*(first or [track(A)]), *(second or [track(B)]))]
    shapes = compose(spans, np.array(pick), START)
    if not shapes:
        assert all(source < 0 or spans[source].at(frame) is None for frame, source in enumerate(pick))
        return
    out = read_span({"label_id": 1, "shapes": shapes}, START, STOP)
    for frame, source in enumerate(pick):
        expected = spans[source].at(frame) if source >= 0 else None
        now = out.at(frame)
        assert (now is None) == (expected is None)
        assert now is None or np.allclose(now, expected, atol=0.011)


@pytest.mark.parametrize("name", ["move_box_dense", "move_box_sparse", "outside_o", "occluded_q", "attr_mutable"])
def test_recorded_edits_of_the_page_are_seen(spam_cvat_facts, name):
    folder = spam_cvat_facts / "samples" / "review"
    before, after = (
        json.loads((folder / f"edit_{name}_{part}.json").read_text())["tracks"] for part in ("1_before", "2_after")
    )
    start, stop = before[0]["frame"], before[0]["frame"] + 9
    base = [Pushed(before[0]["id"], 1, before[0])]
    ours = [(1, {k: v for k, v in before[0].items() if k != "id"})]
    assert merge_job(base, before, ours, start, stop).human == ()
    plan = merge_job(base, after, ours, start, stop)
    assert plan.human == (before[0]["id"],)
    assert plan.writes == 0


@pytest.mark.parametrize("name", ["delete_track", "merge_same_label", "split_dense", "split_sparse", "change_label"])
def test_recorded_gestures_of_the_page_are_not_undone(spam_cvat_facts, name):
    folder = spam_cvat_facts / "samples" / "review"
    before, after = (
        json.loads((folder / f"edit_{name}_{part}.json").read_text())["tracks"] for part in ("1_before", "2_after")
    )
    start = min(t["frame"] for t in before)
    base = [Pushed(t["id"], i, t) for i, t in enumerate(before)]
    plan = merge_job(base, after, [(i, t) for i, t in enumerate(before)], start, start + 9)
    assert plan.writes == 0
