"""ONNX Runtime's execution providers: which one an engine's name means, and the options it is given.

Everything here is worked out on the host, so that what a GPU is asked to do can be read and tested without one.
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
    """What has to run every arithmetic node, `name`, with its options and where its buffers live.

    `others` may run what is left: the arithmetic of shapes. With `most_lanes`, what is bound is copied to where the
    provider computes, and batches are padded up to one of a few sizes, at most this one; 0: shared, and of any size.
    """

    name: str
    device: Literal["cpu", "cuda"] = "cpu"
    gpu: int = 0
    most_lanes: int = 0
    options: Options = field(default_factory=dict)
    others: tuple[tuple[str, Options], ...] = ()

    def listed(self) -> list[tuple[str, dict[str, str]]]:
        """As a session takes them, the first before the others."""
        return [(name, dict(options)) for name, options in ((self.name, self.options), *self.others)]


def provider_for(path: Path, runtime: Runtime, tables: Mapping[str, Array]) -> Provider:
    """What the runtime's engine means for the graph at `path`. Raises SetupError."""
    if runtime.engine == "onnxruntime":
        return Provider(CPU)
    device, most = runtime.device, most_lanes(runtime.max_lanes)
    if runtime.engine == "onnxruntime-cuda":
        options = cuda_options(device.number, capture=graph_name(path) in runtime.stepping)
        return Provider(CUDA, "cuda", device.number, most, options, ((CPU, {}),))
    # The last holds them all, and is all that is used: ONNX Runtime stays with the first profile that it is given.
    shapes = {name: array.shape for name, array in tables.items()}
    profile = profiles_for(path, runtime.max_lanes, shapes, runtime.sides)[-1]
    versions = f"onnxruntime {version()}", f"tensorrt {tensorrt_version()}"
    plan = Plan.of(runtime.cache_dir, spec_of(path, runtime, (profile,), versions)).made()
    options = tensorrt_options(device.number, runtime.precision, profile, plan)
    cuda = cuda_options(device.number, capture=False)
    return Provider(TENSORRT, "cuda", device.number, most, options, ((CUDA, cuda), (CPU, {})))


def version() -> str:
    """ONNX Runtime's."""
    import onnxruntime as ort  # type: ignore[import-untyped]

    return str(ort.__version__)


def cuda_options(gpu: int, capture: bool) -> Options:
    """`capture`: the passes of a shape as a CUDA graph, of which no operator may run on the CPU.

    That is so of graphs that run at every step, where it pays; text encoders look for the last token by an ArgMax of
    integers, which the provider leaves to the CPU. f32 is f32 here, too: TF32 would keep 10 bits of the mantissa.
    """
    return {"device_id": str(gpu), "enable_cuda_graph": ON if capture else OFF, "use_tf32": "0"}


def tensorrt_options(gpu: int, precision: Precision, profile: Profile, plan: Plan) -> Options:
    """Without CUDA graphs: this provider keeps one, and replays it for batches of every other shape, too."""
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
    """As ONNX Runtime reads them: name:1x4x32x32,…"""
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())
