"""Where a training stands between two steps: what all ranks share in one file, and what only one rank knows in one of
its own (see `checkpoint_files`).

Rank 0 writes its file when those of all ranks are there, and only then removes older checkpoints. At any moment there
is thus a whole one, if there ever was. All ranks must see the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parallel_nst.errors import BadInput
from parallel_nst.training.checkpoint_files import (
    FORMAT,
    Damaged,
    in_short,
    main_path,
    memory_path,
    pass_interrupt,
    read_main,
    read_memory,
    remove,
    steps_of,
    write,
)
from parallel_nst.training.objective import Phase, TrainingObjective
from parallel_nst.workers.ranks.place import Place


def save_checkpoint(
    folder: Path, step: int, objective: TrainingObjective, recipe: Mapping[str, Any], place: Place, keep: int
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


def state_of(objective: TrainingObjective, step: int, recipe: Mapping[str, Any], ranks: int) -> dict[str, Any]:
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


def load_newest(
    folder: Path, objective: TrainingObjective, recipe: Mapping[str, Any], place: Place, notify: Callable[[str], None]
) -> int:
    """Put the newest whole checkpoint into the objective; returns its step, 0 where there is none at all. All ranks
    find the same one, and each takes its own memory.

    BadInput, in one line, for one of other settings or another architecture, or when all are damaged.
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
            raise BadInput(
                f"none of {len(damages)} checkpoints in {folder} is whole: {damages[0]}; delete them to begin again"
            )
    if place.meet(step) != step:
        raise BadInput(f"the workers find different checkpoints in {folder}; give a folder that all of them share")
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


def load(
    folder: Path,
    step: int,
    objective: TrainingObjective,
    recipe: Mapping[str, Any],
    place: Place,
    notify: Callable[[str], None],
) -> None:
    """Put this checkpoint into the objective and into PyTorch's generators. BadInput as `load_newest`."""
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
        raise BadInput(f"{path} or its memory cannot be gone on with ({reason}); move them away") from None
    if place.ranks != state["ranks"]:
        notify(f"{path} is of {state['ranks']} workers and now there are {place.ranks}: it goes on, not to the bit")


def put(state: Mapping[str, Any], own: Mapping[str, Any] | None, objective: TrainingObjective, place: Place) -> None:
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


def check_fits(path: Path, state: Mapping[str, Any], objective: TrainingObjective, recipe: Mapping[str, Any]) -> None:
    """BadInput, in one line, unless the checkpoint is of this very training."""
    theirs, ours = json.loads(state["recipe"]), json.loads(json.dumps(recipe))
    differing = sorted(key for key in theirs.keys() | ours.keys() if theirs.get(key) != ours.get(key))
    if differing:
        first = differing[0]
        raise BadInput(
            f"{path} is of other settings ({first}: {theirs.get(first)}, now {ours.get(first)}); "
            "give those it was made with, or another folder"
        )
    difference = difference_of(state, objective.networks, objective.phases)
    if difference:
        raise BadInput(
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
