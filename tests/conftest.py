"""Fixtures that find what lies outside the repository, and skip with a reason where it is missing."""

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def _folder(variable: str, default: Path) -> Path:
    path = Path(os.environ.get(variable, default))
    if not path.is_dir():
        pytest.skip(f"{variable} names no folder ({path}): set it to run this test")
    return path


@pytest.fixture(scope="session")
def spam_data() -> Path:
    """Real sequences with ground truth."""
    return _folder("SPAM_DATA", SHARED / "data")


@pytest.fixture(scope="session")
def spam_weights() -> Path:
    """Small pretrained detector and appearance networks."""
    return _folder("SPAM_WEIGHTS", SHARED / "weights")


@pytest.fixture(scope="session")
def spam_cvat_facts() -> Path:
    """Recorded answers of a real CVAT server and its OpenAPI file."""
    return _folder("SPAM_CVAT", SHARED / "cvat")
