"""The files of a checkpoint: `checkpoint-00001200.pt`, and beside it one for each rank,
`checkpoint-00001200.memory-0.pt`. Whole or not there when written; looked through before they are believed when read.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.files.whole_files import remove_leftovers_in, told_in_one_line, write_whole

FORMAT = "parallel_nst training 1"
NAME = re.compile(r"checkpoint-([0-9]{8,})\.pt")
MEMORY_NAME = re.compile(r"checkpoint-([0-9]{8,})\.memory-([0-9]+)\.pt")
MAIN_KINDS = {"step": int, "ranks": int, "recipe": str, "networks": dict, "optimizers": dict, "schedules": dict}
MEMORY_KINDS = {"memory": dict, "random": dict}


class Damaged(BadInput):
    """A checkpoint's file that is missing or not whole; the one before may be."""


def main_path(folder: Path, step: int) -> Path:
    """Of the networks and optimisers after `step` steps."""
    return folder / f"checkpoint-{step:08d}.pt"


def memory_path(folder: Path, step: int, rank: int) -> Path:
    """Of what only this rank knows after `step` steps."""
    return folder / f"checkpoint-{step:08d}.memory-{rank}.pt"


def steps_of(folder: Path) -> list[int]:
    """The steps of all checkpoints in the folder, whole or not, newest first."""
    names = os.listdir(folder) if folder.is_dir() else []
    return sorted((int(match[1]) for match in map(NAME.fullmatch, names) if match), reverse=True)


def write(path: Path, state: Mapping[str, Any]) -> None:
    """A file that is whole and on the disk, or not there. OSError, in one line, where that fails."""
    data = io.BytesIO()  # PyTorch's own writer makes other errors of Ctrl-C and of a full disk
    with told_in_one_line(path, "make room; the checkpoint before it stays", RuntimeError), interrupts_as_they_are():
        torch.save(dict(state), data)
        write_whole({path: data.getbuffer()}, sync=True)


@contextmanager
def interrupts_as_they_are() -> Iterator[None]:
    """Turn what PyTorch has made of Ctrl-C back into KeyboardInterrupt."""
    try:
        yield
    except Exception as error:
        pass_interrupt(error)
        raise


def pass_interrupt(error: BaseException) -> None:
    """KeyboardInterrupt if that is what became this error on its way through PyTorch."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        cause = cause.__cause__ or cause.__context__


def in_short(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).split())[:150] or type(error).__name__


def remove(folder: Path, steps: set[int]) -> None:
    """Delete the checkpoints of these steps, and what is left of them and of any that were never finished."""
    whole = set(steps_of(folder)) - steps
    for name in os.listdir(folder):
        match = NAME.fullmatch(name) or MEMORY_NAME.fullmatch(name)
        if match and int(match[1]) not in whole:
            (folder / name).unlink(missing_ok=True)
    remove_leftovers_in(folder, lambda name: bool(NAME.fullmatch(name) or MEMORY_NAME.fullmatch(name)))


def read(path: Path) -> dict[str, Any]:
    """A file's contents, without running code that it may hold. A file of `torch.save` is a zip archive with a checksum
    of each part. Damaged where it cannot be read, BadInput for what is no checkpoint."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
        if part:
            raise zipfile.BadZipFile(f"in {part}")
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # of many kinds: any byte of the file may be wrong
        pass_interrupt(error)
        known = isinstance(error, OSError | zipfile.BadZipFile)  # others say much about PyTorch
        reason = in_short(error) if known else type(error).__name__
        raise Damaged(f"{path} is damaged or no checkpoint of a training ({reason})") from None
    if not isinstance(state, dict):
        raise BadInput(f"{path} is no checkpoint of a training (a {type(state).__name__}); move it away")
    return state


def read_main(path: Path) -> dict[str, Any]:
    """What `state_of` made. Errors as `read`."""
    state = read(path)
    if state.get("format") != FORMAT:
        raise BadInput(f"{path} is no checkpoint of a training, or of another version; move it away")
    check_kinds(path, state, MAIN_KINDS)
    if not is_table(state["recipe"]) or not all(is_weights(network) for network in state["networks"].values()):
        raise BadInput(f"{path} is no checkpoint of a training (its recipe or networks are none); move it away")
    return state


def read_memory(path: Path) -> dict[str, Any]:
    """What one rank knew. Errors as `read`."""
    state = read(path)
    check_kinds(path, state, MEMORY_KINDS)
    return state


def check_kinds(path: Path, state: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """BadInput, in one line, unless all entries are there and of their kinds."""
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            raise BadInput(f"{path} is no checkpoint of a training (it has no {name} as it should); move it away")


def is_table(text: str) -> bool:
    """Whether this is JSON of names and values."""
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def is_weights(network: Any) -> bool:
    """Whether this is a network's `state_dict`."""
    return isinstance(network, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in network.items()
    )
