"""Probabilities that mean what they say.

In: scores and what was true, on scenes held out from training. Out: per level a slope and an offset on the logit scale
(Platt 1999), and the expected calibration error that judges them. Message passing makes networks sure of themselves,
and the marginals under the one-in one-out rule count competition that the network has seen already; both bend
probabilities in a way that two numbers undo.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

Floats = NDArray[np.float64]

EPS = 1e-5


def logit(probability: Floats) -> Floats:
    """Log odds, finite."""
    p = np.clip(probability, EPS, 1 - EPS)
    return np.log(p / (1 - p))


def sigmoid(value: Floats) -> Floats:
    """Probabilities of log odds."""
    return 1 / (1 + np.exp(-np.clip(value, -40, 40)))


def fit_platt(score: Floats, truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset that make ``sigmoid(slope * score + offset)`` most likely; near (1, 0) where little is known."""
    if len(score) < 10:
        return 1.0, 0.0
    target = truth.astype(np.float64)

    def loss(theta: Floats) -> tuple[float, Floats]:
        z = theta[0] * score + theta[1]
        p = sigmoid(z)
        value = (np.logaddexp(0, z) - target * z).sum() + 2 * (theta[0] - 1) ** 2 + 0.5 * theta[1] ** 2
        slope = ((p - target) * score).sum() + 4 * (theta[0] - 1)
        return float(value), np.array([slope, (p - target).sum() + theta[1]])

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0.05, 5.0), (-6.0, 6.0)])
    return float(best.x[0]), float(best.x[1])


def expected_calibration_error(probability: Floats, truth: NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance between stated and observed frequency over equal-width bins (Guo et al., ICML 2017).

    >>> expected_calibration_error(np.array([0.8] * 10), np.array([True] * 8 + [False] * 2))
    0.0
    """
    if not len(probability):
        return 0.0
    index = np.minimum((probability * bins).astype(np.int64), bins - 1)
    count = np.bincount(index, minlength=bins)
    stated = np.bincount(index, weights=probability, minlength=bins)
    observed = np.bincount(index, weights=truth.astype(np.float64), minlength=bins)
    return float(np.round(np.abs(stated - observed).sum() / count.sum(), 12))
