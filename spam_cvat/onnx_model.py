"""ONNX files: opening one on GPU or CPU, and turning images into its input.

In: a path and what the user said about it. Out: a session with its file's digest, its input's layout and size.
onnxruntime is optional (``spam-cvat[onnx]`` or ``spam-cvat[gpu]``): it is imported when a file is opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spam_cvat.errors import InputError, SpamError
from spam_cvat.specs import Spec

# Subtracted from and divided into RGB in 0..1 by networks that were trained on ImageNet.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Preprocessing:
    """How 8-bit BGR pixels become a network's numbers: ``(pixel / scale - mean) / std`` in the order it wants.

    Attributes:
        rgb: whether the network wants red first.
        scale: 1 for networks that take 0..255, 255 for those that take 0..1.
        mean: per channel, in the network's order, after scaling.
        std: the same.
    """

    rgb: bool = False
    scale: float = 1.0
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)

    @classmethod
    def from_spec(cls, spec: Spec, default: "Preprocessing") -> "Preprocessing":
        """Take the options ``channels=rgb|bgr``, ``scale``, ``mean`` and ``std`` out of a spec."""
        return cls(
            rgb=spec.word("channels", "rgb" if default.rgb else "bgr", ("rgb", "bgr")) == "rgb",
            scale=spec.number("scale", default.scale, 1e-6, 1e6),
            mean=spec.numbers("mean", 3) or default.mean,
            std=spec.numbers("std", 3) or default.std,
        )

    def apply(self, images: NDArray[np.uint8], *, channels_last: bool) -> NDArray[np.float32]:
        """(N, H, W, 3) uint8 BGR -> (N, 3, H, W) or (N, H, W, 3) float32."""
        pixels = images[..., ::-1] if self.rgb else images
        if not channels_last:
            pixels = pixels.transpose(0, 3, 1, 2)
        out = np.ascontiguousarray(pixels, dtype=np.float32)
        if self != Preprocessing(rgb=self.rgb):
            shape = (3,) if channels_last else (3, 1, 1)
            out /= np.float32(self.scale)
            out -= np.reshape(np.asarray(self.mean, np.float32), shape)
            out /= np.reshape(np.asarray(self.std, np.float32), shape)
        return out


RAW_BGR = Preprocessing()
IMAGENET_RGB = Preprocessing(rgb=True, scale=255.0, mean=IMAGENET_MEAN, std=IMAGENET_STD)


@dataclass(frozen=True)
class OnnxModel:
    """An opened network with one image input.

    Attributes:
        path: its file.
        sha256: the file's digest.
        session: onnxruntime's InferenceSession.
        input_name: of the image input.
        channels_last: whether images go in as (N, H, W, 3) instead of (N, 3, H, W).
        width: of the image input; None where the network takes any.
        height: the same.
        batch: images the network takes at once; None where it takes any number.
        threads: CPU threads that the user allows, 0 for one a core.
    """

    path: Path
    sha256: str
    session: Any
    input_name: str
    channels_last: bool
    width: int | None
    height: int | None
    batch: int | None
    threads: int = 0

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs on a GPU."""
        return "CUDAExecutionProvider" in self.session.get_providers()

    @property
    def output_shapes(self) -> list[tuple[str, list[Any]]]:
        """Name and shape of each output; unknown sizes are None or names."""
        return [(output.name, output.shape) for output in self.session.get_outputs()]

    def run(self, images: NDArray[np.float32]) -> list[NDArray[Any]]:
        """All outputs for a batch in the network's own layout. Raises SpamError where the network fails."""
        try:
            return self.session.run(None, {self.input_name: images})
        except Exception as error:  # onnxruntime's exceptions share no base class
            reason = " ".join(str(error).split())[:200]
            raise SpamError(f"{self.path}: the network failed on an input of shape {images.shape}: {reason}") from error


def open_onnx(spec: Spec, *, single_thread: bool = False) -> OnnxModel:
    """Open the file a spec names, on the GPU where onnxruntime has one.

    Takes the options ``sha256`` (refuse any other file), ``device=auto|cpu|cuda`` and ``threads`` (on the CPU; 0, the
    default, for one a core) out of the spec.

    Args:
        spec: its target is the file.
        single_thread: whether one run of the network uses one thread, because the caller makes several at a time.

    Raises:
        InputError: there is no such file, it is not the one with that digest, not an ONNX network, or its input is
            not one image batch.
        SpamError: onnxruntime is not installed, or the GPU asked for is not there.
    """
    path = Path(spec.target).expanduser()
    wanted = spec.word("sha256").lower()
    device = spec.word("device", "auto", ("auto", "cpu", "cuda"))
    threads = int(spec.number("threads", 0, 0, 1024))
    try:
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{spec.target or spec.text!r}: cannot read the network: {error.strerror or error}") from error
    if wanted and wanted != sha256:
        raise InputError(
            f"{path}: its SHA-256 is {sha256}, not {wanted}; get the file again, or drop the option sha256"
        )
    session = _session(path, device, 1 if single_thread else threads)
    inputs = [item for item in session.get_inputs() if len(item.shape) == 4]
    if len(session.get_inputs()) != 1 or not inputs or inputs[0].type != "tensor(float)":
        found = ", ".join(f"{item.name} {item.shape} {item.type}" for item in session.get_inputs())
        raise InputError(f"{path}: needs one input of 32-bit floats with four axes for images, has {found}")
    batch, *axes = (size if isinstance(size, int) and size > 0 else None for size in inputs[0].shape)
    if axes[0] != 3 and axes[2] != 3:
        raise InputError(f"{path}: its input {inputs[0].shape} has no axis of three colours")
    channels_last = axes[0] != 3
    height, width = axes[:2] if channels_last else axes[1:]
    return OnnxModel(path, sha256, session, inputs[0].name, channels_last, width, height, batch, threads)


def _session(path: Path, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise SpamError(
            f"{path}: ONNX networks need onnxruntime: pip install 'spam-cvat[onnx]', or 'spam-cvat[gpu]' for CUDA"
        ) from error
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise SpamError(f"{path}: this onnxruntime has no CUDA: pip install 'spam-cvat[gpu]', or use device=cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Waiting threads that spin double the CPU time of small networks, and slow down whatever else runs here.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"] if has_cuda and device != "cpu" else []
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers or ["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise InputError(
            f"{path}: not an ONNX network that onnxruntime can open: {' '.join(str(error).split())[:200]}"
        ) from error
    if device == "cuda" and "CUDAExecutionProvider" not in session.get_providers():
        raise SpamError(f"{path}: CUDA cannot be used here (driver or libraries are missing); use device=cpu")
    return session


def unknown_outputs(model: OnnxModel, understood: Sequence[str]) -> InputError:
    """The error for a network whose outputs mean nothing to us."""
    found = ", ".join(f"{name} {shape}" for name, shape in model.output_shapes)
    return InputError(f"{model.path}: its outputs ({found}) are not understood; understood are {'; '.join(understood)}")
