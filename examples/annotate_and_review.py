"""Annotate a CVAT task and open its review.

What it does: finds tracks in the task's frames, writes them into the task, and puts what the model is least sure of
into a review task, whose job links it prints.

Steps: log in with a token that may write (made with "read_only": false), then

    export CVAT_SERVER=https://cvat.example.org CVAT_ACCESS_TOKEN=...
    python examples/annotate_and_review.py 42 --budget 3% --assign ann --assign bob

When the jobs are answered: spam-cvat sync 42. A second run writes nothing twice.
"""

import argparse
import sys
from collections.abc import Sequence

from spam_cvat.cvat.annotate import annotate_task
from spam_cvat.cvat.connect import connect
from spam_cvat.cvat.store import Store
from spam_cvat.cvat.sync import create_review
from spam_cvat.errors import SpamError


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Annotate a CVAT task and open its review.")
    parser.add_argument("task", type=int, help="number of the task")
    parser.add_argument("--budget", default="3%", help="clicks, or a share of full manual work")
    parser.add_argument("--detector", help="hog, onnx:FILE, nuclio:URL, or task for the rectangles in the task")
    parser.add_argument("--assign", action="append", default=[], metavar="USER", help="who answers; may be repeated")
    parser.add_argument("--form", choices=("sheets", "tracklets"), default="sheets")
    args = parser.parse_args(arguments)
    try:
        with connect() as connection:
            store = Store()
            done = annotate_task(connection, store, args.task, detector=args.detector)
            print(
                f"task {args.task}: {done.tracks} tracks in {done.frames} frames, "
                f"{done.write.created} CVAT tracks written"
            )
            for line in (*done.write.held, *done.write.conflicts):
                print(f"  left alone: {line}")
            review = create_review(connection, store, args.task, args.budget, args.form, args.assign)
    except SpamError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if review.task is None:
        print("nothing to ask")
        return 0
    print(
        f"review task {review.task}: {review.questions} questions, about {review.clicks:.0f} clicks; "
        "open the jobs here:"
    )
    for job in review.jobs:
        print(f"  {job.url}  {job.questions} questions for {job.assignee or 'anybody'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
