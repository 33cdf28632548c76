"""The house's floors: nothing imports upward, and the core knows no CVAT, no Nuclio, no HTTP, no command line."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import spam_cvat

PACKAGE = Path(spam_cvat.__file__).parent
# From the ground up; a room may import its own floor and those below.
FLOORS = (
    ("errors", "boxes", "detections", "tracks", "annotation", "answers"),
    ("formats",),
    ("cache", "video", "motion", "specs", "onnx_model", "detectors", "appearance", "perception", "source"),
    ("hierarchy",),
    ("engine",),
    ("evaluation", "baselines", "review", "training"),
    ("charts", "report", "demo"),
    ("cvat",),
    ("serving", "doctor"),
    ("cli",),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
CORE = {room for rooms in FLOORS[:7] for room in rooms}
OUTSIDE = {"cvat_sdk", "nuclio_sdk", "starlette", "uvicorn", "typer", "click", "rich"}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_imports_upward(path):
    mine = room(path)
    if mine == "weights":
        return
    above = {
        name
        for name in imported(path)
        if name.startswith("spam_cvat.") and FLOOR.get(name.split(".")[1], -1) > FLOOR[mine]
    }
    assert not above
    if mine in CORE:
        assert not {name.split(".")[0] for name in imported(path)} & OUTSIDE
