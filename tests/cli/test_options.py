"""Options are the fields of records: each is written once, what has no effect is refused, what is typed wins."""

from __future__ import annotations

import ast
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import typer
from typer.main import get_command

from parallel_nst import cli as room
from parallel_nst.cli.main import app
from parallel_nst.cli.options import (
    Option,
    RecipeFiles,
    Talk,
    default_text,
    from_environment,
    made_from,
    metavar_of,
    options_of,
)
from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.jobs.json_text import json_text
from parallel_nst.jobs.requests.batch import FolderJob
from parallel_nst.jobs.requests.cluster import CheckJob, StatusJob
from parallel_nst.jobs.requests.compare import CompareJob
from parallel_nst.jobs.requests.picture import PictureJob
from parallel_nst.jobs.requests.plan import PlanJob
from parallel_nst.jobs.requests.profile import ProfileJob
from parallel_nst.jobs.requests.sweep import SweepJob
from parallel_nst.jobs.requests.train import CycleMaterial, FeedforwardMaterial, TrainJob, TrainLength
from parallel_nst.recipe import Recipe, TilingSpec
from parallel_nst.recipe.knobs import REQUIRED, check_bounds, knob
from parallel_nst.training.settings import CycleSettings, FeedforwardSettings
from parallel_nst.web.settings import ServeSettings

RECORDS: dict[str, tuple[list[Any], Mapping[str, Any]]] = {
    "run": ([PictureJob], {}),
    "tile-run": ([PictureJob], {}),
    "batch": ([FolderJob], {}),
    "plan": ([PlanJob], {}),
    "compare": ([CompareJob], {}),
    "sweep": ([SweepJob], {}),
    "profile": ([ProfileJob], {}),
    "serve": ([ServeSettings], {}),
    "cluster check": ([CheckJob], {}),
    "cluster status": ([StatusJob], {}),
    "train feedforward": ([TrainJob, FeedforwardMaterial, TrainLength], {"objective": FeedforwardSettings}),
    "train cyclegan": ([TrainJob, CycleMaterial, TrainLength], {"objective": CycleSettings}),
}


def options_for(name: str) -> list[Option]:
    """The options that the records of a command have."""
    records, kinds = RECORDS[name]
    without = ("recipe.size",) if name == "plan" else ()  # it has a size of its own
    return [option for record in records for option in options_of(record, without, kinds)]


def commands() -> dict[str, Any]:
    """Every command by its full name."""
    found: dict[str, Any] = {}

    def walk(name: str, command: Any) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        for part, one in (inner or {}).items():
            walk(f"{name} {part}".strip(), one)

    walk("", get_command(app))
    return found


COMMANDS = commands()


# Written once


def test_all_commands_are_looked_at() -> None:
    models = {f"models {name}" for name in ("list", "fetch", "inspect", "convert")}
    assert set(COMMANDS) == {*RECORDS, *models}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_every_option_has_a_help(name: str) -> None:
    command = COMMANDS[name]
    assert command.help and command.help.endswith(".")
    assert command.params
    for param in command.params:
        assert param.help and param.help[0].isupper() and param.help.endswith("."), (name, param.name)


@pytest.mark.parametrize("name", RECORDS)
def test_options_are_the_fields_of_the_job(name: str) -> None:
    known = {option.name: option for option in options_for(name)}
    own = {"markdown", "recipe", "preset", "save_recipe", "quiet", "json"}  # of the command line itself
    params = {param.name: param for param in COMMANDS[name].params}
    assert set(params) <= {*known, *own}
    for key in set(params) & set(known):
        assert params[key].help.lower() == f"{known[key].knob.help}.".lower(), key
        assert params[key].required == known[key].required, key


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_the_job_is_an_option(name: str) -> None:
    """But for those that a command leaves out, which are few and named."""
    plain = "style_weight content_weight tv_weight loss_units learning_rate learning_rate_decay init seed targets "
    plain += "style_weights preserve_color"
    left_out = {
        "run": "mode tiles overlap whole targets sync_every workers address in_process workers_per_gpu memory",
        "batch": "mode tiles overlap whole targets sync_every style_weights",
        "plan": plain,
        "compare": "mode style_weights",
        "sweep": "style_weights memory",
        "serve": "memory workers_per_gpu",
        "train cyclegan": "style weights encoder start",
    }
    known = {option.name for option in options_for(name)}
    assert known - {param.name for param in COMMANDS[name].params} == set(left_out.get(name, "").split())


def test_no_option_is_written_outside_the_records() -> None:
    """The package's one maker of options is `cli.options`; the program's --version is no job's."""
    assert room.__file__
    makers = {"options.py", "main.py"}
    for path in Path(room.__file__).parent.glob("*.py"):
        names = {node.attr for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)}
        assert path.name in makers or not names & {"Option", "Argument"}, path.name


def test_helps_do_without_pytorch_and_ray() -> None:
    source = (
        "import sys\nfrom typer.main import get_command\nfrom parallel_nst.cli.main import app\n"
        "assert len(get_command(app).commands) > 5\nprint('torch' in sys.modules, 'ray' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", source], check=True, capture_output=True, text=True)
    assert run.stdout.split() == ["False", "False"]


# From a field to an option


@dataclass(frozen=True)
class Inner:
    kind: Literal["round", "square"] = knob("round", "shape of it", "Look")
    edge: int = knob(3, "length of an edge", "Look", least=1, most=9, only_with=("kind", ("square",)))
    width: float = knob(0.5, "how wide", "Look", above=0, flags=("--w", "--inner-width"))

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class Outer:
    name: str = knob(REQUIRED, "what it is called", "Pictures", argument=True)
    inner: Inner = field(default_factory=Inner)
    marks: tuple[str, ...] = knob((), "marks on it", "Look")
    plain: bool = knob(False, "without ornament", "Output")
    bright: bool = knob(True, "in the dark", "Output", flags=("--dark",))
    hidden: int = 7

    def __post_init__(self) -> None:
        check_bounds(self)


@pytest.fixture
def outer() -> Callable[..., Outer]:
    """The record that arguments make."""
    made: list[Outer] = []
    tool = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @tool.command()
    @made_from(bases=lambda given: {})
    def command(outer: Outer) -> None:
        made.append(outer)

    def call(*arguments: object) -> Outer:
        tool(list(map(str, arguments)), standalone_mode=False)
        return made[-1]

    return call


def test_nothing_given_gives_the_defaults(outer: Callable[..., Outer]) -> None:
    assert outer("x") == Outer("x")


def test_what_is_given_comes_to_its_place(outer: Callable[..., Outer]) -> None:
    found = outer("x", "--kind", "square", "--edge", 4, "--w", 2, "--marks", "a", "--marks", "b", "--plain", "--dark")
    assert found == Outer("x", Inner("square", 4, 2.0), ("a", "b"), True, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--kind", "flat"), "kind is 'flat'; allowed: round, square"),
        (("--kind", "square", "--edge", "10"), "edge is 10; give a whole number from 1 to 9"),
        (("--kind", "square", "--edge", "1.5"), "edge is '1.5'; give a whole number from 1 to 9"),
        (("--inner-width", "0"), "width is 0.0; give a number above 0"),
        (("--inner-width", "nan"), "width is nan; give a number above 0"),
        (("--edge", "4"), "--edge has no effect with --kind round; give --kind square, or leave it out"),
    ],
)
def test_a_mistake_is_one_line(outer: Callable[..., Outer], arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        outer("x", *arguments)
    assert caught.value.message == message


def test_what_a_help_page_says_of_a_field() -> None:
    found = {option.name: option for option in options_of(Outer)}
    assert [*found] == ["name", "kind", "edge", "inner_width", "marks", "plain", "dark"]
    assert [metavar_of(found[name]) for name in ("kind", "edge", "inner_width", "name")] == [
        "round|square",
        "INTEGER 1-9",
        "FLOAT>0",
        "NAME",
    ]
    assert [default_text(found[name]) for name in ("kind", "edge", "name")] == ["round", "3", None]


def test_a_choice_is_completed_by_the_shell() -> None:
    (mode,) = (param for param in COMMANDS["tile-run"].params if param.name == "mode")
    (style,) = (param for param in COMMANDS["tile-run"].params if param.name == "style")
    context = typer.Context(COMMANDS["tile-run"])
    assert [item.value for item in mode.shell_complete(context, "ind")] == ["independent"]
    assert style.shell_complete(context, "sw") == []  # the shell's own completion of files


def test_fields_left_out_have_no_options() -> None:
    names = {option.name for option in options_of(PictureJob, ("tiling", "recipe.size"))}
    assert "tiles" not in names and "size" not in names and "style_size" in names


# No option without effect


NO_EFFECT = [
    (("--overlap", "8"), "--overlap has no effect with --mode exact; give --mode independent, or leave it out"),
    (("--targets", "plain"), "--targets has no effect with --mode exact; give --mode independent, or leave it out"),
    (("--sync-every", "3"), "--sync-every has no effect with --mode exact; give --mode independent, or leave it out"),
    (("--learning-rate", "1"), "--learning-rate has no effect with --optimizer lbfgs; give --optimizer adam, or"),
    (("--optimizer", "adam", "--history", "3"), "--history has no effect with --optimizer adam; give --optimizer lb"),
    (("--seed", "3"), "--seed has no effect with --init content; give --init noise, or leave it out"),
    (("--content", "a.png", "--content", "b.png"), "--content is given 2 times, as a.png and b.png; give it once"),
]


@pytest.fixture
def tile_run() -> Callable[..., PictureJob]:
    """The job that options of a run in tiles mean."""
    jobs: list[PictureJob] = []
    tool = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

    @tool.command()
    @made_from()
    def command(job: PictureJob, files: RecipeFiles, talk: Talk) -> None:
        jobs.append(job)

    def call(*arguments: object) -> PictureJob:
        tool(list(map(str, arguments)), standalone_mode=False)
        return jobs[-1]

    return call


@pytest.mark.parametrize(("arguments", "message"), NO_EFFECT)
def test_an_option_without_effect_is_refused(
    tile_run: Callable[..., PictureJob], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        tile_run(*arguments)
    assert caught.value.message.startswith(message)


def test_an_option_with_effect_is_taken(tile_run: Callable[..., PictureJob]) -> None:
    tiling = tile_run("--mode", "independent", "--overlap", 8, "--targets", "plain", "--sync-every", 3).recipe.tiling
    assert (tiling.overlap, tiling.targets, tiling.sync_every) == (8, "plain", 3)
    recipe = tile_run("--optimizer", "adam", "--learning-rate", 0.5, "--init", "noise", "--seed", 3).recipe
    assert (recipe.learning_rate, recipe.seed) == (0.5, 3)


def test_every_condition_names_a_field_and_values_that_it_can_have() -> None:
    for record in (Recipe, TilingSpec, FeedforwardSettings, CycleSettings):
        found = {option.path[-1]: option for option in options_of(record) if len(option.path) == 1}
        conditions = [option.knob.only_with for option in found.values() if option.knob.only_with]
        for name, values in conditions:
            for value in values:
                record(**{name: value})  # a value that there is not would be refused


def test_a_job_has_its_defaults_from_its_record(tile_run: Callable[..., PictureJob]) -> None:
    assert tile_run() == PictureJob()
    assert (PictureJob().content.name, PictureJob().output) == ("coffee.png", Path("coffee-swirls.png"))


# What is typed, the environment, a file


def of_environment(**given: Any) -> dict[str, Any]:
    return from_environment([*options_of(PictureJob)], given)


def test_what_is_typed_beats_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    assert of_environment() == {"address": "head:1"}
    assert of_environment(address="other:2") == {"address": "other:2"}
    assert of_environment(in_process=True) == {"in_process": True}
    assert of_environment(address="") == {}
    assert of_environment(address="other:2", in_process=True) == {"address": "other:2", "in_process": True}


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "")
    assert of_environment() == {}
    monkeypatch.delenv("RAY_ADDRESS")
    assert of_environment(workers=2) == {"workers": 2}


def test_a_plan_for_memory_that_is_typed_asks_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:1")
    options = [*options_of(PlanJob)]
    assert from_environment(options, {"memory": "4GiB"}) == {"memory": "4GiB"}
    assert from_environment(options, {"workers": 4}) == {"workers": 4, "address": "head:1"}


def test_variables_are_read_for_every_command_that_takes_an_address() -> None:
    for name in RECORDS:
        for option in (option for option in options_for(name) if option.name == "address"):
            assert option.knob.variable == "RAY_ADDRESS", name


def test_what_is_typed_beats_a_file_of_settings(tile_run: Callable[..., PictureJob], tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('steps = 3\ntv_weight = 0.25\n[tiling]\nmode = "independent"\noverlap = 8\n', encoding="utf-8")
    recipe = tile_run("--recipe", path, "--steps", 5, "--overlap", 9).recipe
    assert (recipe.steps, recipe.tv_weight, recipe.tiling.mode, recipe.tiling.overlap) == (5, 0.25, "independent", 9)
    with pytest.raises(typer.BadParameter, match="has no effect with --mode exact"):
        tile_run("--recipe", path, "--overlap", 9, "--mode", "exact")
    assert tile_run("--recipe", path, "--mode", "exact").recipe.tiling.overlap == 8  # nobody typed it


# JSON


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--preset", "monet"), "preset is 'monet'; known: gatys2016"),
        (("--preset", "gatys2016", "--recipe", "mine.toml"), "--recipe and --preset exclude each other"),
    ],
)
def test_a_preset_that_cannot_be_is_one_line(
    tile_run: Callable[..., PictureJob], arguments: tuple[str, ...], message: str
) -> None:
    with pytest.raises(typer.BadParameter, match=message):
        tile_run(*arguments)


def test_what_is_typed_beats_a_preset(tile_run: Callable[..., PictureJob]) -> None:
    recipe = tile_run("--preset", "crowsonkb", "--steps", "7").recipe
    assert (recipe.steps, recipe.optimizer, recipe.tv_weight) == (7, "adam", 2.0)


def test_json_has_no_number_that_json_does_not_know() -> None:
    text = json_text({"a": math.nan, "b": [math.inf, 1.5], "c": (-math.inf,), "d": Recipe()})
    found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert (found["a"], found["b"], found["c"]) == (None, [None, 1.5], [None])
    assert found["d"]["tiling"]["mode"] == "exact"


def test_a_job_checks_itself_from_python_too() -> None:
    for make in (lambda: PictureJob(quality=0), lambda: PictureJob(workers=0), lambda: PlanJob(Size(1, 1), workers=-1)):
        with pytest.raises(BadInput, match=r"give a whole number (of|from)"):
            make()


def test_options_of_one_command_have_names_of_their_own() -> None:
    for name in RECORDS:
        names = [option.name for option in options_for(name)]
        assert len(names) == len(set(names)), name


def test_an_options_flag_is_what_an_error_calls_it() -> None:
    (rate,) = (o for o in options_of(FeedforwardSettings) if o.name == "learning_rate")
    assert isinstance(rate, Option) and (rate.flag, rate.flags) == ("--learning-rate", ("--lr", "--learning-rate"))
