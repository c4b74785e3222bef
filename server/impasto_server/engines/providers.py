"""ONNX Runtime's execution providers: which one an engine's name means, and its options.

Nothing here needs a GPU, so a provider's options can be read and tested without one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from impasto_server.engines.engine import Array
from impasto_server.engines.libraries import PROVIDERS, tensorrt_version
from impasto_server.engines.plans import Plan, spec_of
from impasto_server.engines.profiles import Profile, Shapes, graph_name, most_lanes, profiles_for
from impasto_server.engines.runtime import Runtime
from impasto_server.settings import Precision

Options = Mapping[str, str]

CPU, CUDA, TENSORRT = PROVIDERS.values()
ON, OFF = "True", "False"


@dataclass(frozen=True)
class Provider:
    """The provider `name`, which must run all heavy operators; its options, and where its buffers lie.

    `others` may run the rest, which computes shapes. With `most_lanes`, bound buffers are copied to the device, and
    batches are padded to one of a few sizes, at most this one; with 0 buffers are shared and batches have any size.
    """

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    gpu: int = 0
    most_lanes: int = 0
    options: Options = field(default_factory=dict)
    others: tuple[tuple[str, Options], ...] = ()

    def listed(self) -> list[tuple[str, dict[str, str]]]:
        """All providers with their options, as a session takes them, this one first."""
        return [(name, dict(options)) for name, options in ((self.name, self.options), *self.others)]


def provider_for(path: Path, runtime: Runtime, tables: Mapping[str, Array]) -> Provider:
    """The provider of the runtime's engine for the graph at `path`. Raises SetupError."""
    if runtime.engine == "onnxruntime":
        return Provider(CPU)
    device, most = runtime.device, most_lanes(runtime.max_lanes)
    if runtime.engine == "onnxruntime-cuda":
        options = cuda_options(device.number, capture=graph_name(path) in runtime.stepping)
        return Provider(CUDA, "cuda", device.number, most, options, ((CPU, {}),))
    # Only the last profile is used, which includes the others: ONNX Runtime stays with the first one it is given.
    shapes = {name: array.shape for name, array in tables.items()}
    profile = profiles_for(path, runtime.max_lanes, shapes, runtime.sides)[-1]
    versions = f"onnxruntime {version()}", f"tensorrt {tensorrt_version()}"
    plan = Plan.of(runtime.cache_dir, spec_of(path, runtime, (profile,), versions)).made()
    options = tensorrt_options(device.number, runtime.precision, profile, plan)
    cuda = cuda_options(device.number, capture=False)
    return Provider(TENSORRT, "cuda", device.number, most, options, ((CUDA, cuda), (CPU, {})))


def version() -> str:
    """ONNX Runtime's version."""
    import onnxruntime as ort  # type: ignore[import-untyped]

    return str(ort.__version__)


def cuda_options(gpu: int, capture: bool) -> Options:
    """Options of the CUDA provider. `capture`: run the passes of a shape as a CUDA graph.

    A CUDA graph may have no operator on the CPU. Graphs that run at every step have none, and there it pays. Text
    encoders find the last token by an ArgMax of integers, which the provider leaves to the CPU. TF32 is off, since it
    keeps only 10 bits of the mantissa.
    """
    return {"device_id": str(gpu), "enable_cuda_graph": ON if capture else OFF, "use_tf32": "0"}


def tensorrt_options(gpu: int, precision: Precision, profile: Profile, plan: Plan) -> Options:
    """Options of the TensorRT provider. No CUDA graphs: it keeps one and replays it for other shapes, too."""
    return {
        "device_id": str(gpu),
        "trt_bf16_enable": ON if precision == "bf16" else OFF,
        "trt_engine_cache_enable": ON,
        "trt_engine_cache_path": str(plan.folder),
        "trt_timing_cache_enable": ON,
        "trt_timing_cache_path": str(plan.timings),
        "trt_profile_min_shapes": _listed(profile.least),
        "trt_profile_opt_shapes": _listed(profile.usual),
        "trt_profile_max_shapes": _listed(profile.most),
    }


def _listed(shapes: Shapes) -> str:
    """Shapes as ONNX Runtime reads them: name:1x4x32x32,…"""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
