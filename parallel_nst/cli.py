"""The command `pnst`: typer functions of a few lines over functions that can be called from Python.

Options that describe a stylisation are made from the fields of `Recipe`; their defaults and helps stand there.
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()  # before the imports below, which are part of the start-up that a run reports

import contextlib  # noqa: E402
import inspect  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from collections.abc import Callable, Iterator, Mapping  # noqa: E402
from dataclasses import Field, asdict, dataclass, fields, replace  # noqa: E402
from functools import partial  # noqa: E402
from importlib import resources, util  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING, Annotated, Any, NoReturn  # noqa: E402

import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn  # noqa: E402

from parallel_nst.recipe import Recipe, TilingSpec  # noqa: E402

if TYPE_CHECKING:  # PyTorch takes seconds to load: not for a help text, nor before Ctrl-C is heard
    from parallel_nst.jobs.picture import PictureReport
    from parallel_nst.stylize import OnStatus, Status

PLAIN_SECONDS = 10.0  # between two lines of progress where there is no terminal to draw a bar on
STOPPED = 130  # exit code after Ctrl-C
STYLES = ("swirls", "embers", "garden")  # paintings of this package
OPTION_TYPES = {"int": int, "float": float}

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Neural style transfer in tiles, on the cores of this machine or on a Ray cluster.",
)


@dataclass(frozen=True)
class Flags:
    """Options of a command that are not part of the recipe."""

    content: Path | None
    style: Path | None
    output: Path | None
    weights: Path | None
    recipe: Path | None
    save_recipe: Path | None
    quality: int
    max_pixels: int | None
    quiet: bool
    json: bool
    workers: int | None = 1
    address: str | None = None


def number_option(kind: type[int] | type[float], **settings: Any) -> Any:
    """An option for a number. What is none comes through as text, for a check that says what is allowed."""

    def read(text: str) -> int | float | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return typer.Option(parser=read, metavar="INTEGER" if kind is int else "FLOAT", **settings)


FLAGS: dict[str, Any] = {
    "content": (Path | None, typer.Option(help="Picture to paint.", show_default="a bundled photograph")),
    "style": (
        Path | None,
        typer.Option(help=f"Picture to paint it like, or a bundled one: {', '.join(STYLES)}.", show_default=STYLES[0]),
    ),
    "output": (
        Path | None,
        typer.Option(help="Where to write: PNG, JPEG, TIFF, WebP or BMP.", show_default="CONTENT-STYLE.png, here"),
    ),
    "weights": (Path | None, typer.Option(help="File with the backbone's weights.")),
    "recipe": (Path | None, typer.Option(help="TOML file of settings; options given beside it win.")),
    "save_recipe": (Path | None, typer.Option(help="Write the settings of this run as TOML.")),
    "quality": (int, number_option(int, help="Of JPEG and WebP.")),
    "max_pixels": (int | None, number_option(int, help="Accept input pictures up to so many px.")),
    "quiet": (bool, typer.Option("--quiet", help="Print nothing but errors.")),
    "json": (bool, typer.Option("--json", help="Print the summary as one JSON object.")),
}
TILED_FLAGS: dict[str, Any] = {
    "workers": (int | None, number_option(int, help="Workers at most.", show_default="one for each core or GPU")),
    "address": (
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray cluster, auto or host:port.", show_default="a local Ray for this run"
        ),
    ),
}
FLAG_BOUNDS = {"quality": (1, 100), "max_pixels": (1, None), "workers": (1, None)}
FLAG_DEFAULTS = {"quality": 95, "quiet": False, "json": False}
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


def option_fields(*, tiled: bool) -> list[Field[Any]]:
    """The fields that are options: those with a help text."""
    records = (Recipe, TilingSpec) if tiled else (Recipe,)
    return [spec for record in records for spec in fields(record) if "help" in spec.metadata]


def recipe_command(*, tiled: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command that takes `**options` the parameters of the recipe and the flags."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        flags = {**FLAGS, **TILED_FLAGS} if tiled else FLAGS
        parameters = [keyword(n, kind, option, FLAG_DEFAULTS.get(n)) for n, (kind, option) in flags.items()]
        parameters += [recipe_parameter(spec) for spec in option_fields(tiled=tiled)]
        for name in LAYER_FLAGS:
            help = f"Layers of the {name.split('_')[0]} loss, such as relu1_1=1,relu3_1=0.5."
            parameters.append(keyword(name, str | None, typer.Option(help=help, show_default="the backbone's"), None))
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


@app.command("run")
@recipe_command(tiled=False)
def run_command(**options: Any) -> None:
    """Stylise a picture in one piece, in this process."""
    from parallel_nst.jobs.picture import untiled

    flags, recipe = parsed(options)
    stylize_and_report(flags, untiled(recipe))


@app.command("tile-run")
@recipe_command(tiled=True)
def tile_run_command(**options: Any) -> None:
    """Stylise a picture in overlapping tiles, several at a time."""
    flags, recipe = parsed(options)
    stylize_and_report(flags, recipe)


def parsed(options: Mapping[str, Any]) -> tuple[Flags, Recipe]:
    """Flags and recipe; a wrong value is a usage error."""
    flags = Flags(**{spec.name: options[spec.name] for spec in fields(Flags) if spec.name in options})
    given = {key: value for key, value in options.items() if value is not None}
    try:
        check_flags(flags)
        return flags, merged(Recipe.load(flags.recipe) if flags.recipe else Recipe(), given)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def check_flags(flags: Flags) -> None:
    """Raise ValueError for a number that is none or out of bounds."""
    for name, (least, most) in FLAG_BOUNDS.items():
        value = getattr(flags, name)
        fits = isinstance(value, int) and value >= least and (most is None or value <= most)
        if value is not None and not fits:
            allowed = f"of at least {least}" if most is None else f"from {least} to {most}"
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


def stylize_and_report(flags: Flags, recipe: Recipe) -> None:
    """One picture, with progress on stderr and the summary on stdout."""
    from parallel_nst.jobs.picture import PictureJob, stylize_file

    content, style = flags.content or bundled_content(), chosen_style(flags.style)
    job = PictureJob(
        content=content,
        style=style,
        output=flags.output or Path(f"{content.stem}-{style.stem}.png"),
        recipe=recipe,
        weights=flags.weights,
        workers=flags.workers,
        address=flags.address or None,
        max_pixels=flags.max_pixels,
        quality=flags.quality,
    )
    if flags.save_recipe:
        write_recipe(flags.save_recipe, recipe)
    stdout = sys.stdout
    # Ray reports the death of a worker on standard output, where only the summary belongs.
    with contextlib.redirect_stdout(sys.stderr), progress(quiet=flags.quiet) as (notify, on_status):
        report = stylize_file(job, notify, on_status, BEGAN)
    if flags.json:
        print(json.dumps({**asdict(report), "seconds": report.seconds, "recipe": asdict(recipe)}), file=stdout)
    elif not flags.quiet:
        print(summary(report), file=stdout)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write the settings; ValueError when that cannot be, or when the name is not one of settings."""
    if path.suffix != ".toml":  # a slip would cost a picture
        raise ValueError(f"save_recipe is {str(path)!r}; give a name that ends in .toml")
    try:
        path.write_text(recipe.to_toml(), encoding="utf-8")
    except OSError as error:
        reason = f"settings not written ({error.strerror})"
        raise ValueError(f"{path}: {reason}; give a name in a folder that exists") from None


def bundled_content() -> Path:
    """A photograph from scikit-image's wheel, found without importing scikit-image."""
    spec = util.find_spec("skimage")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "data" / "coffee.png"


def bundled_style(name: str = STYLES[0]) -> Path:
    """A painting of this package."""
    return Path(str(resources.files("parallel_nst") / "styles" / f"{name}.jpg"))


def chosen_style(path: Path | None) -> Path:
    """The style image that an option means: a file before a bundled painting of that name."""
    name = str(path or STYLES[0])
    return bundled_style(name) if name in STYLES and not Path(name).exists() else Path(name)


def summary(report: PictureReport) -> str:
    """One line."""
    tiles = f"{report.tiles} tile{'s' * (report.tiles != 1)}"
    workers = (
        f"{report.workers} worker{'s' * (report.workers != 1)} x {report.threads} thread{'s' * (report.threads != 1)}"
    )
    seam = "" if report.step_ratio is None else f", border step ratio {report.step_ratio:.2f}"
    parts = ", ".join(
        f"{name.replace('startup', 'start-up')} {getattr(report, name):.1f}"
        for name in ("startup", "compute", "blend", "write", "shutdown")
    )
    return (
        f"{report.output}: {report.width}x{report.height} px, {tiles}, {workers}, {report.seconds:.1f} s ({parts}), "
        f"loss {report.loss:.4f}{seam}"
    )


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[tuple[Callable[[str], None], OnStatus | None]]:
    """A way to tell the user a line and one to show how far the run is: a bar on a terminal, a line now and then
    elsewhere, nothing when quiet."""
    console = Console(stderr=True)
    if quiet:
        yield (lambda line: None), None
    elif not console.is_terminal:
        yield (lambda line: print(f"pnst: {line}", file=sys.stderr)), plain_progress()
    else:
        columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task("starting", total=1.0)

            def show(status: Status) -> None:
                bar.update(task, completed=status.share, description=describe(status))

            yield (lambda line: console.print(f"pnst: {line}", markup=False, highlight=False)), show


def describe(status: Status) -> str:
    """Scale, tiles and steps done, loss."""
    return (
        f"scale {status.scale}/{status.scales}  tiles {status.tiles_done}/{status.tiles}  "
        f"step {status.step}/{status.steps}  loss {status.loss:.4f}"
    )


def plain_progress() -> OnStatus:
    """Prints a line every PLAIN_SECONDS, with the time left."""
    began = said = time.perf_counter()

    def show(status: Status) -> None:
        nonlocal said
        now = time.perf_counter()
        if now - said >= PLAIN_SECONDS:
            said = now
            left = (now - began) * (1 / status.share - 1)
            print(f"{status.share:4.0%}  {describe(status)}  {left:.0f} s left", file=sys.stderr)

    return show


def main() -> None:
    """Run the command; a user's mistake is one line on stderr and exit code 2 (usage) or 1, Ctrl-C is 130."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # Typer keeps Ctrl-C to itself
            fail("stopped", STOPPED)
    except typer.TyperException as error:
        message = error.format_message()
        code = fail(message.removeprefix("Invalid value: "), error.exit_code) if message else error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = fail("stopped", STOPPED)
    except MemoryError:
        code = fail("not enough memory; give a smaller --size or more tiles", 1)
    except (ValueError, OSError, RuntimeError) as error:
        code = fail(message_of(error), 1)
    leave(code or 0)


def leave(code: int) -> NoReturn:
    """Exit. With Ray, at once after Ctrl-C (its exit handlers take a second), and where it is still starting, for which
    a run that failed need not wait."""
    ray_pool = sys.modules.get("parallel_nst.cluster.ray_pool")  # not imported for this: it loads Ray
    if ray_pool is not None and (code == STOPPED or any(cluster.starting for cluster in ray_pool.CLUSTERS)):
        ray_pool.end_program(code)
    sys.exit(code)


def message_of(error: Exception) -> str:
    """An error in one line; the operating system's own with the file it is about."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        hint = "; check the name" if isinstance(error, FileNotFoundError) else ""
        return f"{error.filename}: {error.strerror}{hint}"
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int) -> int:
    """Say why on stderr."""
    print(f"pnst: {message}", file=sys.stderr)
    return code
