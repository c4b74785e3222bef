"""Packages meet in files and on the wire, never in an import, but for few edges. Those that serve stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "impasto_export": ROOT / "export/impasto_export",
    "impasto_fit": ROOT / "export/impasto_fit",
    "impasto_server": ROOT / "server/impasto_server",
    "impasto_gateway": ROOT / "server/impasto_gateway",
    "impasto_client": ROOT / "clients/impasto_client",
    "impasto_deploy": ROOT / "deploy/impasto_deploy",
}
# The edges between packages: the gateway is a client of servers like any other, and is deployed as it is. A fit trains
# Muse's second stage, whose class is export's own, since diffusers has none.
MAY = {
    ("impasto_fit", "impasto_export"),
    ("impasto_gateway", "impasto_client"),
    ("impasto_deploy", "impasto_client"),
    ("impasto_deploy", "impasto_gateway"),
}
# Too heavy for a server, or unsafe to load strangers' files with.
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "pickle", "cloudpickle", "dill", "joblib"}
# What the base install of the distribution gives a client.
CLIENT_MAY = {"impasto_client", "grpc", "numpy", "PIL", "rich", "tritonclient", "typer", "typing_extensions"}
# What its extra `video` adds, for one folder.
VIDEO = {"av", "cv2"}
# What the extras `gateway`, `c2pa` and `traces` add, for the gateway.
GATEWAY = {"starlette", "uvicorn", "python_multipart", "c2pa", "cryptography", "opentelemetry", "prometheus_client"}
# Modules that are imported where no torch is installed.
LIGHT = [
    "impasto_server.pipeline",
    "impasto_server.ops.commands",
    "impasto_gateway.commands",
    "impasto_client",
    "impasto_client.cli",
    "impasto_export.cli",
    "impasto_export.link",
    "impasto_export.merging.merge",
    "impasto_export.adapters.importer",
    "impasto_fit.cli",
    "impasto_fit.jobs.worker",
]


def is_said(call: ast.Call) -> bool:
    """Whether the call says what it imports. One doesn't: the gateway's checks are modules that an operator names."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def imported(source: str) -> Iterator[str]:
    """Top-level names of everything that is imported, anywhere in the module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.partition(".")[0]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and is_said(node):
            yield str(ast.literal_eval(node.args[0])).partition(".")[0]


def imports_of(package: str) -> Iterator[tuple[Path, str]]:
    modules = sorted(PACKAGES[package].rglob("*.py"))
    assert modules, f"{package} has no modules"
    for module in modules:
        for name in imported(module.read_text()):
            yield module.relative_to(ROOT), name


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_do_not_import_one_another(package: str) -> None:
    crossed = {(package, name) for _, name in imports_of(package) if name in PACKAGES and name != package}
    assert crossed == {edge for edge in MAY if edge[0] == package}


@pytest.mark.parametrize("package", ["impasto_server", "impasto_gateway", "impasto_client", "impasto_deploy"])
def test_server_gateway_and_client_import_nothing_heavy(package: str) -> None:
    assert not [edge for edge in imports_of(package) if edge[1] in HEAVY]


def test_only_tracing_knows_torch_and_one_file_knows_pickles() -> None:
    knowing = [(path, name) for path, name in imports_of("impasto_export") if name in HEAVY]
    assert {path.parent.name for path, name in knowing if name != "pickle"} == {"tracing"}
    assert {path.name for path, name in knowing if name == "pickle"} == {"torch_files.py"}


def test_the_client_needs_only_the_base_install() -> None:
    allowed = CLIENT_MAY | set(sys.stdlib_module_names)
    others = [edge for edge in imports_of("impasto_client") if edge[1] not in allowed]
    assert {path.parent.name for path, _ in others} == {"video"}
    assert {name for _, name in others} == VIDEO


def test_the_gateway_needs_only_its_extras() -> None:
    allowed = CLIENT_MAY | GATEWAY | set(sys.stdlib_module_names) | {"impasto_gateway"}
    assert not {edge for edge in imports_of("impasto_gateway") if edge[1] not in allowed}


def test_deploying_needs_only_ray_and_the_gateway() -> None:
    allowed = {*sys.stdlib_module_names, "impasto_client", "impasto_deploy", "impasto_gateway", "ray", "starlette"}
    assert not {edge for edge in imports_of("impasto_deploy") if edge[1] not in allowed}


def test_the_client_does_without_its_extra() -> None:
    blocked = "".join(f"sys.modules[{name!r}] = None; " for name in sorted(VIDEO))
    code = f"import sys; {blocked}import impasto_client.stylize, impasto_client.sheet, impasto_client.video.film"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_triton_modules_know_the_python_backend() -> None:
    knowing = {path.parent.name for path, name in imports_of("impasto_server") if name == "triton_python_backend_utils"}
    assert knowing == {"triton"}


def test_the_model_repository_holds_no_logic() -> None:
    for model in (ROOT / "model_repository").glob("*/*/model.py"):
        assert [type(node) for node in ast.parse(model.read_text()).body] == [ast.Expr, ast.ImportFrom], model


@pytest.mark.parametrize("module", LIGHT)
def test_importing_pulls_in_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not (HEAVY - {"pickle"}) & set(loaded)  # numpy itself imports pickle


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("import torch.nn", "torch"),
        ("def f():\n    from torch import nn", "torch"),
        ("import importlib\nimportlib.import_module('torch.nn')", "torch"),
    ],
)
def test_the_walk_sees_every_way_to_import(source: str, name: str) -> None:
    assert name in set(imported(source))
