"""Generators as files: reading what is found on the web, without running anything that is in it, and writing.

Reading is four small steps: tensors from bytes -> canonical keys -> the format, by keys and shapes -> a strict load.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import tempfile
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from parallel_nst.networks.checkpoints import dequantised
from parallel_nst.networks.generator_formats import Candidate, State, build_generator, detect
from parallel_nst.networks.generators import Generator

OWN = "parallel_nst generator"  # the source that `inspect` names for files of `save_generator`
WRAPPERS = "state_dict model_state_dict model params_ema params generator netG net network weights transformer".split()
PREFIXES = ("module.", "_orig_mod.", "netG.", "generator.")
WEIGHTS = {".pth", ".pt", ".tar", ".safetensors", ".ckpt", ".npz"}  # of the files in a folder, those to read
HEADS = {
    b"<": "is a web page, not weights; download the file itself",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"\x89HDF": "is an HDF5 file (Keras); export its weights as .npz",
    b"%PDF": "is a PDF document",
}
TORCH7 = {b"\x03\x00\x00\x00", b"\x04\x00\x00\x00", b"4\n1\n", b"3\n1\n"}  # table or object, binary or as text


@dataclass(frozen=True)
class GeneratorInfo:
    """What a file holds. source: whose form it has. parameters: numbers in all weights, running statistics apart.
    notes: what a user should know, each in one line."""

    architecture: str
    source: str
    parameters: int
    notes: tuple[str, ...] = ()


def read_generator(paths: Path | Sequence[Path]) -> tuple[Generator, GeneratorInfo]:
    """The generator of a file, or of several that belong together (MicroAST's four, or the folder they are in):
    frozen, in evaluation mode, float32. ValueError, in one line, for what is no generator."""
    files = files_of([paths] if isinstance(paths, Path) else list(paths))
    contents = [read_file(path) for path in files]
    shown = str(files[0]) if len(files) == 1 else str(files[0].parent)
    try:
        if len(files) == 1 and (made := own(*contents[0])) is not None:
            source, candidate = OWN, made
        else:
            state = together(files, [state for state, _ in contents])
            form, candidate = detect(canonical(state))
            source = form.source
        load(candidate)
    except ValueError as error:
        raise ValueError(f"{shown} {error}") from None
    generator = candidate.generator.requires_grad_(False).eval()
    count = sum(parameter.numel() for parameter in generator.parameters())
    return generator, GeneratorInfo(generator.architecture, source, count, candidate.notes)


def inspect(paths: Path | Sequence[Path]) -> GeneratorInfo:
    """What a file holds; ValueError, in one line, for what `read_generator` would not read."""
    return read_generator(paths)[1]


def save_generator(
    generator: Generator, path: Path, metadata: Mapping[str, str] | None = None, *, half: bool = False
) -> None:
    """Write safetensors with architecture and hyperparameters in its metadata, aside first, then renamed.

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
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        save_file(state, aside, metadata=described)
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, a folder replaced by the weights in it."""
    if not paths:
        raise ValueError("no file of weights given")
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.iterdir() if file.suffix.lower() in WEIGHTS)
            if not inside:
                raise ValueError(f"{path} is a folder without weights ({' '.join(sorted(WEIGHTS))})")
            files += inside
        elif not path.exists():
            raise ValueError(f"{path} does not exist")
        else:
            files.append(path)
    return files


def read_file(path: Path) -> tuple[object, Mapping[str, str]]:
    """What a file holds, mostly a state dict, and its metadata. ValueError, in one line, for what is no weights."""
    with path.open("rb") as file:
        head = file.read(512)
    if fault := fault_of(path, head):
        raise ValueError(f"{path} {fault}")
    try:
        if head[8:9] == b"{":
            return read_safetensors(path)
        if head[:2] == b"PK" and is_npz(path):
            return read_npz(path), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what is not a checkpoint; the error below says it
            return torch.load(path, map_location="cpu", weights_only=True), {}
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {refusal(str(error))}") from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as weights; it is damaged or cut short{first_line(error)}") from None


def fault_of(path: Path, head: bytes) -> str:
    """Why a file that begins so cannot hold weights; empty when nothing speaks against it."""
    if not head:
        return "is empty; give a file of weights"
    for beginning, text in HEADS.items():
        if head.lstrip().startswith(beginning):
            return text
    if path.suffix.lower() == ".t7" or head[:4] in TORCH7:
        return "is a Lua Torch file; convert it to a PyTorch state dict"
    if path.suffix.lower() == ".onnx":
        return "is an ONNX file; give the PyTorch state dict it was made from"
    if head[:2] == b"PK" and not zipfile.is_zipfile(path):
        return "is cut short (a zip archive without its end); download it again"
    if head[8:9] != b"{" and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "is a text file, not weights"
    return ""


def refusal(message: str) -> str:
    """One line for what `torch.load(weights_only=True)` would not unpickle."""
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"holds Python objects ({found[1]}), not only weights, and loading it could run code; save the network's "
            "state_dict() where the file was made"
        )
    return "cannot be read as weights; it is damaged or no PyTorch file"


def first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0][:120]
    return f" ({text})" if text and not isinstance(error, LookupError) else ""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118, no mapping


def is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in arrays.files}


def own(content: object, metadata: Mapping[str, str]) -> Candidate | None:
    """What a file of `save_generator` says of itself; None for files of others."""
    if "architecture" not in metadata or "hyperparameters" not in metadata:
        return None
    try:
        generator = build_generator(metadata["architecture"], json.loads(metadata["hyperparameters"]))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"has metadata that cannot be read{first_line(error)}") from None
    return Candidate(generator, dequantised(canonical(content)))


def together(files: Sequence[Path], contents: Sequence[object]) -> object:
    """One state dict of several files: those of MicroAST, told apart by their keys and, both encoders being alike, by
    names with "content" and "style" in them."""
    if len(files) == 1:
        return contents[0]
    whole: dict[str, Tensor] = {}
    for path, content in zip(files, contents, strict=True):
        state = canonical(content)
        role = role_of(path, state)
        if any(key.startswith(f"{role}.") for key in whole):
            raise ValueError(f"holds two files of MicroAST's {role.replace('_', ' ')}; give one of each")
        whole |= {f"{role}.{key}": value for key, value in state.items()}
    found = sorted({key.split(".")[0] for key in whole})
    if len(found) < 4:
        raise ValueError(f"holds {len(found)} of MicroAST's four networks ({', '.join(found)}); give all four")
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
        raise ValueError(f"holds an encoder ({path.name}) without content or style in its name")
    raise ValueError(f"holds a file ({path.name}) that is none of MicroAST's four; give one generator at a time")


def canonical(content: object) -> dict[str, Tensor]:
    """The state dict itself, in float32: taken out of what it is wrapped in, its keys without the prefixes of wrapping
    modules. ValueError where there is none."""
    for _ in range(3):
        if isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
            content = next((content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)), content)
    if not (isinstance(content, Mapping) and content):
        raise ValueError("holds no state dict (tensors by name); save the network's state_dict()")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        raise ValueError(f"holds no state dict (tensors by name) but {', '.join(map(str, list(content)[:4]))}")
    state: dict[str, Tensor] = dict(content)
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return {key: value if value.dtype == torch.float64 else value.float() for key, value in state.items()}


def load(candidate: Candidate) -> None:
    """Load strictly; ValueError says the first difference of keys or shapes, or that there are weights that are no
    numbers."""
    wanted, state = counts_apart(candidate.generator.state_dict()), counts_apart(candidate.state)
    kind = f"looks like {candidate.generator.architecture}, but"
    for key, value in wanted.items():
        if key not in state:
            raise ValueError(f"{kind} key {key} is missing")
        if state[key].shape != value.shape:
            raise ValueError(f"{kind} {key} has shape {tuple(state[key].shape)} instead of {tuple(value.shape)}")
        if not state[key].isfinite().all():
            raise ValueError(f"{kind} {key} holds infinite values or NaN; the training that wrote it has failed")
    if extra := [key for key in state if key not in wanted]:
        raise ValueError(f"{kind} key {extra[0]} is not known")
    candidate.generator.load_state_dict(dict(state), strict=False)  # but for the counts


def counts_apart(state: State) -> dict[str, Tensor]:
    """Without the number of batches that a normalisation has seen: not every file has it, and nothing depends on it."""
    return {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked")}
