"""Pretraining of gate and links on generated scenes alone: ``spam-cvat train gate-and-links``.

In: a seed. Out: a weights file. Nothing of any data set enters.

Networks are trained on the graphs they will meet: each round generates scenes, runs the hierarchy on them with the
scorer at hand (first plain geometry, then the networks trained so far), and adds every level's graph with the true
labels to the pool; so higher levels see tracklets with the lower levels' own mistakes (dataset aggregation, Ross et
al., AISTATS 2011). No gradient passes through the rounding. The last scenes are held out and calibrate the outputs.

An edge is true when its two ends belong to one person and no other tracklet of that person lies between; a detection
is real when it is the one box of a person, a tracklet when most of its boxes are.
"""

import logging
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import binary_cross_entropy_with_logits

from spam_cvat.hierarchy import graph as graphs
from spam_cvat.hierarchy.calibration import fit_platt, logit
from spam_cvat.hierarchy.edge_labels import true_edges, true_links
from spam_cvat.hierarchy.ends import link_clip
from spam_cvat.hierarchy.geometry import Clip
from spam_cvat.hierarchy.graph import Graph
from spam_cvat.hierarchy.levels import (
    FINAL_LEVEL,
    STAGES,
    UNTANGLE_LEVEL,
    GeometryScorer,
    Policy,
    Scorer,
    run_clip,
)
from spam_cvat.hierarchy.motion_fit import Members
from spam_cvat.hierarchy.network import GraphNetwork, NetworkConfig
from spam_cvat.hierarchy.weights import Calibration, Member, NetworkScorer, from_bytes, to_bytes
from spam_cvat.training.synthetic import generate_scene, random_config

log = logging.getLogger(__name__)

T = TypeVar("T")

# Where the gate's threshold lies in training, in log odds: links should hold whatever it lets in.
GATES = (0.0, 2.5)
# Members draw their scenes' seeds this far apart; held-out scenes lie behind those of all members.
MEMBER_SEEDS, HELD_OUT = 50_000, 500_000


@dataclass(frozen=True)
class PretrainConfig:
    """How long and on what.

    Attributes:
        members: of the ensemble; each is trained on scenes of its own.
        shared: sizes of the network of the levels above 0; that of level 0 takes most of the time, and gains nothing
            from being wider.
        detection_scenes: scenes whose level 0 trains the first network.
        detection_epochs: passes over them.
        rounds: scenes of each round of the shared network; the first is linked by the first network and geometry,
            the later ones by both networks.
        epochs: passes over a round's graphs (those of the round before are mixed in).
        held_out: scenes for calibration, for each of the networks.
        frames: shortest and longest scene.
        max_boxes: scenes with more candidates are cut short, so that no scene costs too much.
        learning_rate: at the start; it falls to a hundredth along a cosine.
        batch: graphs a step at level 0; small graphs are taken six times as many.
        workers: processes that make scenes; members are trained side by side when there is one for each.
    """

    members: int = 2
    shared: NetworkConfig = field(default_factory=lambda: NetworkConfig(width=32, hidden=64))
    detection_scenes: int = 500
    detection_epochs: int = 6
    rounds: tuple[int, ...] = (200, 600)
    epochs: tuple[int, ...] = (4, 7)
    held_out: int = 60
    frames: tuple[int, int] = (60, 400)
    max_boxes: int = 7500
    learning_rate: float = 3e-3
    batch: int = 4
    workers: int = 2


@dataclass(frozen=True)
class Sample:
    """One level's graph with its labels.

    Attributes:
        graph: the graph.
        level: its level; the one past the last holds the final tracks and no edges.
        real: (T,) float32, 1 real, 0 not, NaN where neither can be said.
        same: (E,) bool, the edge is true.
    """

    graph: Graph
    level: int
    real: NDArray[np.float32]
    same: NDArray[np.bool_]


class Recorder:
    """A scorer that keeps every graph it is asked about."""

    def __init__(self, scorer: Scorer) -> None:
        """``scorer`` answers."""
        self.scorer = scorer
        self.seen: list[tuple[Graph, int]] = []

    def detections(self, graph: Graph) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Level 0."""
        self.seen.append((graph, 0))
        return self.scorer.detections(graph)

    def tracklets(self, graph: Graph, level: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Levels above."""
        self.seen.append((graph, level))
        return self.scorer.tracklets(graph, level)

    def calibrate(self, probability: NDArray[np.float64], stage: str) -> NDArray[np.float64]:
        """As the scorer does."""
        return self.scorer.calibrate(probability, stage)


def training_scene(seed: int, config: PretrainConfig) -> tuple[Clip, NDArray[np.int64]]:
    """A clip of a random scene and the true identity per row; the camera's motion is unknown for some."""
    rng = np.random.default_rng([seed, 77])
    scene = generate_scene(seed, random_config(rng, int(rng.integers(*config.frames))))
    detections, identity = scene.detections, scene.identity.astype(np.int64)
    warps = None if rng.random() < 0.15 else scene.warps.astype(np.float64)
    if len(detections) > config.max_boxes:
        stop = int(np.searchsorted(detections.frame_start, config.max_boxes))
        detections = detections.window(0, stop)
        identity, warps = identity[: len(detections)], None if warps is None else warps[:stop]
    return Clip.create(detections, warps), identity


def samples_of(clip: Clip, identity: NDArray[np.int64], scorer: Scorer, policy: Policy) -> list[Sample]:
    """Every level's graph of one clip, with labels."""
    recorder = Recorder(scorer)
    run_clip(clip, recorder, policy)
    out = []
    for graph, level in recorder.seen:
        real = identity > 0 if level == 0 else _majority(graph.node, identity)
        same = true_edges(graph.edge, graph.node, clip.frame, identity)
        slim = replace(graph, node=np.zeros(0, np.int64))
        out.append(Sample(slim, level, real.astype(np.float32), same))
    return out


def _majority(node: NDArray[np.int64], identity: NDArray[np.int64]) -> NDArray[np.bool_]:
    members = Members.of(node)
    real = np.bincount(node[node >= 0], weights=(identity > 0)[node >= 0], minlength=len(members))
    return real >= 0.5 * members.count


def first_samples(clip: Clip, identity: NDArray[np.int64]) -> list[Sample]:
    """The graph of level 0 alone, with labels."""
    pairs = graphs.adjacent_pairs(clip)
    nodes, _, motion = graphs.detection_nodes(clip, graphs.chains(clip, pairs))
    graph = graphs.build(nodes, pairs, motion, clip)
    same = true_edges(graph.edge, graph.node, clip.frame, identity)
    return [Sample(replace(graph, node=np.zeros(0, np.int64)), 0, (identity > 0).astype(np.float32), same)]


@dataclass(frozen=True)
class Halfway:
    """The first network at level 0, geometry above: who links the shared network's first round."""

    first: NetworkScorer
    above: GeometryScorer

    def detections(self, graph: Graph) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Level 0."""
        return self.first.detections(graph)

    def tracklets(self, graph: Graph, level: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Levels above."""
        return self.above.tracklets(graph, level)

    def calibrate(self, probability: NDArray[np.float64], stage: str) -> NDArray[np.float64]:
        """As they are."""
        return probability


@dataclass(frozen=True)
class Task:
    """What a worker makes: a scene's samples up to a stage ("first", "halfway", "both")."""

    seed: int
    config: PretrainConfig
    stage: str
    weights: bytes


def make(task: Task) -> list[Sample]:
    """Samples of one scene; level 0 is left out after the first stage."""
    torch.set_num_threads(1)
    clip, identity = training_scene(task.seed, task.config)
    if len(clip) < 2:
        return []
    if task.stage == "first":
        return first_samples(clip, identity)
    networks = from_bytes(task.weights)
    scorer = Halfway(networks, GeometryScorer()) if task.stage == "halfway" else networks
    gate = float(np.random.default_rng([task.seed, 78]).uniform(*GATES))
    policy = replace(Policy(), gate=gate, hard_candidates=True)
    return [s for s in samples_of(clip, identity, scorer, policy) if s.level and len(s.graph.x)]


def make_pool(seeds: Iterable[int], config: PretrainConfig, stage: str, weights: bytes = b"") -> list[Sample]:
    """Samples of many scenes, in the order of their seeds whatever the number of workers."""
    return _over_scenes(make, seeds, config, stage, weights)


def _over_scenes(
    work: Callable[[Task], list[T]], seeds: Iterable[int], config: PretrainConfig, stage: str, weights: bytes
) -> list[T]:
    tasks = [Task(seed, config, stage, weights) for seed in seeds]
    if config.workers <= 1:
        return [item for task in tasks for item in work(task)]
    with multiprocessing.get_context("spawn").Pool(config.workers) as pool:
        return [item for items in pool.imap(work, tasks, chunksize=4) for item in items]


# A stage's probabilities under the constraints and which of them are of true edges, (E,) each.
Stated = tuple[str, NDArray[np.float64], NDArray[np.bool_]]


def state(task: Task) -> list[Stated]:
    """What a scene's records say before calibration, beside the truth; links are decided as in use."""
    torch.set_num_threads(1)
    clip, identity = training_scene(task.seed, task.config)
    if len(clip) < 2:
        return []
    networks = from_bytes(task.weights)
    scorer = replace(networks, calibration=replace(networks.calibration, joint={}))
    result = link_clip(clip, scorer, Policy())
    return [
        (
            level.stage,
            level.probability.astype(np.float64),
            true_links(level, clip.frame, identity),
        )
        for level in result.levels
    ]


def calibrate_stages(scorer: NetworkScorer, seeds: Iterable[int], config: PretrainConfig) -> Calibration:
    """Slopes and offsets of each stage's probabilities under the constraints, from held-out scenes."""
    stated = _over_scenes(state, seeds, config, "both", to_bytes(scorer))
    joint = {}
    for stage in STAGES:
        mine = [(p, true) for name, p, true in stated if name == stage]
        if mine:
            probability, truth = (np.concatenate(part) for part in zip(*mine, strict=True))
            joint[stage] = fit_platt(logit(probability), truth)
    return replace(scorer.calibration, joint=joint)


@dataclass
class Trainer:
    """One network with its optimiser."""

    network: GraphNetwork
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler

    @classmethod
    def create(cls, network: GraphNetwork, config: PretrainConfig, steps: int) -> "Trainer":
        """AdamW with a cosine over all steps of all rounds."""
        optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(steps, 1), config.learning_rate / 100)
        return cls(network, optimiser, schedule)

    def step(self, batch: Sequence[Sample]) -> float:
        """One update on a few graphs, laid side by side as one."""
        x, edge, attr, real, same, node_weight, edge_weight = collate(batch)
        node, link = self.network(x, edge, attr)
        loss = (binary_cross_entropy_with_logits(node, real, reduction="none") * node_weight).sum()
        loss = loss + (binary_cross_entropy_with_logits(link, same, reduction="none") * edge_weight).sum()
        loss = loss / len(batch)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.schedule.step()
        return float(loss.detach())


def collate(batch: Sequence[Sample]) -> tuple[torch.Tensor, ...]:
    """Graphs as one graph, with weights: a graph counts by the root of its size, so that crowds do not drown all."""
    shift = np.cumsum([0, *(len(s.graph.x) for s in batch)])
    edge = np.concatenate([s.graph.edge + k for s, k in zip(batch, shift[:-1], strict=True)])
    real = np.concatenate([s.real for s in batch])
    known = np.isfinite(real)
    node_weight = np.concatenate([np.full(len(s.real), 0.1 / np.sqrt(len(s.real) + 10)) for s in batch]) * known
    edge_weight = np.concatenate([np.full(len(s.same), 0.1 / np.sqrt(len(s.same) + 10)) for s in batch])
    return (
        torch.from_numpy(np.concatenate([s.graph.x for s in batch])),
        torch.from_numpy(np.ascontiguousarray(edge.T)),
        torch.from_numpy(np.concatenate([s.graph.attr for s in batch])),
        torch.from_numpy(np.nan_to_num(real)),
        torch.from_numpy(np.concatenate([s.same for s in batch]).astype(np.float32)),
        torch.from_numpy(node_weight.astype(np.float32)),
        torch.from_numpy(edge_weight.astype(np.float32)),
    )


def _batches(pool: Sequence[Sample], size: int, rng: np.random.Generator) -> Iterator[list[Sample]]:
    order = rng.permutation(len(pool))
    for start in range(0, len(order), size):
        yield [pool[i] for i in order[start : start + size]]


def set_scale(network: GraphNetwork, pool: Sequence[Sample]) -> None:
    """Feature statistics of a pool into a network's scales."""
    x = np.concatenate([s.graph.x for s in pool])
    attr = np.concatenate([s.graph.attr for s in pool])
    for scale, values in ((network.node_scale, x), (network.edge_scale, attr)):
        scale.mean.copy_(torch.from_numpy(values.mean(0)))
        scale.spread.copy_(torch.from_numpy(values.std(0) + 1e-2))


def calibrate(scorer: NetworkScorer, pool: Sequence[Sample]) -> Calibration:
    """Slopes and offsets from held-out graphs, for the levels that the pool holds; the others stay as they are."""
    plain = replace(scorer, calibration=Calibration.identity(UNTANGLE_LEVEL + 1))
    found = scorer.calibration
    edges = list(found.edge)
    gate, track = found.gate, found.track
    for level in sorted({sample.level for sample in pool}):
        samples = [sample for sample in pool if sample.level == level]
        runs = [plain.detections(s.graph) if level == 0 else plain.tracklets(s.graph, level) for s in samples]
        if level in (0, FINAL_LEVEL):
            node = np.concatenate([run[0] for run in runs])
            terms = fit_platt(node, np.concatenate([s.real for s in samples]) > 0.5)
            gate, track = (terms, track) if level == 0 else (gate, terms)
        if level == FINAL_LEVEL:
            continue
        truth = np.concatenate([s.same for s in samples])
        edges[level] = fit_platt(np.concatenate([run[1] for run in runs]), truth)
    return Calibration(tuple(edges), found.joint, gate, track)


def pretrain(
    seed: int,
    out: Path,
    config: PretrainConfig | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> NetworkScorer:
    """Train and write the weights.

    Args:
        seed: of scenes, initial weights and order; the same seed gives the same weights on the same machine.
        out: file to write.
        config: how long and on what.
        progress: called with a stage's name and the share of all work done.

    Returns:
        The scorer, as :func:`spam_cvat.hierarchy.weights.load` would give it.
    """
    config = config or PretrainConfig()
    report = progress or (lambda stage, share: None)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums in one order: the same seed gives the same weights
    try:
        scorer = _pretrain(seed, config, report)
    finally:
        torch.set_num_threads(threads)
    data = to_bytes(scorer)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(data)
    report("done", 1.0)
    return from_bytes(data, str(out))


def _pretrain(seed: int, config: PretrainConfig, report: Callable[[str, float], None]) -> NetworkScorer:
    parts = _members(seed, config, report)
    report("calibration", 0.9)
    start = _base(seed, 0) + HELD_OUT
    held = range(start, start + config.held_out)
    facts = {
        "seed": seed,
        "stage": "gate-and-links",
        "members": config.members,
        "scenes": config.members * (config.detection_scenes + sum(config.rounds)),
    }
    members = tuple(member for part in parts for member in part.members)
    scorer = NetworkScorer(members, _between([part.calibration for part in parts]), training=facts)
    scorer = replace(scorer, calibration=calibrate(scorer, make_pool(held, config, "first")))
    scorer = replace(scorer, calibration=calibrate(scorer, make_pool(held, config, "both", to_bytes(scorer))))
    return replace(scorer, calibration=calibrate_stages(scorer, held, config))


def _base(seed: int, member: int) -> int:
    """First seed of a member's scenes; no two members, of whatever run, and no held-out scenes share one."""
    return seed * 1_000_003 + member * MEMBER_SEEDS


def _members(seed: int, config: PretrainConfig, report: Callable[[str, float], None]) -> list[NetworkScorer]:
    """Train the members, side by side where there are workers for all; the result is the same either way."""
    rest = range(1, config.members)
    if config.workers < config.members:
        share = 0.9 / config.members
        return [_train_member(seed, k, config, _part(report, share * k, share)) for k in range(config.members)]
    own = replace(config, workers=config.workers // config.members)
    with ProcessPoolExecutor(max(len(rest), 1), multiprocessing.get_context("spawn")) as pool:
        others = [pool.submit(_train_aside, seed, k, own) for k in rest]
        first = _train_member(seed, 0, own, _part(report, 0.0, 0.9))
        return [first, *(from_bytes(other.result()) for other in others)]


def _part(report: Callable[[str, float], None], start: float, share: float) -> Callable[[str, float], None]:
    """Progress of a part of the work as progress of the whole."""
    return lambda stage, done: report(stage, start + share * done)


def _train_aside(seed: int, member: int, config: PretrainConfig) -> bytes:
    """A member trained in a process of its own."""
    torch.set_num_threads(1)
    return to_bytes(_train_member(seed, member, config, lambda stage, done: None))


def _between(parts: Sequence[Calibration]) -> Calibration:
    """The mean of some calibrations."""

    def mean(terms: Sequence[tuple[float, float]]) -> tuple[float, float]:
        slope, offset = np.mean(terms, axis=0)
        return float(slope), float(offset)

    return Calibration(
        tuple(mean(terms) for terms in zip(*(part.edge for part in parts), strict=True)),
        {},
        mean([part.gate for part in parts]),
        mean([part.track for part in parts]),
    )


def _train_member(
    seed: int, member: int, config: PretrainConfig, report: Callable[[str, float], None]
) -> NetworkScorer:
    """One member, roughly calibrated on its own training scenes."""
    torch.manual_seed(seed * MEMBER_SEEDS + member)
    rng = np.random.default_rng([seed, member])
    made = _base(seed, member)
    own = Member(GraphNetwork(NetworkConfig()), GraphNetwork(config.shared))
    scorer = NetworkScorer((own,), Calibration.identity(UNTANGLE_LEVEL + 1))
    report("level 0: scenes", 0.0)
    pool = make_pool(range(made, made + config.detection_scenes), config, "first")
    made += config.detection_scenes
    report("level 0: training", 0.1)
    set_scale(own.first, pool)
    steps = _steps(len(pool), config.batch) * config.detection_epochs
    _fit(Trainer.create(own.first, config, steps), pool, config.detection_epochs, config.batch, rng, "level 0")
    scorer = replace(scorer, calibration=calibrate(scorer, pool[:: max(len(pool) // config.held_out, 1)]))
    older: list[Sample] = []
    trainer: Trainer | None = None
    size = 6 * config.batch
    share = 0.6 / max(len(config.rounds), 1)
    for index, (scenes, epochs) in enumerate(zip(config.rounds, config.epochs, strict=True)):
        report(f"levels above, round {index + 1}: scenes", 0.4 + index * share)
        stage = "both" if index else "halfway"
        fresh = make_pool(range(made, made + scenes), config, stage, to_bytes(scorer))
        made += scenes
        if not fresh:  # very few scenes, and a gate that let nothing through
            continue
        if trainer is None:
            set_scale(own.shared, fresh)
            # Later rounds give about as many graphs a scene as the first.
            scale = len(fresh) / max(scenes, 1)
            seen = np.cumsum(config.rounds) if len(config.rounds) > 1 else np.array(config.rounds)
            total = sum(_steps(int(n * scale), size) * e for n, e in zip(seen, config.epochs, strict=True))
            trainer = Trainer.create(own.shared, config, total)
        report(f"levels above, round {index + 1}: training", 0.4 + (index + 0.4) * share)
        _fit(trainer, fresh + older, epochs, size, rng, f"levels above, round {index + 1}")
        older = fresh
        scorer = replace(scorer, calibration=calibrate(scorer, fresh[:: max(len(fresh) // 1000, 1)]))
    return scorer


def _steps(graphs_in_pool: int, size: int) -> int:
    return -(-graphs_in_pool // size)


def _fit(trainer: Trainer, pool: Sequence[Sample], epochs: int, size: int, rng: np.random.Generator, name: str) -> None:
    trainer.network.train()
    for epoch in range(epochs):
        losses = [trainer.step(batch) for batch in _batches(pool, size, rng)]
        log.info("%s, epoch %d of %d: loss %.4f", name, epoch + 1, epochs, np.mean(losses))
    trainer.network.eval()
