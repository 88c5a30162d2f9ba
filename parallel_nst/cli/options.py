"""Options of the commands: flags, and those made from the fields of `Recipe`; and what they say, as records."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from parallel_nst.files.bundled import STYLES, bundled_style
from parallel_nst.files.whole_files import write_whole
from parallel_nst.recipe import Recipe, TilingSpec

OPTION_TYPES = {"int": int, "float": float}
REQUIRED = inspect.Parameter.empty  # as the default of a flag

Record = TypeVar("Record")


@dataclass(frozen=True)
class Flags:
    """Options of `run` and `tile-run` that are not part of the recipe."""

    content: Path | None
    style: Path | None
    output: Path | None
    weights: Path | None
    recipe: Path | None
    save_recipe: Path | None
    quality: int
    max_pixels: int | None
    preview_every: int | None
    checkpoint_every: int | None
    resume: bool
    quiet: bool
    json: bool
    workers: int | None = 1
    address: str | None = None
    memory: str | None = None
    in_process: bool = False


@dataclass(frozen=True)
class Flag:
    """One option as typer reads it, with its default (None: not given) and, for a whole number, its bounds."""

    kind: Any
    option: Any
    default: Any = None
    least: int | None = None
    most: int | None = None


def number_option(kind: type[int] | type[float], **settings: Any) -> Any:
    """An option for a number. What is none comes through as text, for a check that says what is allowed."""

    def read(text: str) -> int | float | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return typer.Option(parser=read, metavar="INTEGER" if kind is int else "FLOAT", **settings)


def whole_number(help: str, *, default: int | None = None, most: int | None = None, **settings: Any) -> Flag:
    """A flag for a whole number of at least 1."""
    return Flag(int | None, number_option(int, help=help, **settings), default, least=1, most=most)


def switch(name: str, help: str) -> Flag:
    """A flag that is off unless given."""
    return Flag(bool, typer.Option(name, help=help), default=False)


SOURCE_FLAGS = {
    "weights": Flag(Path | None, typer.Option(help="File with the backbone's weights.")),
    "recipe": Flag(Path | None, typer.Option(help="TOML file of settings; options given beside it win.")),
    "max_pixels": whole_number("Accept input pictures up to so many px."),
}
TALK_FLAGS = {
    "quiet": switch("--quiet", "Print nothing but errors."),
    "json": switch("--json", "Print the summary as one JSON object."),
}
RUN_FLAGS = {
    "content": Flag(Path | None, typer.Option(help="Picture to paint.", show_default="a bundled photograph")),
    "style": Flag(
        Path | None,
        typer.Option(help=f"Picture to paint it like, or a bundled one: {', '.join(STYLES)}.", show_default=STYLES[0]),
    ),
    "output": Flag(
        Path | None,
        typer.Option(help="Where to write: PNG, JPEG, TIFF, WebP or BMP.", show_default="CONTENT-STYLE.png, here"),
    ),
    "save_recipe": Flag(Path | None, typer.Option(help="Write the settings of this run as TOML.")),
    "quality": whole_number("Of JPEG and WebP.", default=95, most=100),
    **SOURCE_FLAGS,
    "preview_every": whole_number("Write a small picture beside the output every so many steps."),
    "checkpoint_every": whole_number("Save the state of the run beside the output every so many steps."),
    "resume": switch("--resume", "Go on from the last checkpoint of a run that was stopped."),
    **TALK_FLAGS,
}
TILE_RUN_FLAGS = {
    **RUN_FLAGS,
    "workers": whole_number("Workers at most.", show_default="one for each core or GPU"),
    "address": Flag(
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray cluster, auto or host:port.", show_default="a local Ray for this run"
        ),
    ),
    "in_process": switch(
        "--in-process", "Workers are threads of this process: sooner there than Ray's, but none can be replaced."
    ),
    "memory": Flag(
        str | None,
        typer.Option(
            help="Memory to stay within, such as 4GiB; on a cluster, of each worker.", show_default="what is free"
        ),
    ),
}
LAYER_FLAGS = ("style_layers", "content_layers")


def recipe_parameter(spec: Field[Any]) -> inspect.Parameter:
    """The option of a recipe's field. None means not given, so that a recipe file can decide."""
    kind = None if spec.name == "size" else OPTION_TYPES.get(str(spec.type))
    make = partial(number_option, kind) if kind else typer.Option
    option = make(help=spec.metadata["help"].capitalize() + ".", show_default=str(spec.default))
    return keyword(spec.name, (kind or str) | None, option, None)


def keyword(name: str, kind: Any, option: Any, default: Any) -> inspect.Parameter:
    """A keyword-only parameter as typer reads it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def recipe_command(
    flags: Mapping[str, Flag], records: Sequence[Any] = (Recipe, TilingSpec), without: Sequence[str] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**options` these flags and the fields of the recipe's records as parameters.

    Fields are options when they have a help text and are not named in `without`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        parameters = [keyword(name, flag.kind, flag.option, flag.default) for name, flag in flags.items()]
        specs = [spec for record in records for spec in fields(record) if "help" in spec.metadata]
        parameters += [recipe_parameter(spec) for spec in specs if spec.name not in without]
        for name in LAYER_FLAGS:
            help = f"Layers of the {name.split('_')[0]} loss, such as relu1_1=1,relu3_1=0.5."
            parameters.append(keyword(name, str | None, typer.Option(help=help, show_default="the backbone's"), None))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def parsed(options: Mapping[str, Any], flags: Mapping[str, Flag], record: type[Record]) -> tuple[Record, Recipe]:
    """The flags in their record, and the recipe; a wrong value is a usage error."""
    given = {key: value for key, value in options.items() if value is not None}
    try:
        check_flags(options, flags)
        base = Recipe.load(options["recipe"]) if options["recipe"] else Recipe()
        return record(**{name: options[name] for name in flags}), merged(base, given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def check_flags(options: Mapping[str, Any], flags: Mapping[str, Flag]) -> None:
    """Raise ValueError for a number that is none or out of bounds."""
    for name, flag in flags.items():
        value = options[name]
        if value is None or flag.least is None:
            continue
        if not (isinstance(value, int) and value >= flag.least and (flag.most is None or value <= flag.most)):
            allowed = f"of at least {flag.least}" if flag.most is None else f"from {flag.least} to {flag.most}"
            raise ValueError(f"{name} is {value!r}; give a whole number {allowed}")


def merged(recipe: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe with the options that were given."""
    own = {spec.name: given[spec.name] for spec in fields(Recipe) if "help" in spec.metadata and spec.name in given}
    if "size" in own:
        own["size"] = parse_size(own["size"])
    tiling = {spec.name: given[spec.name] for spec in fields(TilingSpec) if spec.name in given}
    layers = {key.split("_")[0]: parse_layers(given[key]) for key in LAYER_FLAGS if key in given}
    return replace(recipe, **own, tiling=replace(recipe.tiling, **tiling), layers=replace(recipe.layers, **layers))


def parse_size(text: str) -> int:
    """A number of px, or 0 for 'full'."""
    if text == "full":
        return 0
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"size is {text!r}; give a number of px of at least 1, or full")
    return int(text)


def parse_layers(text: str) -> dict[str, float]:
    """'relu1_1=1,relu3_1=0.5' -> weights by layer; a layer without a number has weight 1."""
    weights = {}
    for part in text.split(","):
        name, _, number = part.strip().partition("=")
        try:
            weights[name] = float(number or 1)
        except ValueError:
            raise ValueError(f"layer weight is {part.strip()!r}; give NAME=NUMBER, such as relu1_1=0.5") from None
    return weights


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the settings; ValueError when that cannot be, or when the name is not one of settings."""
    if path.suffix != ".toml":  # a slip would cost a picture
        raise ValueError(f"save_recipe is {str(path)!r}; give a name that ends in .toml")
    try:
        write_whole({path: recipe.to_toml().encode()})
    except OSError as error:
        reason = f"settings not written ({error.strerror})"
        raise ValueError(f"{path}: {reason}; give a name in a folder that exists") from None


def chosen_style(path: Path | None) -> Path:
    """The style image that an option means: a file before a bundled painting of that name."""
    name = str(path or STYLES[0])
    return bundled_style(name) if name in STYLES and not Path(name).is_file() else Path(name)
