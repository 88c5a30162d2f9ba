"""What trainings are told, as records: free of PyTorch, so that a help page that is made from them opens at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Literal

from parallel_nst.errors import BadInput
from parallel_nst.recipe import LayerWeights
from parallel_nst.recipe.knobs import check_bounds, knob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

Architecture = Literal["transformer", "aonet", "vgg16-decoder"]
Formula = Literal["relative", "raw"]
NormKind = Literal["instance", "batch"]
GeneratorKind = Literal["resnet9", "resnet6", "dncnn"]
DiscriminatorKind = Literal["patchgan", "conv5"]
Decay = Literal["linear", "exponential"]


@dataclass(frozen=True)
class FeedforwardSettings:
    """A generator for one style: what is trained, and for what."""

    architecture: Architecture = knob("transformer", "kind of generator", "Network", flags=("--arch", "--architecture"))
    width: int = knob(
        0, "channels of its first convolution; 0: 32, and 64 for vgg16-decoder", "Network", least=0, most=1024
    )
    blocks: int = knob(
        5,
        "residual blocks of the generator",
        "Network",
        least=1,
        most=100,
        only_with=("architecture", ("transformer", "aonet")),
    )
    norm: NormKind = knob("instance", "normalisation of the generator", "Network")
    backbone: str = knob("embedded", "network that measures content and style")
    layers: LayerWeights = field(default_factory=LayerWeights)
    formula: Formula = knob(
        "relative", "relative: losses in units of the style picture's own features; raw: those of Johnson's code"
    )
    feature_scale: float = knob(
        1.0, "features are multiplied by this in raw losses", above=0, only_with=("formula", ("raw",))
    )
    content_weight: float = knob(0.7, "weight of the content loss", least=0)
    style_weight: float = knob(1.0, "weight of the style loss", least=0)
    tv_weight: float = knob(0.0, "weight of the total variation loss (smoothness)", least=0)
    style_size: int = knob(
        384, "shorter side in px that the style picture is reduced to; 0: its own", "Pictures", least=0
    )
    learning_rate: float = knob(2e-3, "step size of Adam", "Steps", above=0, flags=("--lr", "--learning-rate"))
    last_rate: float = knob(
        0.05, "share of the learning rate that a cosine leaves at the end; 1: constant", "Steps", least=0, most=1
    )
    seed: int = knob(0, "seed of the first weights and of the order of pictures", "Steps", least=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.content_weight == 0 and self.style_weight == 0:
            raise BadInput("content_weight and style_weight are both 0; give at least one a value above 0")
        if self.architecture == "vgg16-decoder" and self.norm == "batch":
            raise BadInput("norm is 'batch'; vgg16-decoder knows only instance")

    @property
    def layers_used(self) -> LayerWeights:
        """The layers named, else the backbone's own choice."""
        from parallel_nst.networks.backbones.registry import backbone_entry  # loads PyTorch

        default = backbone_entry(self.backbone).layers
        return LayerWeights(self.layers.style or default.style, self.layers.content or default.content)


@dataclass(frozen=True)
class CycleSettings:
    """Two generators between two kinds of pictures: what is trained, and for what. The defaults are the official
    ones."""

    generator: GeneratorKind = knob("resnet9", "kind of both generators", "Network")
    generator_width: int = knob(64, "channels of a generator's first convolution", "Network", least=1, most=1024)
    depth: int = knob(
        6, "normalised convolutions of dncnn", "Network", least=1, most=100, only_with=("generator", ("dncnn",))
    )
    discriminator: DiscriminatorKind = knob("patchgan", "kind of both discriminators", "Network")
    discriminator_width: int = knob(
        0, "channels of a discriminator's first convolution; 0: 64, and 16 for conv5", "Network", least=0, most=1024
    )
    norm: NormKind = knob(
        "instance", "normalisation of generators and discriminators; dncnn always has batch", "Network"
    )
    cycle: bool = knob(
        True, "leave out the cycle loss: that a picture must come back from there", flags=("--no-cycle",)
    )
    cycle_weight: float = knob(10.0, "weight of the cycle loss", least=0, only_with=("cycle", (True,)))
    identity_weight: float = knob(
        0.5, "weight of leaving alone what is of the wanted kind already, in units of --cycle-weight", least=0
    )
    pool: int = knob(50, "generated pictures kept for the discriminators; 0: only the newest", "Steps", least=0)
    learning_rate: float = knob(2e-4, "step size of Adam", "Steps", above=0, flags=("--lr", "--learning-rate"))
    beta1: float = knob(0.5, "Adam's memory of gradients", "Steps", least=0, most=0.999)
    decay: Decay = knob(
        "linear", "how the learning rate falls: linear after the constant epochs, exponential from the start", "Steps"
    )
    constant_epochs: int = knob(100, "epochs before a linear decay", "Steps", least=0, only_with=("decay", ("linear",)))
    decay_epochs: int = knob(
        100, "epochs of a linear decay down to zero", "Steps", least=0, only_with=("decay", ("linear",))
    )
    decay_factor: float = knob(
        0.99, "factor of an exponential decay", "Steps", above=0, most=1, only_with=("decay", ("exponential",))
    )
    decay_every: int = knob(
        2, "epochs between two factors of an exponential decay", "Steps", least=1, only_with=("decay", ("exponential",))
    )
    seed: int = knob(0, "seed of the first weights, the pools and the order of pictures", "Steps", least=0)

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut; call it with (H, W, 3) uint8 pixels and a `Random` for (3, size, size) uint8.

    size: px, square. load: px that a picture's shorter side is resized to before (see `Pictures`), None keeps it.
    random: where it is cut; else from the centre. flip: mirror half of the crops.
    """

    size: int = 256
    load: int | None = None
    random: bool = True
    flip: bool = False

    def __post_init__(self) -> None:
        if self.size < 1:
            raise BadInput(f"crops of {self.size} px are none; give a size of at least 1")
        if self.load is not None and self.load < self.size:
            raise BadInput(f"pictures of {self.load} px hold no crops of {self.size}; load them at that size or more")

    def __call__(self, pixels: NDArray[np.uint8], rng: Random) -> Tensor:
        import torch

        height, width = pixels.shape[0] - self.size, pixels.shape[1] - self.size
        if min(height, width) < 0:
            raise BadInput(f"a picture of {pixels.shape[1]}x{pixels.shape[0]} holds no crop of {self.size} px")
        top, left = (rng.randint(0, height), rng.randint(0, width)) if self.random else (height // 2, width // 2)
        piece = pixels[top : top + self.size, left : left + self.size]
        if self.flip and rng.random() < 0.5:
            piece = piece[:, ::-1]
        return torch.from_numpy(piece.copy()).permute(2, 0, 1)
