"""A check of the libraries that engines import: one that is missing or unsuitable is an error with the fix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType, ModuleType

from impasto_server.errors import SetupError
from impasto_server.settings import ON_GPU, EngineName

PROVIDERS: Mapping[EngineName, str] = MappingProxyType(
    {
        "onnxruntime": "CPUExecutionProvider",
        "onnxruntime-cuda": "CUDAExecutionProvider",
        "onnxruntime-tensorrt": "TensorrtExecutionProvider",
    }
)
TENSORRT = 10  # what ONNX Runtime's provider is built for; 11 takes precisions from the graph and has no flag for them

_SERVER, _GPU = "pip install 'impasto[server]'", "pip install 'impasto[gpu]'"
_BUILD = f"pip uninstall onnxruntime, then {_GPU}: both install into the same folder"


def require(engine: EngineName) -> None:
    """Raise SetupError unless the engine's libraries are installed and of the right kind and version."""
    if engine == "openvino":
        _loaded("openvino", lambda: import_module("openvino"), _SERVER)
    if engine in PROVIDERS:
        _require_provider(PROVIDERS[engine])
    if engine in ON_GPU:
        _loaded("cuda-bindings", lambda: import_module("cuda.bindings.runtime"), _GPU)
    if engine in ("tensorrt", "onnxruntime-tensorrt"):
        _require_tensorrt()


def _require_provider(provider: str) -> None:
    library = _loaded("onnxruntime", lambda: import_module("onnxruntime"), _SERVER)
    if provider not in library.get_available_providers():
        raise SetupError(f"engine: this onnxruntime {library.__version__} has no {provider}; {_BUILD}")


def tensorrt_version() -> str:
    """The installed TensorRT's version. Raises SetupError."""
    return str(_loaded("tensorrt", lambda: import_module("tensorrt"), _GPU).__version__)


def _require_tensorrt() -> None:
    version = tensorrt_version()
    if int(version.split(".")[0]) != TENSORRT:
        fix = f"pip install 'tensorrt-cu13>={TENSORRT},<{TENSORRT + 1}'"
        raise SetupError(f"engine: tensorrt is {version}, not {TENSORRT}; {fix}")


def _loaded(package: str, load: Callable[[], ModuleType], fix: str) -> ModuleType:
    try:
        return load()
    except (ImportError, OSError) as error:
        raise SetupError(f"engine: {package} can't be imported ({error}); {fix}") from None
