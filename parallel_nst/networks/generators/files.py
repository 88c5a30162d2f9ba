"""Generators as files: reading what is found on the web, without running anything that is in it, and writing.

Reading is four small steps: tensors from bytes -> canonical keys -> the format, by keys and shapes -> a strict load.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from parallel_nst.errors import BadWeights
from parallel_nst.files import digests
from parallel_nst.files.whole_files import write_whole
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.published import Candidate, build_generator, detect
from parallel_nst.networks.generators.registry import resolve
from parallel_nst.networks.weights.quantised import dequantised
from parallel_nst.networks.weights.reader import first_line, read_file
from parallel_nst.networks.weights.states import State, check_fit, counts_apart, tensors_of

OWN = "parallel_nst generator"  # the source that `inspect` names for files of `save_generator`
TOGETHER = 4  # files of one generator, at most
LONGEST_HYPERPARAMETERS = 10_000  # characters
WEIGHTS = {".pth", ".pt", ".tar", ".safetensors", ".ckpt", ".npz", ".model"}  # of the files in a folder, those to read


@dataclass(frozen=True)
class GeneratorInfo:
    """What a file holds. source: whose form it has. parameters: numbers in all weights, running statistics apart.
    notes: what a user should know, each in one line. precision: of the weights in the file, such as float16.
    metadata: what a file of `save_generator` says besides."""

    architecture: str
    source: str
    parameters: int
    notes: tuple[str, ...] = ()
    precision: str = "float32"
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_generator(paths: Path | Sequence[Path]) -> tuple[Generator, GeneratorInfo]:
    """The generator of a file, or of several that belong together (MicroAST's four, or the folder they are in):
    frozen, in evaluation mode, float32. BadWeights, in one line, for what is no generator."""
    files = files_of([paths] if isinstance(paths, Path) else list(paths))
    contents = [read_file(path) for path in files]
    shown = str(files[0]) if len(files) == 1 else str(files[0].parent)
    metadata = contents[0][1]
    try:
        states = [tensors_of(content) for content, _ in contents]
        if len(files) == 1 and "architecture" in metadata and "hyperparameters" in metadata:
            source, candidate = OWN, own(states[0], metadata)
        else:
            form, candidate = detect(dequantised(together(files, states)))
            source, metadata = form.source, {}
        load(candidate)
    except BadWeights as error:
        raise BadWeights(f"{shown} {error}") from None
    generator = candidate.generator.requires_grad_(False).eval()
    count = sum(parameter.numel() for parameter in generator.parameters())
    said = {key: text for key, text in metadata.items() if key not in ("architecture", "hyperparameters")}
    return generator, GeneratorInfo(generator.architecture, source, count, candidate.notes, precision_of(states), said)


def save_generator(
    generator: Generator, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write safetensors with architecture and hyperparameters in its metadata, whole or not at all.

    metadata: more of it, such as the settings of a training; architecture and hyperparameters are not to be named.
    half: in float16, half the size, which no eye sees.
    """
    state = {
        key: (value.half() if half and value.is_floating_point() else value).detach().contiguous().cpu()
        for key, value in generator.state_dict().items()
    }
    described = dict(metadata or {}) | {
        "architecture": generator.architecture,
        "hyperparameters": json.dumps(generator.hyperparameters),
    }
    write_whole({path: save(state, metadata=described)})


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, a folder replaced by the weights in it."""
    if not paths:
        raise BadWeights("no file of weights given")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in WEIGHTS)
            if not inside:
                raise BadWeights(f"{path} is a folder without weights ({' '.join(sorted(WEIGHTS))})")
            files += inside
        elif not path.exists():
            raise BadWeights(f"{path} does not exist")
        else:
            files.append(path)
    if len(files) > TOGETHER:
        raise BadWeights(f"{files[0].parent} holds {len(files)} files of weights; give one of them, or MicroAST's four")
    return files


def own(state: State, metadata: Mapping[str, str]) -> Candidate:
    """What a file of `save_generator` says of itself."""
    text = metadata["hyperparameters"]
    try:
        if len(text) > LONGEST_HYPERPARAMETERS:
            raise BadWeights(f"{len(text)} characters of hyperparameters")
        hyperparameters = dict(json.loads(text).items())
    except Exception as error:  # of any kind: a stranger's text
        raise BadWeights(f"has metadata that cannot be read{first_line(error)}") from None
    return Candidate(draft(metadata["architecture"], hyperparameters), dequantised(state))


def draft(architecture: str, hyperparameters: Mapping[str, Any]) -> Generator:
    """A generator without memory for its weights, for as long as they may turn out to be others."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about layers of no channels, which no file has weights for
            return build_generator(architecture, hyperparameters)
    except Exception as error:  # as above
        raise BadWeights(f"has metadata that cannot be read{first_line(error)}") from None


def together(files: Sequence[Path], states: Sequence[State]) -> State:
    """One state dict of several files: those of MicroAST, told apart by their keys and, both encoders being alike, by
    names with "content" and "style" in them."""
    if len(files) == 1:
        return states[0]
    whole: dict[str, Tensor] = {}
    for path, state in zip(files, states, strict=True):
        role = role_of(path, state)
        if any(key.startswith(f"{role}.") for key in whole):
            raise BadWeights(f"holds two files of MicroAST's {role.replace('_', ' ')}; give one of each")
        whole |= {f"{role}.{key}": value for key, value in state.items()}
    found = sorted({key.split(".")[0] for key in whole})
    if len(found) < 4:
        raise BadWeights(f"holds {len(found)} of MicroAST's four networks ({', '.join(found)}); give all four")
    return whole


def role_of(path: Path, state: State) -> str:
    """Which of MicroAST's networks a state dict is."""
    for key, role in (("dec1.", "decoder"), ("weight1.", "modulator")):
        if any(name.startswith(key) for name in state):
            return role
    if any(name.startswith("enc1.") for name in state):
        for word in ("content", "style"):
            if word in path.name.lower():
                return f"{word}_encoder"
        raise BadWeights(f"holds an encoder ({path.name}) without content or style in its name")
    raise BadWeights(f"holds a file ({path.name}) that is none of MicroAST's four; give one generator at a time")


def precision_of(states: Sequence[State]) -> str:
    """The kinds of numbers that weights are kept in, such as float16 or int8."""
    kinds = {
        str(value.dtype).removeprefix("torch.")
        for state in states
        for key, value in counts_apart(state).items()
        if not (key.endswith(".scale") and key.removesuffix(".scale") in state)
    }
    return " and ".join(sorted(kinds))


def load(candidate: Candidate) -> None:
    """Load strictly; BadWeights says the first difference. The generator takes its memory only when all keys and shapes
    agree."""
    generator, state = candidate.generator, counts_apart(candidate.state)
    try:
        check_fit(generator.state_dict(), state)
    except BadWeights as error:
        raise BadWeights(f"looks like {generator.architecture}, but {error}") from None
    generator.to_empty(device="cpu")
    for key, value in generator.state_dict().items():
        if key not in state:
            value.zero_()  # the counts
    generator.load_state_dict(state, strict=False)


def open_generator(text: str) -> tuple[Generator, GeneratorInfo, str]:
    """A generator by name or file, what is known of it, and its digest; BadInput, in one line, for what is none."""
    generator, info = read_generator(resolve(text))
    return generator, info, digest_of(generator)


def digest_of(generator: Generator) -> str:
    """SHA-256, 64 hexadecimal digits, over architecture, hyperparameters and all weights: equal for equal networks,
    whatever kind of file they came in."""
    described = {"architecture": generator.architecture, "hyperparameters": generator.hyperparameters}
    parts = [json.dumps(described, sort_keys=True).encode()]
    for key, value in sorted(counts_apart(generator.state_dict()).items()):
        parts.append(f"{key} {tuple(value.shape)} ".encode())
        parts.append(value.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes())
    return digests.digest_of(parts)
