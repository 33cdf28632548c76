"""Create a CVAT project whose labels suit tracking, and print its number.

What it does: makes one rectangle label per name. Tracks are written by label name, so a detector that says "person"
needs a label "person" (or SPAM_LABELS=person=pedestrian for the function). Labels carry no attributes: what the review
asks lives in review tasks of its own. It refuses when a project of that name exists.

    export CVAT_SERVER=https://cvat.example.org CVAT_ACCESS_TOKEN=...
    python examples/create_project.py "Street cameras" person
"""

import argparse
import sys
from collections.abc import Sequence

from spam_cvat.cvat.connect import connect
from spam_cvat.errors import InputError, SpamError

COLOURS = ("#56b4e9", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#f0e442", "#0072b2")


def label_set(names: Sequence[str]) -> list[dict[str, object]]:
    """Rectangle labels, in colours that every kind of colour vision tells apart, for ``POST /api/projects``."""
    return [
        {"name": name, "type": "rectangle", "color": COLOURS[index % len(COLOURS)], "attributes": []}
        for index, name in enumerate(names)
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Create a CVAT project with labels for tracking.")
    parser.add_argument("name")
    parser.add_argument("labels", nargs="*", default=["person"], help="by default person")
    args = parser.parse_args(arguments)
    try:
        with connect() as connection:
            taken = connection.pages("/api/projects", {"search": args.name}, what="looking for the project")
            if any(project["name"] == args.name for project in taken):
                raise InputError(f"there is a project {args.name!r} already: choose another name")
            body = {"name": args.name, "labels": label_set(args.labels)}
            made = connection.post("/api/projects", body, what=f"creating project {args.name!r}")
            labels = connection.pages("/api/labels", {"project_id": made["id"]}, what="its labels")
    except SpamError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    print(f"project {made['id']}: {', '.join(label['name'] for label in labels)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
