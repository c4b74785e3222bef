"""Nobody imports upward: a package's modules and folders stand in layers, and each knows only those below it.

Modules of one layer may know one another, as those of one folder may; folders of one layer don't. Imports inside
functions and under TYPE_CHECKING count as any other.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVER, GATEWAY, EXPORT, FIT, CLIENT = (
    ROOT / name
    for name in (
        "server/impasto_server",
        "server/impasto_gateway",
        "export/impasto_export",
        "export/impasto_fit",
        "clients/impasto_client",
    )
)

# The server's, from the bottom up. Whatever stands in the package stands here, by the name of its module or folder.
LAYERS = (
    "errors settings stats strangers cache turns turnstile timeout atomic closing admission",
    "bundle",
    "engines",
    "guidance fields",
    "adapters",
    "words pictures",
    "steps backbone worn values offer contradictions request",
    "scoring",
    "families",
    "room job batch running loop preparation lookout wearers meta outputs shared catalogue pipeline front",
    "ops reference",
    "triton",  # its models are processes that ops has started
)
HEIGHTS = {name: height for height, names in enumerate(LAYERS) for name in names.split()}

Edge = tuple[str, str]  # who imports whom, dotted, below the package


def modules(package: Path) -> dict[str, Path]:
    """By dotted name below the package: a.b, and a for a/__init__.py."""
    names = {path: ".".join(path.relative_to(package).with_suffix("").parts) for path in sorted(package.rglob("*.py"))}
    return {name.removesuffix(".__init__"): path for path, name in names.items() if name != "__init__"}


def edges(package: Path) -> Iterator[Edge]:
    """All imports of the package by itself."""
    known = modules(package)
    for name, path in known.items():
        for target in imported(path.read_text(), package.name):
            found = target if target in known else target.rpartition(".")[0]
            if found and found != name:
                yield name, found


def is_said(call: ast.Call) -> bool:
    """Whether the call says what it imports. One doesn't: the gateway's checks are modules that an operator names."""
    return bool(call.args) and isinstance(call.args[0], ast.Constant)


def imported(source: str, package: str) -> Iterator[str]:
    """Modules below `package`, or names in them, that are imported anywhere in the source."""
    for node in ast.walk(ast.parse(source)):
        found: list[str] = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func) and is_said(node):
            found = [str(ast.literal_eval(node.args[0]))]
        yield from (name.removeprefix(f"{package}.") for name in found if name.startswith(f"{package}."))


def height(module: str) -> int:
    return HEIGHTS[module.partition(".")[0]]


def is_downward(edge: Edge) -> bool:
    """Or between modules of one layer that are no folders, or of one folder, or of one family."""
    one, other = (module.split(".") for module in edge)
    if one[0] != other[0]:
        level = height(edge[0]) == height(edge[1])
        return height(edge[0]) > height(edge[1]) or (level and len(one) == len(other) == 1)
    is_family = one[0] == "families" and len(one) == len(other) == 3
    return not is_family or one[1] == other[1]


def told(edge: Edge) -> str:
    return "{} imports {}".format(*edge)


def test_every_module_of_the_server_has_its_layer() -> None:
    assert {name.partition(".")[0] for name in modules(SERVER)} <= HEIGHTS.keys()


def test_nobody_in_the_server_imports_upward() -> None:
    assert not sorted({told(edge) for edge in edges(SERVER) if not is_downward(edge)})


@pytest.mark.parametrize("package", [SERVER, GATEWAY, EXPORT, FIT, CLIENT], ids=lambda package: str(package.name))
def test_no_module_needs_itself(package: Path) -> None:
    """Inside layers, too, and in the packages that are too small for layers.

    Engines are looked aside from: the one that was asked for is imported where a graph is compiled, and nowhere else.
    """
    needs: dict[str, set[str]] = {}
    for one, other in edges(package):
        if not (one == "engines.engine" and other.startswith("engines.")):
            needs.setdefault(one, set()).add(other)
    assert list(TopologicalSorter(needs).static_order())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import impasto_server.bundle", "bundle"),
        ("from impasto_server.engines import gpu", "engines.gpu"),
        ("def f():\n    from impasto_server import pipeline", "pipeline"),
        ("if TYPE_CHECKING:\n    from impasto_server.job import Job", "job.Job"),
        ("import_module('impasto_server.engines.tensorrt')", "engines.tensorrt"),
    ],
)
def test_the_walk_sees_every_way_to_import(source: str, found: str) -> None:
    assert list(imported(source, SERVER.name)) == [found]


@pytest.mark.parametrize(
    ("edge", "fine"),
    [
        (("pipeline", "bundle"), True),
        (("bundle", "pipeline"), False),
        (("loop", "running"), True),
        (("engines.engine", "engines.gpu"), True),
        (("words.prompt", "pictures.image"), False),
        (("triton.drain", "ops.guardian"), True),
        (("families.masked.masked", "families.diffusion.samplers"), False),
        (("families.masked.masked", "families.masked.maskgit"), True),
        (("families.masked.masked", "families.family"), True),
    ],
)
def test_which_way_is_down(edge: Edge, fine: bool) -> None:
    assert is_downward(edge) == fine
