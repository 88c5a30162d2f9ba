"""Where a run stands between two steps, as a file: what is needed to go on as if it had not stopped."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from parallel_nst.errors import BadInput
from parallel_nst.files.whole_files import replacing, told_in_one_line

FORMAT = "parallel_nst snapshot 1"


@dataclass(frozen=True)
class Snapshot:
    """scale: number of the scale, from 0; step: steps done at it.

    tensors: by name; whoever made the snapshot knows what they are. numbers: likewise.
    """

    scale: int
    step: int
    tensors: Mapping[str, Tensor]
    numbers: Mapping[str, float]

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix.`, without it."""
        return {name[len(prefix) + 1 :]: value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}


def save_snapshot(path: Path, snapshot: Snapshot, identity: str) -> None:
    """At `path` there is always a whole snapshot. identity: of the run it belongs to. OSError, in one line, where it
    cannot be written."""
    tensors, aliases = distinct(snapshot.tensors)
    numbers = {"scale": snapshot.scale, "step": snapshot.step, "numbers": dict(snapshot.numbers), "aliases": aliases}
    metadata = {"format": FORMAT, "identity": identity, "run": json.dumps(numbers)}
    advice = "make room, or go without --checkpoint-every"
    with told_in_one_line(path, advice, SafetensorError), replacing(path) as aside:
        save_file(tensors, aside, metadata=metadata)


def distinct(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without those that are another one's memory, and the names of these with the other's."""
    names: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    aliases: dict[str, str] = {}
    for name, value in tensors.items():
        place = value.data_ptr(), value.shape, value.stride(), value.dtype
        first = names.setdefault(place, name) if value.numel() else name
        if first != name:
            aliases[name] = first
    return {name: value.contiguous() for name, value in tensors.items() if name not in aliases}, aliases


def load_snapshot(path: Path, identity: str) -> Snapshot:
    """Read a snapshot of this very run. ValueError, in one line, for one of another run or for what is none."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BadInput(f"{path} is no snapshot of a run; give --resume only beside the file a run has left")
            if metadata.get("identity") != identity:
                raise BadInput(
                    f"{path} is of another picture or other settings; repeat those, or delete it to begin again"
                )
            run = json.loads(metadata["run"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tensors |= {name: tensors[other] for name, other in run["aliases"].items()}
            return Snapshot(run["scale"], run["step"], tensors, run["numbers"])
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read as a snapshot ({error}); delete it to begin again") from None
