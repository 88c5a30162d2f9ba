"""Where a training stands between two steps, as files: `checkpoint-00001200.pt`, and beside it one file for each rank,
`checkpoint-00001200.memory-0.pt`, with what only that rank knows.

Files are written aside, flushed to the disk and renamed; rank 0 writes its file when those of all ranks are there, and
only then removes older checkpoints. At any moment there is thus a whole one, if there ever was. All ranks must see the
same folder.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parallel_nst.training.objective import Objective, Phase
from parallel_nst.workers.ranks.place import Place

FORMAT = "parallel_nst training 1"
NAME = re.compile(r"checkpoint-([0-9]{8,})\.pt")
MEMORY_NAME = re.compile(r"checkpoint-([0-9]{8,})\.memory-([0-9]+)\.pt")
ASIDE = ".part"  # behind the name of a file that is being written
MAIN_KINDS = {"step": int, "ranks": int, "recipe": str, "networks": dict, "optimizers": dict, "schedules": dict}
MEMORY_KINDS = {"memory": dict, "random": dict}


class Damaged(ValueError):
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


def save_checkpoint(
    folder: Path, step: int, objective: Objective, recipe: Mapping[str, Any], place: Place, keep: int
) -> None:
    """Write a checkpoint, together with all other ranks, and leave the `keep` newest. recipe: settings that a run
    must have to go on from it. OSError, in one line, where it cannot be written."""
    memory = {"memory": dict(objective.memory()), "random": random_state(place.device)}
    write(memory_path(folder, step, place.rank), memory)
    place.meet()
    if place.rank == 0:
        write(main_path(folder, step), state_of(objective, step, recipe, place.ranks))
        past = [old for old in steps_of(folder) if old <= step]  # a later one is damaged, and will be written again
        remove(folder, set(past[keep:]))
    place.meet()


def state_of(objective: Objective, step: int, recipe: Mapping[str, Any], ranks: int) -> dict[str, Any]:
    """What all ranks share."""
    return {
        "format": FORMAT,
        "step": step,
        "ranks": ranks,
        "recipe": json.dumps(recipe),
        "networks": {name: network.state_dict() for name, network in objective.networks.items()},
        "optimizers": {phase.name: phase.optimizer.state_dict() for phase in objective.phases},
        "schedules": {phase.name: phase.schedule.state_dict() for phase in objective.phases if phase.schedule},
    }


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Of PyTorch's generators that this process draws from."""
    state = {"cpu": torch.get_rng_state()}
    return state | {"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else state


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Write aside, flush to the disk, rename. OSError, in one line, where that fails."""
    aside = path.with_name(path.name + ASIDE)
    try:
        data = io.BytesIO()  # PyTorch's own writer makes other errors of Ctrl-C and of a full disk
        torch.save(dict(state), data)
        with open(aside, "wb") as file:
            file.write(data.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        pass_interrupt(error)
        reason = getattr(error, "strerror", None) or in_short(error)
        raise OSError(f"{path} cannot be written ({reason}); make room, the checkpoint before it stays") from None
    finally:
        aside.unlink(missing_ok=True)


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
        bare = name.removesuffix(ASIDE)
        match = NAME.fullmatch(bare) or MEMORY_NAME.fullmatch(bare)
        if match and (name != bare or int(match[1]) not in whole):
            (folder / name).unlink(missing_ok=True)


def load_newest(
    folder: Path, objective: Objective, recipe: Mapping[str, Any], place: Place, notify: Callable[[str], None]
) -> int:
    """Put the newest whole checkpoint into the objective; returns its step, 0 where there is none at all. All ranks
    find the same one, and each takes its own memory.

    ValueError, in one line, for one of other settings or another architecture, or when all are damaged.
    """
    damages: list[str] = []
    for step in steps_of(folder):
        damage = damage_of(folder, step)
        if damage is None:
            load(folder, step, objective, recipe, place, notify)
            break
        notify(f"{damage}; it is passed over")
        damages.append(damage)
    else:
        step = 0
        if damages:
            raise ValueError(
                f"none of {len(damages)} checkpoints in {folder} is whole: {damages[0]}; delete them to begin again"
            )
    if place.meet(step) != step:
        raise ValueError(f"the workers find different checkpoints in {folder}; give a folder that all of them share")
    return step


def damage_of(folder: Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are whole. The same for every rank. ValueError for
    whole ones of something else."""
    try:
        for rank in range(read_main(main_path(folder, step))["ranks"]):
            read_memory(memory_path(folder, step, rank))
    except Damaged as error:
        return str(error)
    return None


def read(path: Path) -> dict[str, Any]:
    """A file's contents, without running code that it may hold. A file of `torch.save` is a zip archive with a checksum
    of each part. Damaged where it cannot be read, ValueError for what is no checkpoint."""
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
        raise ValueError(f"{path} is no checkpoint of a training (a {type(state).__name__}); move it away")
    return state


def read_main(path: Path) -> dict[str, Any]:
    """What `state_of` made. Errors as `read`."""
    state = read(path)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of a training, or of another version; move it away")
    check_kinds(path, state, MAIN_KINDS)
    if not is_table(state["recipe"]) or not all(is_weights(network) for network in state["networks"].values()):
        raise ValueError(f"{path} is no checkpoint of a training (its recipe or networks are none); move it away")
    return state


def read_memory(path: Path) -> dict[str, Any]:
    """What one rank knew. Errors as `read`."""
    state = read(path)
    check_kinds(path, state, MEMORY_KINDS)
    return state


def check_kinds(path: Path, state: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """ValueError, in one line, unless all entries are there and of their kinds."""
    for name, kind in kinds.items():
        if not isinstance(state.get(name), kind):
            raise ValueError(f"{path} is no checkpoint of a training (it has no {name} as it should); move it away")


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


def load(
    folder: Path,
    step: int,
    objective: Objective,
    recipe: Mapping[str, Any],
    place: Place,
    notify: Callable[[str], None],
) -> None:
    """Put this checkpoint into the objective and into PyTorch's generators. ValueError as `load_newest`."""
    path = main_path(folder, step)
    state = read_main(path)
    check_fits(path, state, objective, recipe)
    own = read_memory(memory_path(folder, step, place.rank)) if place.rank < state["ranks"] else None
    try:
        put(state, own, objective, place)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of many kinds: entries within entries may be missing or of another form
        pass_interrupt(error)
        reason = f"{type(error).__name__}: {in_short(error)}"
        raise ValueError(f"{path} or its memory cannot be gone on with ({reason}); move them away") from None
    if place.ranks != state["ranks"]:
        notify(f"{path} is of {state['ranks']} workers and now there are {place.ranks}: it goes on, not to the bit")


def put(state: Mapping[str, Any], own: Mapping[str, Any] | None, objective: Objective, place: Place) -> None:
    """Into the objective and into PyTorch's generators. own: of this rank, None where the checkpoint has none."""
    for name, network in objective.networks.items():
        network.load_state_dict(state["networks"][name])
    for phase in objective.phases:
        phase.optimizer.load_state_dict(state["optimizers"][phase.name])
        if phase.schedule:
            phase.schedule.load_state_dict(state["schedules"][phase.name])
    if own is not None:
        objective.restore(own["memory"])
        set_random_state(own["random"], place.device)


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_state`; a GPU's is left alone where the checkpoint has none."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def check_fits(path: Path, state: Mapping[str, Any], objective: Objective, recipe: Mapping[str, Any]) -> None:
    """ValueError, in one line, unless the checkpoint is of this very training."""
    theirs, ours = json.loads(state["recipe"]), json.loads(json.dumps(recipe))
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if differing:
        first = differing[0]
        raise ValueError(
            f"{path} is of other settings ({first}: {theirs.get(first)}, now {ours.get(first)}); "
            "give those it was made with, or another folder"
        )
    difference = difference_of(state, objective.networks, objective.phases)
    if difference:
        raise ValueError(
            f"{path} is of another architecture ({difference}); give the one it was made with, or another folder"
        )


def difference_of(state: Mapping[str, Any], networks: Mapping[str, nn.Module], phases: Sequence[Phase]) -> str | None:
    """How the networks of a checkpoint differ from these, by names and shapes."""
    if state["networks"].keys() != networks.keys() or list(state["optimizers"]) != [phase.name for phase in phases]:
        return (
            f"it holds {', '.join(map(str, state['networks']))}, trained by {', '.join(map(str, state['optimizers']))}"
        )
    for name, network in networks.items():
        theirs = {key: tuple(value.shape) for key, value in state["networks"][name].items()}
        ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                return f"{name}.{key}: {theirs.get(key, 'none')}, now {ours.get(key, 'none')}"
    return None
