"""Weights on disk and the scorer made of them.

A file is an ``.npz`` without pickles: the tensors of an ensemble's networks in single precision, a JSON header with
their sizes, the calibration of every level, and how they were trained.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from spam_cvat.archive import add_member, npy
from spam_cvat.errors import InputError
from spam_cvat.hierarchy.calibration import logit, sigmoid
from spam_cvat.hierarchy.graph import Graph
from spam_cvat.hierarchy.network import GraphNetwork, NetworkConfig

Floats = NDArray[np.float64]

FORMAT = 3
SHIPPED = "gate-and-links.npz"
PARTS = ("first", "shared")


@dataclass(frozen=True)
class Calibration:
    """Slopes and offsets on the logit scale.

    Attributes:
        edge: per level, of the network's edge logits.
        joint: per stage, of the marginals under the constraints; a stage that is not named stays as it is.
        gate: of the detections' gate.
        track: of the tracks' gate.
    """

    edge: tuple[tuple[float, float], ...] = ((1.0, 0.0),)
    joint: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    gate: tuple[float, float] = (1.0, 0.0)
    track: tuple[float, float] = (1.0, 0.0)

    @classmethod
    def identity(cls, levels: int) -> "Calibration":
        """Outputs as they are, at so many levels."""
        return cls(((1.0, 0.0),) * levels)


@dataclass(frozen=True)
class Member:
    """One member of the ensemble: ``first`` is its network of level 0, ``shared`` that of the levels above."""

    first: GraphNetwork
    shared: GraphNetwork


@dataclass(frozen=True)
class NetworkScorer:
    """The trained networks behind the scorer's interface.

    Logits are the mean over a few networks that were trained on scenes of their own: what one has read into the
    generated scenes by chance the others have not, so links are better and probabilities hold up better on videos that
    are unlike all scenes (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017).

    Attributes:
        members: the ensemble.
        calibration: what makes their outputs probabilities.
        digest: SHA-256 of the file, for an annotation's provenance.
        training: how they were trained.
    """

    members: tuple[Member, ...]
    calibration: Calibration = field(default_factory=Calibration)
    digest: str = ""
    training: dict[str, Any] = field(default_factory=dict)

    def detections(self, graph: Graph) -> tuple[Floats, Floats]:
        """Level 0: calibrated logits of nodes and edges."""
        node, edge = _run([member.first for member in self.members], graph)
        return _affine(node, self.calibration.gate), _affine(edge, self.calibration.edge[0])

    def tracklets(self, graph: Graph, level: int) -> tuple[Floats, Floats]:
        """Levels 1 and up: calibrated logits of nodes and edges."""
        node, edge = _run([member.shared for member in self.members], graph)
        return _affine(node, self.calibration.track), _affine(edge, _at(self.calibration.edge, level))

    def calibrate(self, probability: Floats, stage: str) -> Floats:
        """Marginals under the constraints, calibrated."""
        return sigmoid(_affine(logit(probability), self.calibration.joint.get(stage, (1.0, 0.0))))


def _at(table: tuple[tuple[float, float], ...], level: int) -> tuple[float, float]:
    return table[min(level, len(table) - 1)]


def _affine(value: Floats, terms: tuple[float, float]) -> Floats:
    return terms[0] * value + terms[1]


def _run(networks: Sequence[GraphNetwork], graph: Graph) -> tuple[Floats, Floats]:
    """Mean logits of nodes and edges."""
    with torch.inference_mode():
        inputs = [torch.from_numpy(part) for part in (graph.x, np.ascontiguousarray(graph.edge.T), graph.attr)]
        outputs = [network(*inputs) for network in networks]
        node, link = (torch.stack(logits).mean(0) for logits in zip(*outputs, strict=True))
    return node.double().numpy(), link.double().numpy()


def to_bytes(scorer: NetworkScorer) -> bytes:
    """The file's content; equal weights give equal bytes."""
    header = {
        "format": "spam-cvat hierarchy weights",
        "version": FORMAT,
        "members": [{name: asdict(getattr(member, name).config) for name in PARTS} for member in scorer.members],
        "calibration": asdict(scorer.calibration),
        "training": scorer.training,
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        add_member(archive, "header.json", json.dumps(header, indent=1, sort_keys=True).encode())
        for number, member in enumerate(scorer.members):
            for name in PARTS:
                for key, tensor in getattr(member, name).state_dict().items():
                    add_member(archive, f"{number}/{name}/{key}.npy", npy(tensor.numpy().astype(np.float32)))
    return buffer.getvalue()


def from_bytes(data: bytes, name: str = "weights") -> NetworkScorer:
    """Read a file's content; ``name`` stands in messages.

    Raises:
        InputError: these are no weights of this program's version, or the file is damaged.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            header = json.loads(archive.read("header.json"))
            if header.get("format") != "spam-cvat hierarchy weights" or header.get("version") != FORMAT:
                raise InputError(f"{name}: not hierarchy weights of format {FORMAT}; train them with this program")
            members = tuple(
                Member(*(_network(archive, f"{number}/{name}", sizes[name]) for name in PARTS))
                for number, sizes in enumerate(header["members"])
            )
        terms = header["calibration"]
        calibration = Calibration(
            tuple((a, b) for a, b in terms["edge"]),
            {stage: (a, b) for stage, (a, b) in terms["joint"].items()},
            (terms["gate"][0], terms["gate"][1]),
            (terms["track"][0], terms["track"][1]),
        )
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RuntimeError, EOFError) as error:
        raise InputError(f"{name}: damaged or not hierarchy weights ({error})") from error
    return NetworkScorer(members, calibration, hashlib.sha256(data).hexdigest(), header["training"])


def _network(archive: zipfile.ZipFile, folder: str, sizes: dict[str, int]) -> GraphNetwork:
    network = GraphNetwork(NetworkConfig(**sizes))
    state = {}
    for key in network.state_dict():
        with archive.open(f"{folder}/{key}.npy") as stream:
            state[key] = torch.from_numpy(np.lib.format.read_array(stream, allow_pickle=False))
    network.load_state_dict(state)
    return network.eval()


@lru_cache(maxsize=2)
def _load(path: str | None, changed: int) -> NetworkScorer:
    if path is None:
        return from_bytes((files("spam_cvat.weights") / SHIPPED).read_bytes(), SHIPPED)
    return from_bytes(Path(path).read_bytes(), path)


def load(path: Path | None = None) -> NetworkScorer:
    """The weights of a file, or the shipped ones.

    Raises:
        InputError: the file cannot be read or holds no weights.
    """
    try:
        return _load(None if path is None else str(path), 0 if path is None else Path(path).stat().st_mtime_ns)
    except OSError as error:
        raise InputError(f"{path or SHIPPED}: cannot read the weights: {error.strerror or error}") from error
