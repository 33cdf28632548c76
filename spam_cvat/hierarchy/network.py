"""Gate and time-aware message passing in one small network per kind of level.

In: node and edge features of a :class:`spam_cvat.hierarchy.graph.Graph`. Out: a logit per node (a real object?) and
per edge (does the later node continue the earlier one?). Two of these serve the whole hierarchy: one for level 0,
where nodes are detections, and one shared by all levels above, which reads the gap from the edge features.

Messages are time-aware as in MPNTrack (Braso and Leal-Taixe, CVPR 2020) and SUSHI: what a node hears from its past and
from its future goes through separate networks. One state per undirected edge; the first layers are factored, that is
applied to nodes before they are gathered to edges, which is exact and cheaper. Messages are weighted by the edge's own
present belief, as alternatives compete, and the largest belief of the rivals at either end is part of each update.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from spam_cvat.hierarchy.graph import EDGE_FEATURES, NODE_FEATURES

# Edges are worked on so many at a time: what is computed of them on the way then stays in a core's cache, and needs no
# new memory from the system. It is two to three times as fast for a graph of 300,000 edges.
BLOCK = 16_384


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of one network.

    Attributes:
        node_features: columns of ``x``.
        edge_features: columns of ``attr``.
        width: of node and edge states.
        hidden: of the hidden layers.
        steps: of message passing; each widens a node's view by one frame (level 0) or one tracklet.
    """

    node_features: int = NODE_FEATURES
    edge_features: int = EDGE_FEATURES
    width: int = 24
    hidden: int = 48
    steps: int = 3


class Scale(nn.Module):
    """Features to zero mean and unit spread; the statistics are part of the weights."""

    def __init__(self, features: int) -> None:
        """``features``: columns."""
        super().__init__()
        self.mean: Tensor
        self.spread: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))

    def forward(self, values: Tensor) -> Tensor:
        """(R, features) -> (R, features), cut at five spreads so that an outlier stays an outlier and no more."""
        return ((values - self.mean) / self.spread).clamp(-5, 5)


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers with ReLU between them, none at the end."""
    layers: list[nn.Module] = []
    for i in range(len(sizes) - 1):
        layers += [nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Step(nn.Module):
    """One round of message passing."""

    def __init__(self, width: int, hidden: int) -> None:
        """``width`` of the states, ``hidden`` of the layer between."""
        super().__init__()
        self.from_earlier = nn.Linear(width, hidden, bias=False)
        self.from_later = nn.Linear(width, hidden, bias=False)
        self.from_edge = nn.Linear(2 * width + 3, hidden)
        self.to_edge = nn.Linear(hidden, width)
        self.past = nn.Linear(2 * width, width)
        self.future = nn.Linear(2 * width, width)
        self.update = mlp(3 * width, hidden, width)
        self.belief = nn.Linear(width, 1)

    def forward(self, h: Tensor, e: Tensor, e0: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
        """Update states. h: (T, width), e and e0: (E, width), edge: (2, E) -> h, e."""
        a, b = edge
        nodes = len(h)
        belief = self.belief(e).squeeze(1)  # (E,)
        rivals = torch.stack([_rival(belief, a, nodes), _rival(belief, b, nodes), belief], dim=1)  # (E, 3)
        earlier, later = self.from_earlier(h), self.from_later(h)
        past, future = torch.zeros_like(h), torch.zeros_like(h)
        updated = []
        for some in _blocks(e):
            first, second, origin = a[some], b[some], e0[some]
            hidden = earlier[first] + later[second] + self.from_edge(torch.cat([e[some], origin, rivals[some]], 1))
            new = e[some] + self.to_edge(torch.relu(hidden))
            updated.append(new)
            weight = torch.sigmoid(belief[some])[:, None]
            told = torch.relu(self.past(torch.cat([h[first], new], 1))) * weight
            past.index_add_(0, second, told)
            told = torch.relu(self.future(torch.cat([h[second], new], 1))) * weight
            future.index_add_(0, first, told)
        return h + self.update(torch.cat([h, past, future], 1)), torch.cat(updated)


def _blocks(edges: Tensor) -> Iterator[slice]:
    """Stretches of the rows, at least one; all rows at once in training, which keeps what is computed, and on a GPU."""
    rows = max(len(edges), 1)
    size = rows if torch.is_grad_enabled() or edges.is_cuda else BLOCK
    return (slice(start, start + size) for start in range(0, rows, size))


def _by_blocks(work: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """What ``work`` makes of the same rows of each argument, block by block. (R, ...), ... -> (R, outputs)."""
    return torch.cat([work(*(part[some] for part in rows)) for some in _blocks(rows[0])])


def _rival(belief: Tensor, end: Tensor, nodes: int) -> Tensor:
    """Log of the summed odds of the other edges at one end, soft and bounded. (E,), (E,) -> (E,)."""
    odds = torch.exp(belief.clamp(-8, 8))
    total = scatter(odds, end, dim_size=nodes)[end]
    return torch.log((total - odds).clamp_min(0) + 0.01)


class GraphNetwork(nn.Module):
    """Encoders, message passing, and a head for nodes and for edges."""

    def __init__(self, config: NetworkConfig) -> None:
        """Random weights from torch's generator."""
        super().__init__()
        self.config = config
        width, hidden = config.width, config.hidden
        self.node_scale = Scale(config.node_features)
        self.edge_scale = Scale(config.edge_features)
        self.node_encoder = mlp(config.node_features, hidden, width)
        self.edge_encoder = mlp(config.edge_features, 2 * hidden, hidden, width)
        self.steps = nn.ModuleList(Step(width, hidden) for _ in range(config.steps))
        self.node_head = mlp(2 * width, hidden, 1)
        self.edge_head = mlp(2 * width, hidden, 1)

    def forward(self, x: Tensor, edge: Tensor, attr: Tensor) -> tuple[Tensor, Tensor]:
        """Logits. x: (T, node_features), edge: (2, E), attr: (E, edge_features) -> (T,), (E,)."""
        h0 = h = self.node_encoder(self.node_scale(x))
        e0 = e = _by_blocks(lambda rows: self.edge_encoder(self.edge_scale(rows)), attr)
        for step in self.steps:
            h, e = step(h, e, e0, edge)
        link = _by_blocks(lambda last, first: self.edge_head(torch.cat([last, first], 1)), e, e0)
        return self.node_head(torch.cat([h, h0], 1)).squeeze(1), link.squeeze(1)
