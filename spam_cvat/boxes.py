"""Box arithmetic on (N, 4) arrays.

Boxes are ``x1, y1, x2, y2`` in pixels, float32, the origin at the image's top-left corner; ``x2`` and ``y2`` are
exclusive, so a width is ``x2 - x1`` without the +1 of older tools. Functions take and return arrays and know nothing
of frames.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.floating]


def xywh_to_xyxy(boxes: ArrayLike) -> Array:
    """Corners of boxes given as left, top, width, height. (N, 4) -> (N, 4).

    >>> xywh_to_xyxy([[10, 20, 5, 8]])
    array([[10., 20., 15., 28.]])
    """
    out = np.array(boxes, dtype=np.result_type(np.asarray(boxes).dtype, np.float32)).reshape(-1, 4)
    out[:, 2:] += out[:, :2]
    return out


def xyxy_to_xywh(boxes: ArrayLike) -> Array:
    """Left, top, width, height of boxes given by their corners. (N, 4) -> (N, 4)."""
    out = np.array(boxes, dtype=np.result_type(np.asarray(boxes).dtype, np.float32)).reshape(-1, 4)
    out[:, 2:] -= out[:, :2]
    return out


def area(boxes: Array) -> Array:
    """Areas in square pixels, 0 where a box is empty. (N, 4) -> (N,)."""
    return np.clip(boxes[:, 2] - boxes[:, 0], 0, None) * np.clip(boxes[:, 3] - boxes[:, 1], 0, None)


def _intersection(a: Array, b: Array) -> Array:
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    return np.clip(width, 0, None) * np.clip(height, 0, None)


def iou_pairs(a: Array, b: Array) -> Array:
    """Intersection over union of a[i] and b[i]; 0 where the union is empty. (N, 4), (N, 4) -> (N,)."""
    inter = _intersection(a, b)
    union = area(a) + area(b) - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def iou_matrix(a: Array, b: Array) -> Array:
    """Intersection over union of every a[i] with every b[j]. (N, 4), (M, 4) -> (N, M).

    >>> iou_matrix(np.array([[0.0, 0, 10, 10]]), np.array([[0.0, 0, 10, 10], [5, 0, 15, 10]])).round(3)
    array([[1.   , 0.333]])
    """
    inter = _intersection(a[:, None], b[None])
    union = area(a)[:, None] + area(b)[None] - inter
    return np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)


def giou_pairs(a: Array, b: Array) -> Array:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of a[i] and b[i], in [-1, 1]. (N, 4), (N, 4) -> (N,)."""
    inter = _intersection(a, b)
    union = area(a) + area(b) - inter
    hull = np.clip(np.maximum(a[:, 2], b[:, 2]) - np.minimum(a[:, 0], b[:, 0]), 0, None) * np.clip(
        np.maximum(a[:, 3], b[:, 3]) - np.minimum(a[:, 1], b[:, 1]), 0, None
    )
    iou = np.divide(inter, union, out=np.zeros_like(inter), where=union > 0)
    return iou - np.divide(hull - union, hull, out=np.ones_like(inter), where=hull > 0)


def clip_boxes(boxes: Array, width: float, height: float) -> Array:
    """Boxes cut to the image ``[0, width] x [0, height]``; a box outside it becomes empty. (N, 4) -> (N, 4)."""
    limit = np.array([width, height, width, height], dtype=boxes.dtype)
    return np.clip(boxes, 0, limit)


def warp_boxes(boxes: Array, warps: Array) -> Array:
    """Axis-aligned boxes under affine maps: the centre is mapped exactly, the size is scaled by the columns' norms.

    Corners are not mapped and re-boxed, because that lets a box grow with every small rotation of the camera.

    Args:
        boxes: (N, 4) corners in pixels.
        warps: (2, 3) or (N, 2, 3), pixel coordinates of one frame to those of another.

    Returns:
        (N, 4) corners in the other frame.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    half = (boxes[:, 2:] - boxes[:, :2]) / 2
    linear, shift = warps[..., :2], warps[..., 2]
    mapped = np.einsum("...ij,...j->...i", linear, centre) + shift
    half = half * np.linalg.norm(linear, axis=-2)
    return np.concatenate([mapped - half, mapped + half], axis=1).astype(boxes.dtype)


def nms(boxes: Array, scores: Array, threshold: float) -> NDArray[np.intp]:
    """Indices kept by greedy non-maximum suppression, by falling score; drops overlaps of IoU > threshold."""
    order = np.argsort(-scores, kind="stable")
    kept: list[int] = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(int(best))
        order = rest[iou_matrix(boxes[best : best + 1], boxes[rest])[0] <= threshold]
    return np.array(kept, dtype=np.intp)
