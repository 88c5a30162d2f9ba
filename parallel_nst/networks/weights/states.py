"""State dicts: tensors by name, taken out of what files hold, and held against what a network wants."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parallel_nst.errors import BadWeights
from parallel_nst.networks.weights.quantised import CODE_SUFFIX, SCALE_SUFFIX, TABLE_SUFFIX, dequantised
from parallel_nst.networks.weights.reader import LARGEST, LONGEST_KEY, MOST_TENSORS, listed, read_file, shown

State = Mapping[str, Tensor]
WRAPPERS = "state_dict model_state_dict model params_ema params generator netG net network weights transformer".split()
PREFIXES = ("module.", "_orig_mod.", "netG.", "generator.")


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, in float32 or float64; 8-bit weights are multiplied by their scales. BadWeights, in one
    line, for what holds none."""
    content, _ = read_file(path)
    try:
        return dequantised(tensors_of(content))
    except BadWeights as error:
        raise BadWeights(f"{path} {error}") from None


def tensors_of(content: object) -> dict[str, Tensor]:
    """The state dict itself, in its own precision: taken out of what it is wrapped in, its keys without the prefixes of
    wrapping modules. BadWeights where there is none."""
    for _ in range(3):
        inner = as_dict(content)
        if not any(isinstance(value, Tensor) for value in inner.values()):
            content = next((inner[name] for name in WRAPPERS if as_dict(inner.get(name))), content)
    if not as_dict(content):
        raise BadWeights("holds no state dict (tensors by name); save the network's state_dict()")
    if as_dict(content).keys() >= {"networks", "optimizers"}:
        raise BadWeights("is a state that a training goes on from; give the model that the training has written")
    state = plain_state(as_dict(content))
    while prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def as_dict(content: object) -> dict[Any, Any]:
    """A dictionary or ordered dictionary as a plain one, empty for all else: one from a file may have attributes in
    the places of its methods."""
    return dict(dict.items(content)) if isinstance(content, dict) else {}


def plain_state(content: dict[object, object]) -> dict[str, Tensor]:
    """A state dict as it is: dense tensors of numbers by name, each of its own and without attributes. BadWeights, in
    one line, for what is none."""
    if len(content) > MOST_TENSORS:
        raise BadWeights(f"holds {len(content)} entries, more than any network; save its state_dict() alone")
    state: dict[str, Tensor] = {}
    for key, value in content.items():
        if not (isinstance(key, str) and isinstance(value, Tensor)):
            raise BadWeights(f"holds no state dict (tensors by name) but {listed([shown(key) for key in content])}")
        if len(key) > LONGEST_KEY or not key.isprintable():
            raise BadWeights(f"has a key that no network has ({shown(key)}); it is damaged")
        value = Tensor.detach(value)  # without attributes, which a file can put in the places of methods
        if fault := fault_of_tensor(key, value, scaled=has_key(key, content)):
            raise BadWeights(f"has weights that cannot be used: {key} {fault}")
        state[key] = value
    if (count := sum(value.numel() for value in state.values())) > LARGEST // 4:
        raise BadWeights(f"declares {count} numbers, more than any network; it is damaged")
    return state


def has_key(key: str, content: Mapping[Any, object]) -> bool:
    """Whether the scales or the table of 8-bit weights stand beside them."""
    table = key.removesuffix(CODE_SUFFIX) + TABLE_SUFFIX
    return f"{key}{SCALE_SUFFIX}" in content or (key.endswith(CODE_SUFFIX) and table in content)


def fault_of_tensor(key: str, value: Tensor, scaled: bool) -> str:
    """Why a tensor cannot be a weight. scaled: 8-bit weights with their scales beside them can."""
    if value.is_quantized or value.is_nested or value.layout != torch.strided or value.device.type != "cpu":
        return "is a sparse, quantised or meta tensor; save plain ones"
    if value.numel() == 0:
        return f"is empty (its shape is {tuple(value.shape)})"
    number = value.is_floating_point() or (scaled and not value.is_complex()) or key.endswith(".num_batches_tracked")
    return "" if number else f"holds {str(value.dtype).removeprefix('torch.')} in place of floating-point numbers"


def check_fit(wanted: State, state: State) -> None:
    """BadWeights, in one line, for the first difference of keys or shapes between what a network wants and what there
    is, and for a weight that is no number. Counts of batches are left out of both."""
    wanted, state = counts_apart(wanted), counts_apart(state)
    for key, value in wanted.items():
        if key not in state:
            raise BadWeights(f"key {key} is missing")
        if state[key].shape != value.shape:
            raise BadWeights(f"{key} has shape {tuple(state[key].shape)} instead of {tuple(value.shape)}")
        if not state[key].float().isfinite().all():
            raise BadWeights(f"{key} holds infinite values or NaN; the training that wrote it has failed")
    if extra := [key for key in state if key not in wanted]:
        raise BadWeights(f"key {extra[0]} is not known")


def counts_apart(state: State) -> dict[str, Tensor]:
    """Without the number of batches that a normalisation has seen: not every file has it, and nothing depends on it."""
    return {key: value for key, value in state.items() if not key.endswith(".num_batches_tracked")}
