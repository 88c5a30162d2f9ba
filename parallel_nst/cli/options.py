"""Commands made from records. This is the one place where options come from.

A command is a function whose parameters are records:

    @made_from(without=("tiling",))
    def run_command(job: PictureJob, files: RecipeFiles, talk: Talk) -> None:

Every field of these records that has a `Knob`, also deep in nested records (job.recipe.tiling.overlap), becomes an
option: `--overlap`, with the help, default, bounds and group that the field says of itself. So a new option is one new
field. What is typed is read as text and put into the records, which say what is wrong with it. What is typed comes
before the environment, that before a file of settings (`--recipe`), that before the defaults.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand

from parallel_nst.errors import BadInput
from parallel_nst.files.whole_files import write_whole
from parallel_nst.painting.presets import PRESETS, preset_recipe
from parallel_nst.recipe import Recipe
from parallel_nst.recipe.knobs import GROUPS, Knob, knob, knob_of, without_none

NUMBERS = {int: "INTEGER", float: "FLOAT"}

Values = Mapping[str, Any]  # what is given, by an option's `Option.name`
Bases = Callable[[Values], Mapping[str, Any]]  # records to begin with, by the name of the field that they stand in


@dataclass(frozen=True)
class RecipeSource:
    """Settings to begin with."""

    recipe: Path | None = knob(None, "TOML file of settings; options given beside it win", "Output")
    preset: str | None = knob(
        None, f"settings of a paper or another tool: {', '.join(PRESETS)}; options given beside it win", metavar="NAME"
    )


@dataclass(frozen=True)
class RecipeFiles(RecipeSource):
    """Settings from and to files."""

    save_recipe: Path | None = knob(None, "write the settings of this run as TOML", "Output")


@dataclass(frozen=True)
class Talk:
    """What a command prints."""

    quiet: bool = knob(False, "print nothing but errors", "Output")
    json: bool = knob(False, "print the summary as one JSON object", "Output")


@dataclass(frozen=True)
class Option:
    """A field as an option. path: of names, from the record to the field. kind: its type without None. shown: what
    stands for the default of all the options of a record, such as "the preset's"."""

    path: tuple[str, ...]
    spec: Field[Any]
    kind: Any
    shown: str | None = None

    @property
    def knob(self) -> Knob:
        found = knob_of(self.spec)
        assert found is not None
        return found

    @property
    def flags(self) -> tuple[str, ...]:
        return self.knob.flags or (f"--{self.spec.name.replace('_', '-')}",)

    @property
    def flag(self) -> str:
        """What an error calls it."""
        return self.knob.metavar or self.spec.name.upper() if self.knob.argument else self.flags[-1]

    @property
    def name(self) -> str:
        """Of the parameter: that of the flag, which is its own where a field's name is not (`style` of the layers)."""
        return self.spec.name if self.knob.argument else self.flags[-1].lstrip("-").replace("-", "_")

    @property
    def required(self) -> bool:
        return self.spec.default is MISSING and self.spec.default_factory is MISSING

    @property
    def several(self) -> bool:
        """Whether it can be given several times, for as many values."""
        return get_origin(self.kind) is tuple and (self.knob.read is None or self.knob.each)

    @property
    def off(self) -> bool:
        """Whether it is a switch that turns something off."""
        return self.kind is bool and self.spec.default is True


def options_of(
    record: Any, without: Sequence[str] = (), kinds: Mapping[str, Any] | None = None, path: tuple[str, ...] = ()
) -> Iterator[Option]:
    """The options of a record and of the records in it. without: names of fields, or fields' paths with dots, that are
    left out with all that is in them. kinds: the record of a field that can hold one of several."""
    hints = get_type_hints(record)
    for spec in fields(record):
        kind, place = (kinds or {}).get(spec.name) or without_none(hints[spec.name]), (*path, spec.name)
        if spec.name in without or ".".join(place) in without:
            continue
        if knob_of(spec):
            yield Option(place, spec, kind, "the preset's" if "preset" in path else None)
        elif is_dataclass(kind):
            yield from options_of(kind, without, kinds, place)


class GroupedCommand(TyperCommand):
    """A command whose `--help` stands in the last group of its help page, not in one of its own before the others."""

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)
        option.rich_help_panel = GROUPS[-1]
        return option


def made_from(
    without: Sequence[str] = (),
    kinds: Mapping[str, Any] | None = None,
    bases: Bases | None = None,
    also: Callable[[Any], Values] = lambda job: {},
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Turn a function of records into one with their options as parameters.

    without, kinds: see `options_of`. bases: the records that stand where a field has no `Knob`; None: a recipe of the
    file that --recipe names. also: of the job, values that fields have beside their own, by name, for what has an
    effect with one of several (see `Knob.only_with`). A parameter `given: Values` is told what was typed.
    """

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(function)
        names = [*inspect.signature(function).parameters]
        records = {name: hints[name] for name in names if name != "given"}
        options = {name: [*options_of(record, without, kinds)] for name, record in records.items()}

        @functools.wraps(function)
        def command(**typed: Any) -> None:
            made = filled(records, options, typed, bases or recipe_base, also)
            function(**{name: made[name] for name in names})

        every = [option for some in options.values() for option in some]
        parameters = [parameter_of(option) for option in sorted(every, key=place_of)]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def place_of(option: Option) -> tuple[int, bool]:
    """Where an option stands on the help page, before the order of its record's fields."""
    return GROUPS.index(option.knob.group), not option.knob.common


def parameter_of(option: Option) -> inspect.Parameter:
    """An option as typer reads it: a text, or nothing where it is not given, so that a file or preset can decide."""
    told = option.knob
    settings: dict[str, Any] = {"help": f"{told.help[:1].upper()}{told.help[1:]}."}
    if not told.argument:  # those have a group of their own
        settings["rich_help_panel"] = told.group
    if option.kind is bool:
        names = [f" /{option.flag}"] if option.off else [*option.flags]
        made: Any = typer.Option(*names, show_default=False, **settings)
        return keyword(option.name, bool | None, made, None)
    kind = Path if option.kind is Path and not told.read else str
    settings |= {"metavar": metavar_of(option)} | completion_of(option)
    default = inspect.Parameter.empty if option.required else None
    if told.once or option.several:
        kind = list[kind]  # type: ignore[valid-type, assignment]
    if told.argument:
        return keyword(option.name, kind, typer.Argument(show_default=False, **settings), default)
    made = typer.Option(*option.flags, show_default=default_text(option) or False, **settings)
    return keyword(option.name, kind if option.required else kind | None, made, default)


def keyword(name: str, kind: Any, made: Any, default: Any) -> inspect.Parameter:
    """A keyword-only parameter as typer reads it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, made])


def metavar_of(option: Option) -> str:
    """What stands for the value on the help page: for a number its bounds, for a choice all there are."""
    told = option.knob
    if told.metavar or told.argument:
        return told.metavar or option.spec.name.upper()
    if choices := choices_of(option):
        return "|".join(choices)
    if option.kind not in NUMBERS:
        return "PATH" if option.kind is Path else "TEXT"
    if told.least is not None and told.most is not None:
        return f"{NUMBERS[option.kind]} {told.least:g}-{told.most:g}"
    least = f">={told.least:g}" if told.least is not None else ""
    return NUMBERS[option.kind] + least + (f">{told.above:g}" if told.above is not None else "")


def choices_of(option: Option) -> list[str]:
    """The values that there are, or nothing where they are not few."""
    return [str(choice) for choice in get_args(option.kind)] if get_origin(option.kind) is Literal else []


def completion_of(option: Option) -> dict[str, Any]:
    """How a shell completes the value: a choice by name; files it completes by itself."""
    choices = choices_of(option)
    if not choices:
        return {}
    return {"autocompletion": lambda incomplete: [choice for choice in choices if choice.startswith(incomplete)]}


def default_text(option: Option) -> str | None:
    """The default as the help page shows it; None for nothing."""
    if option.required:
        return None
    if option.shown or option.knob.shown:
        return option.shown or option.knob.shown
    default = option.spec.default
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return None if default is None or default == "" else str(default)


def filled(
    records: Mapping[str, Any], options: Mapping[str, Sequence[Option]], typed: Values, bases: Bases, also: Any
) -> dict[str, Any]:
    """The records with what was typed, and that itself as `given`; a wrong value is a usage error, in one line."""
    every = [option for some in options.values() for option in some]
    try:
        given = from_environment(every, {o.name: read(o, typed[o.name]) for o in every if was_given(typed[o.name])})
        begin = bases(given)
        made = {name: built(record, options[name], given, begin) for name, record in records.items()}
        for name, some in options.items():
            check_effects(made[name], [option for option in some if option.name in given], also(made[name]))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    return {**made, "given": given}


def was_given(value: Any) -> bool:
    """typer says None, or an empty list of an option that can be given several times, for what was not typed."""
    return value is not None and value != []


def read(option: Option, value: Any) -> Any:
    """The value of what was typed. What should be a number and is none stays a text, for the record to refuse."""
    if option.knob.once:
        if len(value) > 1:
            raise BadInput(
                f"{option.flag} is given {len(value)} times, as {' and '.join(map(str, value))}; give it once"
            )
        value = value[0]
    if option.knob.read:
        return tuple(map(option.knob.read, value)) if option.several else option.knob.read(value)
    if option.kind in NUMBERS:
        try:
            return option.kind(value)
        except ValueError:
            return value
    return tuple(value) if option.several else value


def from_environment(options: Sequence[Option], given: Values) -> dict[str, Any]:
    """What is given, with variables of the environment for what is not, unless something is typed that excludes it.
    An address that is given empty is none."""
    found = dict(given)
    for option in options:
        if option.knob.variable is None:
            continue
        excluded = any(found.get(name) for name in option.knob.yields_to)
        if option.name not in found and not excluded:
            found[option.name] = os.environ.get(option.knob.variable, "")
        if not found.get(option.name):
            found.pop(option.name, None)
    return found


def recipe_base(given: Values) -> Mapping[str, Any]:
    """The recipe that options change: of the file or the preset that is given, or the defaults."""
    path, preset = given.get("recipe"), given.get("preset")
    if path and preset:
        raise BadInput("--recipe and --preset exclude each other; give one of the two")
    if preset:
        return {"recipe": preset_recipe(preset)}
    return {"recipe": Recipe.load(path) if path else Recipe()}


def built(record: Any, options: Sequence[Option], given: Values, bases: Mapping[str, Any]) -> Any:
    """A record with what is given; nested records begin with those of `bases`."""
    tree = branch([(option.path, given[option.name]) for option in options if option.name in given])
    known = {spec.name: spec for spec in fields(record) if knob_of(spec) is None}
    begin = {name: base for name, base in bases.items() if name in known}
    for name, changes in tree.items():
        begin[name] = changes if name not in known else replaced(begin.get(name) or default_of(known[name]), changes)
    return record(**begin)


def branch(leaves: Sequence[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """[(("a", "b"), 1)] -> {"a": {"b": 1}}."""
    tree: dict[str, Any] = {}
    for path, value in leaves:
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree


def replaced(base: Any, changes: Mapping[str, Any]) -> Any:
    """A record with these changes, of nested records too; all of one record at once, since it checks them together."""
    own = {spec.name for spec in fields(base) if knob_of(spec) is not None}
    values = {name: value if name in own else replaced(getattr(base, name), value) for name, value in changes.items()}
    return replace(base, **values)


def default_of(spec: Field[Any]) -> Any:
    """The nested record that a field begins with."""
    assert spec.default_factory is not MISSING
    return spec.default_factory()


def check_effects(record: Any, typed: Sequence[Option], also: Values) -> None:
    """ValueError for an option that was typed and has no effect beside the value that another has."""
    for option in typed:
        if option.knob.only_with is None:
            continue
        name, values = option.knob.only_with
        owner = functools.reduce(getattr, option.path[:-1], record)
        found = also.get(name, (getattr(owner, name),))
        if not set(found) & set(values):
            raise BadInput(without_effect(option, owner, name, values, found))


def without_effect(option: Option, owner: Any, name: str, values: Sequence[Any], found: Sequence[Any]) -> str:
    """In one line: what has no effect, with what it has one, and what to do."""
    (other,) = (Option((name,), spec, type(values[0])) for spec in fields(owner) if spec.name == name)
    if other.off:
        return f"{option.flag} has no effect with {other.flag}; leave one of the two out"
    allowed = " or ".join(f"{other.flag} {value}" for value in values)
    return (
        f"{option.flag} has no effect with {other.flag} {', '.join(map(str, found))}; give {allowed}, or leave it out"
    )


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the settings; ValueError when that cannot be, or when the name is not one of settings."""
    if path.suffix != ".toml":  # a slip would cost a picture
        raise BadInput(f"save_recipe is {str(path)!r}; give a name that ends in .toml")
    try:
        write_whole({path: recipe.to_toml().encode()})
    except OSError as error:
        reason = f"settings not written ({error.strerror})"
        raise BadInput(f"{path}: {reason}; give a name in a folder that exists") from None
