"""Re-identification networks from ONNX files.

In: one image and its boxes, cropped and stretched to the network's input. Out: the network's vectors at unit length.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from spam_cvat.appearance import crop, unit_length
from spam_cvat.onnx_model import IMAGENET_RGB, RAW_BGR, OnnxModel, Preprocessing, open_onnx, unknown_outputs
from spam_cvat.specs import Spec

DEFAULT_WIDTH, DEFAULT_HEIGHT = 128, 256  # where the network takes any size: re-identification's usual input
GPU_BATCH = 64
# On a CPU many crops at once fall out of its caches: batches of 16 took twice as long a crop as single ones.
CPU_BATCH = 2


@dataclass(frozen=True)
class OnnxEmbedder:
    """A re-identification network from a file.

    Options of the spec ``onnx:FILE``:
        ``channels``, ``scale``, ``mean``, ``std``: preprocessing, see :class:`Preprocessing`. By default an input with
        channels last, (N, H, W, 3), gets BGR 0..255 as networks of Intel's Open Model Zoo want it; one with channels
        first, (N, 3, H, W), gets RGB normalised as for ImageNet, as networks of torchreid and FastReID want it.
        ``size``: ``WIDTHxHEIGHT`` of the input for networks that take any, 128x256.
        ``sha256``, ``device``, ``threads``: see :func:`open_onnx`.

    Raises (from :meth:`from_spec`):
        InputError: the file or an option is not usable, or the first output is not one vector per image.
        SpamError: onnxruntime is not installed.
    """

    model: OnnxModel = field(repr=False)
    width: int
    height: int
    preprocessing: Preprocessing

    @classmethod
    def from_spec(cls, spec: Spec) -> "OnnxEmbedder":
        """Open the file a spec names."""
        model = open_onnx(spec, single_thread=True)
        width, height = spec.size("size") or (DEFAULT_WIDTH, DEFAULT_HEIGHT)
        default = RAW_BGR if model.channels_last else IMAGENET_RGB
        embedder = cls(model, model.width or width, model.height or height, Preprocessing.from_spec(spec, default))
        spec.finish()
        return embedder

    @cached_property
    def dim(self) -> int:
        """As :attr:`Embedder.dim`; found by trying the network on a black image."""
        return self._run(np.zeros((1, self.height, self.width, 3), np.uint8)).shape[1]

    @property
    def name(self) -> str:
        """As :attr:`Embedder.name`."""
        return f"onnx(1,{self.model.sha256[:16]},{self.width}x{self.height},{self.preprocessing})"

    def embed(self, image: NDArray[np.uint8], boxes: ArrayLike) -> NDArray[np.float32]:
        """As :meth:`Embedder.embed`."""
        crops = [crop(image, box) for box in np.asarray(boxes, np.float64).reshape(-1, 4)]
        seen = np.array([pixels is not None for pixels in crops], bool)
        vectors = np.zeros((len(crops), self.dim), np.float32)
        inputs = [
            cv2.resize(pixels, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
            for pixels in crops
            if pixels is not None
        ]
        batch = self.model.batch or (GPU_BATCH if self.model.on_gpu else CPU_BATCH)
        if inputs:
            batches = [np.stack(inputs[start : start + batch]) for start in range(0, len(inputs), batch)]
            vectors[seen] = unit_length(np.concatenate(list(self._pool.map(self._run, batches))))
        return vectors

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        """Threads that run one batch each: for small networks better than many threads on one batch."""
        return ThreadPoolExecutor(1 if self.model.on_gpu else self.model.threads or os.cpu_count() or 1)

    def _run(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The network's vectors for at most a batch of (n, H, W, 3) images."""
        missing = self.model.batch - len(images) if self.model.batch else 0
        padded = np.concatenate([images, np.zeros((missing, *images.shape[1:]), np.uint8)]) if missing else images
        output = self.model.run(self.preprocessing.apply(padded, channels_last=self.model.channels_last))[0]
        if output.ndim < 2 or len(output) != len(padded) or output.size != len(output) * output.shape[1]:
            raise unknown_outputs(self.model, ["one vector (N, D) per image"])
        return output.reshape(len(output), -1)[: len(images)]
