"""`pnst models`: generators by name and by file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from parallel_nst.cli.options import GroupedCommand, made_from
from parallel_nst.errors import BadInput, message_of, printable
from parallel_nst.jobs.json_text import json_text
from parallel_nst.recipe.knobs import REQUIRED, knob

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from parallel_nst.networks.generators.base import Generator
    from parallel_nst.networks.generators.files import GeneratorInfo

STATES = {
    "bundled": "bundled",
    "in cache": "in cache",
    "download": "downloaded on first use",
    "by hand": "download it yourself and pass the file",
}

BACKBONE_STATES = STATES | {"installed": "installed with its package", "by hand": "install its package, or pass a file"}

models_app = typer.Typer(no_args_is_help=True, help="Generators: those there are, and what is in a file.")


@dataclass(frozen=True)
class ListTalk:
    """How models are told."""

    json: bool = knob(False, "print one JSON array", "Output")


@dataclass(frozen=True)
class ListedKind(ListTalk):
    """Which of them."""

    backbones: bool = knob(False, "list the names that --backbone knows, with address, SHA-256 and size", "Network")


@dataclass(frozen=True)
class Wanted:
    """What to fetch."""

    names: tuple[str, ...] = knob(
        REQUIRED, "backbones, or generators that are fetched on first use", "Pictures", metavar="NAME...", argument=True
    )


@dataclass(frozen=True)
class Inspected:
    """What to look into."""

    models: tuple[str, ...] = knob(
        REQUIRED, "files of weights, folders of MicroAST, or names", "Pictures", metavar="FILE...", argument=True
    )


@dataclass(frozen=True)
class Conversion:
    """What to write in this project's own form, and where."""

    model: str = knob(
        REQUIRED, "file of weights, folder of MicroAST, or name", "Pictures", metavar="FILE", argument=True
    )
    out: Path = knob(REQUIRED, "file to write", "Pictures", metavar="OUT.safetensors", argument=True)
    half: bool = knob(False, "in float16: half the size", "Output")

    def __post_init__(self) -> None:
        if self.out.suffix.lower() != ".safetensors" or not self.out.parent.is_dir() or self.out.is_dir():
            raise BadInput(f"{self.out} cannot be written; give a name that ends in .safetensors in a folder there is")


@models_app.command("list", cls=GroupedCommand)
@made_from()
def list_command(talk: ListedKind) -> None:
    """List the names that --model or --backbone knows, and where their files come from."""
    if talk.backbones:
        list_backbones(as_json=talk.json)
        return
    from parallel_nst.networks.generators.registry import named_models

    models = named_models()
    if talk.json:
        print(json_text(models))
        return
    rows = [(model.name, model.about, STATES[model.state], model.address) for model in models]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for *cells, address in rows:
        padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
        print("  ".join((*padded, address)).rstrip())


def list_backbones(*, as_json: bool) -> None:
    """A line for each backbone."""
    from parallel_nst.networks.backbones.registry import named_backbones

    backbones = named_backbones()
    if as_json:
        print(json_text(backbones))
        return
    for one in backbones:
        size, digits = f"{one.megabytes:.1f} MiB", one.sha256[:8]
        print(f"{one.name:12}  {BACKBONE_STATES[one.state]:35}  {size:>10}  {digits}  {one.address}".rstrip())


@models_app.command("fetch", cls=GroupedCommand)
@made_from()
def fetch_command(asked: Wanted) -> None:
    """Download and verify what is named, and say where it is."""
    from parallel_nst.networks.backbones.registry import BACKBONES, weights_file
    from parallel_nst.networks.generators.registry import PUBLISHED, fetched_files

    for name in asked.names:
        if name in BACKBONES:
            print(f"{name}: {weights_file(name)}")
        elif name in PUBLISHED:
            print(f"{name}: {', '.join(map(str, fetched_files(name)))}")
        else:
            raise BadInput(f"name is {name!r}; known: {', '.join([*BACKBONES, *PUBLISHED])}")


@models_app.command("inspect", cls=GroupedCommand)
@made_from()
def inspect_command(asked: Inspected, talk: ListTalk) -> None:
    """Say what files hold: network, sizes, whose form they have."""
    from parallel_nst.networks.backbones.registry import BACKBONES
    from parallel_nst.networks.generators.files import open_generator

    facts, failed = [], False
    for model in asked.models:
        try:
            if model in BACKBONES:
                facts.append(facts_of_backbone(model))
            else:
                facts.append(facts_of(model, *open_generator(model)))
        except (ValueError, OSError) as error:
            failed = True
            print(f"pnst: {message_of(error)}", file=sys.stderr)
    if talk.json:
        print(json_text(facts))
    else:
        print("\n\n".join(as_text(fact) for fact in facts), end="\n" * bool(facts))
    if failed:
        raise typer.Exit(1)


def facts_of(model: str, generator: Generator, info: GeneratorInfo, digest: str) -> dict[str, Any]:
    """What `inspect` says of a generator. stride, reach: px."""
    return {
        "model": model,
        "architecture": info.architecture,
        "source": info.source,
        "parameters": info.parameters,
        "hyperparameters": generator.hyperparameters,
        "stride": generator.stride,
        "reach": generator.reach,
        "takes_style": generator.takes_style,
        "precision": info.precision,
        "digest": digest,
        "notes": list(info.notes),
        "metadata": dict(info.metadata),
    }


def facts_of_backbone(name: str) -> dict[str, Any]:
    """What `inspect` says of a backbone; its file is fetched if need be. margin: of the deepest default layer, px."""
    from parallel_nst.networks.backbones.base import deepest
    from parallel_nst.networks.backbones.loading import build_backbone, load_weights
    from parallel_nst.networks.backbones.registry import backbone_entry, named_backbone

    entry = backbone_entry(name)
    backbone, named = build_backbone(name, load_weights(name)), named_backbone(name, entry)
    layer = deepest(backbone, (*entry.layers.style, *entry.layers.content))
    return {
        "model": name,
        "file": named.place,
        "sha256": named.sha256,
        "parameters": sum(parameter.numel() for parameter in backbone.parameters()),
        "layers": list(backbone.layers),
        "style_layers": dict(entry.layers.style),
        "content_layers": dict(entry.layers.content),
        "stride": layer.stride,
        "margin": layer.margin,
    }


def as_text(facts: dict[str, Any]) -> str:
    """A line for the model, and one for each thing known of it."""
    if "layers" in facts:
        rows = [(key, told(value)) for key, value in facts.items() if key != "model"]
        return "\n".join([facts["model"], *(f"  {key:14}  {text}" for key, text in rows)])
    sizes = ", ".join(f"{name} {json.dumps(value)}" for name, value in facts["hyperparameters"].items())
    lines = {
        "architecture": facts["architecture"],
        "source": facts["source"],
        "parameters": f"{facts['parameters']:,}, {facts['precision']}",
        "sizes": sizes,
        "stride, reach": f"{facts['stride']} px, {facts['reach']} px",
        "style": "any style picture (--style)" if facts["takes_style"] else "its own",
        "digest": facts["digest"],
    }
    rows = [*lines.items(), *(("note", printable(note)) for note in facts["notes"])]
    rows += [(printable(key), printable(text)) for key, text in sorted(facts["metadata"].items())]
    width = max(len(name) for name, _ in rows)
    return "\n".join([printable(facts["model"]), *(f"  {name:{width}}  {text}" for name, text in rows)])


def told(value: Any) -> str:
    """A fact in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {number:g}" for key, number in value.items())
    return " ".join(value) if isinstance(value, list) else f"{value:,}" if isinstance(value, int) else str(value)


@models_app.command("convert", cls=GroupedCommand)
@made_from()
def convert_command(asked: Conversion) -> None:
    """Write any readable generator in this project's own form, which is safe to pass on."""
    from parallel_nst.networks.generators.files import open_generator, save_generator

    generator, info, _ = open_generator(asked.model)
    save_generator(generator, asked.out, {"converted_from": info.source} | dict(info.metadata), half=asked.half)
    print(f"{asked.out}: {info.architecture}, {info.parameters:,} parameters, {asked.out.stat().st_size:,} bytes")
