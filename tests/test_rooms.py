"""Who may import whom: a room only from the rooms above it; inside a room nothing in a circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

# What stands in parallel_nst/, top to bottom. The package's own `__init__` and `__main__` come last: they may know all.
ROOMS = "errors recipe files networks workers painting training jobs web cli __init__ __main__".split()
HOMES = {"ray": "workers.ray", "typer": "cli", "rich": "cli"}  # library -> the room that may know it
PRINTS = "cli"
HEAVY = {"ray", "typer", "rich", "torch", "cv2", "skimage"}  # not loaded by a bare `import parallel_nst`

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "parallel_nst"


def name_of(path: Path) -> str:
    """A module's name: dotted, without the package's own; that of a sub-package's `__init__` is the sub-package's."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
PACKAGES = {name for name, path in MODULES.items() if path.name == "__init__.py" and name != "__init__"}


def names_imported(module: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that is imported anywhere in a module."""
    parts = ["parallel_nst", *module.split(".")]
    package = parts if module in PACKAGES else parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def inner(name: str) -> str:
    """The module that a full dotted name lies in: `parallel_nst.recipe.Recipe` -> `recipe`."""
    parts = name.split(".")[1:]
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MODULES), "__init__")


def within(module: str, room: str) -> bool:
    """Whether a module is a room, or stands in it."""
    return module == room or module.startswith(f"{room}.")


def faults(module: str, source: str) -> list[str]:
    """What the rules above have against a module of this name with this source."""
    room = module.split(".")[0]
    if room not in ROOMS:
        return [f"{module} stands in no room: place {room!r} in ROOMS"]
    found = []
    for line, name in names_imported(module, source):
        top = name.split(".")[0]
        if top == "parallel_nst":
            theirs = inner(name).split(".")[0]
            if theirs != room and ROOMS.index(theirs) > ROOMS.index(room):
                found.append(f"{module}:{line} imports {name}, but {theirs} is not above {room}")
        elif top in HOMES and not within(module, HOMES[top]):
            found.append(f"{module}:{line} imports {top}, which only {HOMES[top]} may")
    if not within(module, PRINTS):
        found += [
            f"{module}:{node.lineno} prints"
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    return found


def circle(package: str, imports: Iterable[tuple[str, str]]) -> list[str] | None:
    """The modules and sub-packages of a package that import each other in a circle; None where none do.

    imports: who imports whom, by module.
    """
    prefix = f"{package}." if package else ""
    graph: dict[str, set[str]] = {}
    for one, other in imports:
        if one.startswith(prefix) and other.startswith(prefix):
            mine, theirs = (name[len(prefix) :].split(".")[0] for name in (one, other))
            if mine != theirs:
                graph.setdefault(mine, set()).add(theirs)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return None


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_room(module: str) -> None:
    assert faults(module, MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_nothing_in_a_package_imports_in_a_circle(package: str) -> None:
    imports = [
        (module, inner(name))
        for module, path in MODULES.items()
        for _, name in names_imported(module, path.read_text(encoding="utf-8"))
        if name.startswith("parallel_nst.")
    ]
    assert circle(package, imports) is None


def test_every_room_is_there_and_there_are_few() -> None:
    there = {name.split(".")[0] for name in MODULES}
    assert set(ROOMS) == there
    assert len(there - {"__init__", "__main__"}) <= 10  # the tenth is `web`, the page and the HTTP API


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recipe", "import parallel_nst.painting.stylize"),
        ("recipe", "from parallel_nst.painting import stylize"),
        ("errors", "from .painting.stylize import stylize as paint"),
        ("recipe", "def late():\n    from parallel_nst.painting import stylize"),
        ("recipe", "import parallel_nst"),
        ("networks.discriminators", "from ..painting.gatys.objective import minimise"),
        ("painting.stylize", "import ray"),
        ("workers.opening", "from ray.util import placement_group"),
        ("jobs.batch.job", "import typer"),
        ("web.server", "from rich.console import Console"),
        ("painting.stylize", "print('step')"),
        ("brand_new", ""),
    ],
)
def test_a_fault_is_found(module: str, source: str) -> None:
    assert faults(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("painting.stylize", "from .backbones.base import Backbone\nfrom ..recipe import Recipe"),
        ("workers.ray.pool", "import ray"),
        ("cli.main", "import typer\nfrom parallel_nst.painting import stylize\nprint()"),
        ("painting.stylize", "from math import sqrt\nfrom printing import print_all\nprint_all()"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_a_circle_is_found() -> None:
    assert circle("a", [("a.b", "a.c.d"), ("a.c.e", "a.b")])
    assert circle("a", [("a.b", "a.c.d"), ("a.c.e", "a.f"), ("x", "a.b"), ("a.b", "x")]) is None


def test_import_is_light() -> None:
    source = "import sys, parallel_nst; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert "parallel_nst" in loaded
    assert loaded & HEAVY == set()
