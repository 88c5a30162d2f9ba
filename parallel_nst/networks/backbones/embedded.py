"""The backbone inside this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from parallel_nst.errors import BadWeights
from parallel_nst.networks.backbones.base import Backbone, Window, loaded
from parallel_nst.networks.backbones.means import MeanPool2d
from parallel_nst.networks.backbones.vgg import vgg_blocks
from parallel_nst.networks.weights.states import State


class Embedded(Backbone):
    """The backbone inside this package: VGG-shaped, narrow, average pooling that keeps odd rows (so that a picture of
    any size, down to one pixel, has features). Key names `blockI.convJ.weight|bias`.

    The first convolution replicates the border instead of padding with grey, as in the style transfer of Crowson: it
    removes the frame that zero padding paints around a picture.
    """

    def __init__(self, widths: Sequence[Sequence[int]]) -> None:
        super().__init__((0.45, 0.45, 0.45), (0.25, 0.25, 0.25))
        blocks = vgg_blocks(widths, MeanPool2d(2, ceil_mode=True), Window(2, 2, ceil=True))
        first = blocks[0].module
        assert isinstance(first, nn.Conv2d)
        first.padding_mode = "replicate"
        first._reversed_padding_repeated_twice = [1, 1, 1, 1]
        convs = iter(block.module for block in blocks if isinstance(block.module, nn.Conv2d))
        for b, row in enumerate(widths, 1):
            self.add_module(f"block{b}", nn.ModuleDict({f"conv{c}": next(convs) for c in range(1, len(row) + 1)}))
        self._chain(blocks)

    @staticmethod
    def widths_of(state: Mapping[str, Tensor]) -> list[list[int]]:
        """Channels of each convolution, block by block, read from the shapes of weights."""
        widths: list[list[int]] = []
        while any(key.startswith(f"block{len(widths) + 1}.") for key in state):
            block: list[int] = []
            while (weight := state.get(f"block{len(widths) + 1}.conv{len(block) + 1}.weight")) is not None:
                block.append(weight.shape[0])
            widths.append(block)
        return widths


def build_embedded(state: State) -> Backbone:
    """From weights of any widths; BadWeights where there are none."""
    widths = Embedded.widths_of(state)
    if not widths or not all(widths):
        raise BadWeights("key block1.conv1.weight is missing")
    return loaded(Embedded(widths), state)
