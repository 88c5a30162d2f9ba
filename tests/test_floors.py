"""Who may import whom: every module stands on a floor and imports only from floors strictly below its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

# Bottom to top; decimals are steps within a floor. A new module fails the test until it is placed here.
# `__init__` is parallel_nst itself; the `__init__` of a sub-package (its bare name) runs before any of its
# modules, so it stands at the bottom. A pattern serves modules that do not import one another.
FLOORS = {
    0.0: "recipe color errors interrupt networks.backbones networks.moments networks.discriminators"
    " cluster formats jobs networks training web",
    0.05: "vectors",
    0.1: "tiles optimizers snapshots formats.aside formats.exif formats.icc formats.raster",
    0.15: "networks.convolutions",
    0.2: "losses networks.generators formats.pillow",
    0.25: "networks.profile",
    0.3: "networks.cyclegan networks.feedforward networks.generator_tiles networks.microast formats.png formats.tiff",
    0.4: "networks.generator_formats formats.output",
    0.5: "images",
    1.0: "gatys networks.checkpoints networks.weight_files training.datasets training.objective training.place",
    1.1: "networks.generator_files networks.generator_runs training.checkpoints training.distributed training.records",
    1.2: "networks.generator_registry training.cyclegan training.feedforward",
    1.3: "training.presets",
    2.0: "workers training.fit",
    2.1: "planning threads training.distill",
    2.2: "tasks",
    2.5: "scales cluster.actors cluster.mailbox cluster.objects cluster.ray_cluster",
    3.0: "exact independent forecast cluster.*",
    3.5: "stages",
    4.0: "stylize pools",
    4.5: "jobs.machine",
    4.6: "jobs.inputs",
    4.7: "jobs.manifest",
    4.8: "jobs.decisions",
    4.9: "jobs.painters",
    4.95: "jobs.models",
    5.0: "jobs.* web.*",
    5.1: "jobs.file_tasks jobs.compare jobs.compare_tables jobs.compare_plot jobs.training",
    5.2: "jobs.folder jobs.compare_page",
    5.3: "jobs.compare_files",
    5.5: "__init__",
    6.0: "cli_options cli_progress",
    6.05: "cli_* cli.*",
    6.1: "cli",
    6.2: "__main__",
}
HOMES = {"ray": "cluster.*", "typer": "cli*", "rich": "cli*"}  # library -> the modules that may know it
PRINTERS = "cli*"
HEAVY = {"ray", "typer", "rich", "torch", "cv2", "skimage"}  # not loaded by a bare `import parallel_nst`

ROOT = Path(__file__).parents[1]
PLACES = {pattern: floor for floor, patterns in FLOORS.items() for pattern in patterns.split()}


def name_of(path: Path) -> str:
    """A module's name as the table has it: dotted, without the package's own name."""
    parts = path.relative_to(ROOT / "parallel_nst").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in sorted((ROOT / "parallel_nst").rglob("*.py"))}


def floor_of(module: str) -> float | None:
    """The floor of a module by its name, or else by the first pattern that fits."""
    if module in PLACES:
        return PLACES[module]
    return next((floor for pattern, floor in PLACES.items() if fnmatchcase(module, pattern)), None)


def names_imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of all that is imported anywhere in a module of `package`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def inner(name: str) -> str:
    """The module that a full dotted name lies in: `parallel_nst.recipe.Recipe` -> `recipe`."""
    parts = name.split(".")[1:]
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in MODULES), "__init__")


def faults(module: str, source: str, is_package: bool = False) -> list[str]:
    """What the rules above have against a module of this name with this source."""
    tree = ast.parse(source)
    package = ".".join(["parallel_nst", *(module.split(".") if is_package else module.split(".")[:-1])])
    found = []
    own = floor_of(module)
    if own is None:
        return [f"{module} stands on no floor: place it in FLOORS"]
    for line, name in names_imported(tree, package):
        top = name.split(".")[0]
        if top == "parallel_nst":
            theirs = floor_of(inner(name))
            if theirs is None or theirs >= own:
                found.append(f"{module}:{line} (floor {own}) imports {name} (floor {theirs})")
        elif not fnmatchcase(module, HOMES.get(top, "*")):
            found.append(f"{module}:{line} imports {top}, which only {HOMES[top]} may")
    if not fnmatchcase(module, PRINTERS):
        found += [
            f"{module}:{node.lineno} prints"
            for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        ]
    return found


@pytest.mark.parametrize("module", MODULES)
def test_module_keeps_to_its_floor(module: str) -> None:
    path = MODULES[module]
    is_package = path.name == "__init__.py" and module != "__init__"
    assert faults(module, path.read_text(encoding="utf-8"), is_package) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("recipe", "import parallel_nst.stylize"),
        ("recipe", "from parallel_nst import stylize"),
        ("recipe", "from parallel_nst.stylize import stylize"),
        ("recipe", "from . import stylize"),
        ("recipe", "from .stylize import stylize as paint"),
        ("recipe", "def late():\n    from parallel_nst import stylize"),
        ("recipe", "import parallel_nst"),
        ("networks.backbones", "from ..gatys import minimise"),
        ("networks.backbones", "from . import checkpoints"),
        ("exact", "from parallel_nst.cluster import ray_pool"),  # its own floor is not below it
        ("stylize", "import ray"),
        ("pools", "from ray.util import placement_group"),
        ("jobs.folder", "import typer"),
        ("web.server", "from rich.console import Console"),
        ("gatys", "print('step')"),
        ("brand_new", ""),
    ],
)
def test_a_fault_is_found(module: str, source: str) -> None:
    assert faults(module, source) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("networks.checkpoints", "from .backbones import Backbone\nfrom ..recipe import Recipe"),
        ("cluster.ray_pool", "import ray"),
        ("cli", "import typer\nfrom parallel_nst import stylize\nprint()"),
        ("cli_jobs", "import parallel_nst"),
        ("gatys", "from math import sqrt\nfrom printing import print_all\nprint_all()"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert faults(module, source) == []


def test_import_is_light() -> None:
    source = "import sys, parallel_nst; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True, cwd=ROOT)
    loaded = set(run.stdout.split())
    assert "parallel_nst" in loaded
    assert loaded & HEAVY == set()
