"""What networks are and cost: parameters, arithmetic, memory, how far they look, and the time of a step here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from parallel_nst.errors import BadInput
from parallel_nst.jobs.requests.profile import ProfileJob
from parallel_nst.networks.backbones.base import Backbone, Block, deepest
from parallel_nst.networks.backbones.registry import BACKBONES
from parallel_nst.networks.discriminators import DISCRIMINATORS
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.files import open_generator
from parallel_nst.networks.generators.published import BUILDERS, build_generator
from parallel_nst.networks.generators.transformer import FORMS
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.sums import measure_sums, pull_back
from parallel_nst.painting.planning.forecast import untrained
from parallel_nst.painting.planning.profile import LiveBytes, forward_flops
from parallel_nst.painting.planning.profile import profile as costs_of
from parallel_nst.painting.tiles.geometry import whole_tile

RUNS = 2  # timed, after one to warm up
SIZED = {"vgg-decoder"}  # architectures that there are not without a file


@dataclass(frozen=True)
class NetworkProfile:
    """A network at a size. checkpoint: bytes of all weights in float32. multiply_adds: of the convolutions of a forward
    pass. activations: bytes; of a backbone, what a step keeps to go back through, of others what a pass holds at once.
    receptive_field: px that the deepest features, or an output pixel, depend on; margin: px of context that a tile
    needs. seconds: of a step (a backbone's forward and backward by the image) or of a pass, here and now."""

    name: str
    kind: str
    parameters: int
    checkpoint: int
    multiply_adds: int
    activations: int
    receptive_field: int
    margin: int
    stride: int
    seconds: float


def profiles(job: ProfileJob) -> list[NetworkProfile]:
    """Of all that are named, in their order. BadInput, in one line, for what is no network."""
    kinds = [kind_of(name) for name in job.names]
    return [profile_of(kind, name, job.size) for kind, name in zip(kinds, job.names, strict=True)]


def kind_of(name: str) -> str:
    """What a name means; a generator's, where it is none of the others."""
    if name in BACKBONES:
        return "backbone"
    return "discriminator" if name in DISCRIMINATORS else "generator"


def profile_of(kind: str, name: str, size: int) -> NetworkProfile:
    """Of one network, on a square of `size` px."""
    if kind == "backbone":
        return backbone_profile(name, size)
    network = DISCRIMINATORS[name]() if kind == "discriminator" else generator_of(name)
    network.requires_grad_(False).eval()
    if isinstance(network, Generator):
        return generator_profile(name, network, size)
    chain = list(network.model)
    field = patch_of(chain)
    stride = 1
    for layer in chain:
        stride *= layer.stride[0] if isinstance(layer, nn.Conv2d) else 1
    return measured(name, kind, network, size, (field, field // 2, stride), lambda x: network(x))


def generator_of(name: str) -> Generator:
    """A generator by its architecture, or by name or file."""
    if name in (*FORMS, *BUILDERS) and name not in SIZED:
        return build_generator(name, {})
    if name in SIZED:
        raise BadInput(f"{name} has no sizes of its own; give a file of one")
    return open_generator(name)[0]


def generator_profile(name: str, network: Generator, size: int) -> NetworkProfile:
    """A pass over a picture; of one that takes a style, without encoding that."""
    style = None
    if network.takes_style:
        with torch.no_grad():
            style = network.encode_style(torch.rand(1, 3, size, size))
    look = 2 * network.reach + 1, network.reach, network.stride
    return measured(name, "generator", network, size, look, lambda x: network(x, style))


def measured(
    name: str, kind: str, network: nn.Module, size: int, look: tuple[int, int, int], run: Callable[[Tensor], Tensor]
) -> NetworkProfile:
    """Counts and times of `run` on a picture. look: receptive field, margin and stride."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        with FlopCounterMode(display=False) as flops:
            run(image)
        with LiveBytes() as live:
            run(image)
        seconds = median_seconds(lambda: run(image))
    count = sum(parameter.numel() for parameter in network.parameters())
    return NetworkProfile(name, kind, count, 4 * count, flops.get_total_flops() // 2, live.most, *look, seconds)


def backbone_profile(name: str, size: int) -> NetworkProfile:
    """Arithmetic of the whole network; memory, reach and time of a step as its default layers make it."""
    backbone, layers = untrained(name), BACKBONES[name].layers
    names = (*layers.style, *layers.content)
    layer, count = deepest(backbone, names), sum(parameter.numel() for parameter in backbone.parameters())
    kept = costs_of(backbone, layers.style, layers.content, torch.float32).graph
    return NetworkProfile(
        name=name,
        kind="backbone",
        parameters=count,
        checkpoint=4 * count,
        multiply_adds=forward_flops(backbone, list(backbone.layers)[-1:], size, size) // 2,
        activations=round(kept * size * size),
        receptive_field=max(receptive_field(backbone.blocks, one) for one in names),
        margin=layer.margin,
        stride=layer.stride,
        seconds=step_seconds(backbone, FeatureReader(backbone, layers, torch.float32), size),
    )


def step_seconds(backbone: Backbone, reader: FeatureReader, size: int) -> float:
    """Of forward and backward by the image, with all threads that PyTorch has here."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    content = reader.read_content(image)
    image.requires_grad_()

    def step() -> None:
        sums = measure_sums(reader, image, content, whole_tile(size, size))
        pull_back(sums, image, sums.holding([torch.ones_like(value) for value in sums.tensors]))

    step()
    return median_seconds(step)


def median_seconds(run: Callable[[], object]) -> float:
    """Of a few runs."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def receptive_field(blocks: list[Block], name: str) -> int:
    """Px along a side that a position of a layer depends on (Araujo et al. 2019, eq. 2)."""
    field, jump = 1, 1
    for block in blocks:
        field += (block.window.kernel - 1) * jump
        jump *= block.window.stride
        if block.name == name:
            break
    return field


def patch_of(chain: list[nn.Module]) -> int:
    """Px along a side of the patch that a score is of."""
    field, jump = 1, 1
    for layer in chain:
        if isinstance(layer, nn.Conv2d):
            field += (layer.kernel_size[0] - 1) * jump
            jump *= layer.stride[0]
    return field


def markdown(rows: list[NetworkProfile], size: int) -> str:
    """The profiles as a table."""
    heads = (
        f"network | kind | parameters | checkpoint | multiply-adds at {size} px | activations | receptive field | "
        "margin | stride | seconds"
    )
    lines = [f"| {heads} |", "|---|---|" + "---:|" * 8]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.kind} | {row.parameters / 1e6:.3f} M | {row.checkpoint / 1e6:.1f} MB | "
            f"{row.multiply_adds / 1e9:.2f} G | {row.activations / 1e6:.0f} MB | {row.receptive_field} px | "
            f"{row.margin} px | {row.stride} px | {row.seconds:.2f} |"
        )
    return "\n".join(lines)
