"""Where a training stands between two steps, as files: `checkpoint-00001200.pt`, and beside it one file for each rank,
`checkpoint-00001200.memory-0.pt`, with what only that rank knows.

Files are written aside, flushed to the disk and renamed; rank 0 writes its file when those of all ranks are there, and
only then removes older checkpoints. At any moment there is thus a whole one, if there ever was. All ranks must see the
same folder.
"""

from __future__ import annotations

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
from parallel_nst.training.place import Place

FORMAT = "parallel_nst training 1"
NAME = re.compile(r"checkpoint-([0-9]{8,})\.pt")
MEMORY_NAME = re.compile(r"checkpoint-([0-9]{8,})\.memory-([0-9]+)\.pt")
ASIDE = ".part"  # behind the name of a file that is being written


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
        with open(aside, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:  # RuntimeError: of PyTorch's writer when the disk is full
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:150]
        raise OSError(f"{path} cannot be written ({reason}); make room, the checkpoint before it stays") from None
    finally:
        aside.unlink(missing_ok=True)


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
    steps = steps_of(folder)
    for step in steps:
        damage = damage_of(folder, step)
        if damage is None:
            load(folder, step, objective, recipe, place, notify)
            break
        notify(f"{damage}; it is passed over")
    else:
        step = 0
        if steps:
            raise ValueError(f"none of {len(steps)} checkpoints in {folder} is whole; delete them to begin again")
    if place.meet(step) != step:
        raise ValueError(f"the workers find different checkpoints in {folder}; give a folder that all of them share")
    return step


def damage_of(folder: Path, step: int) -> str | None:
    """What is wrong with the files of a checkpoint; None if they are whole. The same for every rank."""
    damage = damage_of_file(main_path(folder, step))
    if damage is None:
        ranks = range(read_main(main_path(folder, step))["ranks"])
        found = (damage_of_file(memory_path(folder, step, rank)) for rank in ranks)
        damage = next((text for text in found if text), None)
    return damage


def damage_of_file(path: Path) -> str | None:
    """A file of `torch.save` is a zip archive with a checksum of each part."""
    try:
        with zipfile.ZipFile(path) as archive:
            part = archive.testzip()
    except (OSError, zipfile.BadZipFile) as error:
        return f"{path} is damaged ({' '.join(str(error).split())[:100]})"
    return f"{path} is damaged (in {part})" if part else None


def read(path: Path) -> dict[str, Any]:
    """A file's contents, without running code that it may hold. ValueError for what is no checkpoint."""
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # of many kinds, for a whole archive with something else in it
        raise ValueError(f"{path} is no checkpoint of a training ({type(error).__name__}); move it away") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path} is no checkpoint of a training (a {type(state).__name__}); move it away")
    return state


def read_main(path: Path) -> dict[str, Any]:
    """What `state_of` made. ValueError as `read`."""
    state = read(path)
    if state.get("format") != FORMAT:
        raise ValueError(f"{path} is no checkpoint of a training, or of another version; move it away")
    return state


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
    for name, network in objective.networks.items():
        network.load_state_dict(state["networks"][name])
    for phase in objective.phases:
        phase.optimizer.load_state_dict(state["optimizers"][phase.name])
        if phase.schedule:
            phase.schedule.load_state_dict(state["schedules"][phase.name])
    if place.rank < state["ranks"]:
        own = read(memory_path(folder, step, place.rank))
        objective.restore(own["memory"])
        set_random_state(own["random"], place.device)
    if place.ranks != state["ranks"]:
        notify(f"{path} is of {state['ranks']} workers and now there are {place.ranks}: it goes on, not to the bit")


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
        return f"it holds {', '.join(state['networks'])}, trained by {', '.join(state['optimizers'])}"
    for name, network in networks.items():
        theirs = {key: tuple(value.shape) for key, value in state["networks"][name].items()}
        ours = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        for key in sorted(theirs.keys() | ours.keys()):
            if theirs.get(key) != ours.get(key):
                return f"{name}.{key}: {theirs.get(key, 'none')}, now {ours.get(key, 'none')}"
    return None
