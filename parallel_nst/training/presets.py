"""Named recipes of training: the numbers of papers and public code, and where each comes from.

Numbers of the sources that name VGG's layers stand with VGG16, whose weights they were chosen for. The embedded
backbone has layers of the same names, but features of another size: with it use `default`, whose losses carry over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from parallel_nst.errors import BadInput
from parallel_nst.recipe import LayerWeights
from parallel_nst.training.settings import CropSettings, CycleSettings, FeedforwardSettings

JOHNSON_LAYERS = LayerWeights(
    style=dict.fromkeys(("relu1_2", "relu2_2", "relu3_3", "relu4_3"), 1.0), content={"relu2_2": 1.0}
)
BYTES_OVER_DEVIATION = 57.6  # 255 times the mean of ImageNet's standard deviations


@dataclass(frozen=True)
class Preset:
    """A whole training but for its pictures.

    source: whose numbers these are. batch: pictures a step, over all workers. epochs: over the pictures; 0 where
    `steps` says how long. shuffle: whether each epoch has an order of its own.
    """

    source: str
    objective: FeedforwardSettings | CycleSettings
    crop: CropSettings = field(default_factory=CropSettings)
    batch: int = 4
    epochs: int = 0
    steps: int = 0
    shuffle: bool = True

    def __post_init__(self) -> None:
        if (self.epochs > 0) == (self.steps > 0):
            raise BadInput(f"epochs {self.epochs} and steps {self.steps}; give exactly one of them a value above 0")

    def length(self, epoch_steps: int) -> int:
        """Steps in all, with so many in an epoch."""
        return self.steps or self.epochs * epoch_steps

    def readable(self) -> Mapping[str, Any]:
        """All numbers in plain containers, for checkpoints and for the file that is written."""
        return dict(asdict(self))

    def to_json(self) -> str:
        """`readable` in one line, keys sorted."""
        return json.dumps(self.readable(), sort_keys=True)


FEEDFORWARD = {
    "default": Preset(
        "this project: losses in units of the style's own features, on the embedded backbone",
        FeedforwardSettings(),
        CropSettings(256, load=286, flip=True),
        steps=3000,
    ),
    "small": Preset(
        "this project: as `default` with a quarter of the parameters, on crops of 128 px; a quarter of an hour of one "
        "processor core in bfloat16",
        FeedforwardSettings(width=16),
        CropSettings(128, load=192, flip=True),
        steps=2000,
    ),
    "johnson": Preset(
        "pytorch/examples fast_neural_style: content relu2_2 1e5, style 1e10 on Gram / (C H W), Adam 1e-3, batch 4, "
        "2 epochs, seed 42; 256 px from the centre, not shuffled; the style picture at its own size",
        FeedforwardSettings(
            backbone="vgg16",
            layers=JOHNSON_LAYERS,
            formula="raw",
            content_weight=1e5,
            style_weight=1e10,
            style_size=0,
            learning_rate=1e-3,
            last_rate=1.0,
            seed=42,
        ),
        CropSettings(256, load=256, random=False),
        epochs=2,
        shuffle=False,
    ),
    "dash-app": Preset(
        "content relu2_2 17, style 50 on all layers, Adam 1e-3, batch 4, 1 epoch, 256 px from the centre. Its pixels "
        "went into VGG16 as 0 to 255 without a division, hence the scale of features",
        FeedforwardSettings(
            architecture="aonet",
            backbone="vgg16",
            layers=JOHNSON_LAYERS,
            formula="raw",
            feature_scale=BYTES_OVER_DEVIATION,
            content_weight=17.0,
            style_weight=50.0,
            style_size=256,
            learning_rate=1e-3,
            last_rate=1.0,
        ),
        CropSettings(256, load=256, random=False),
        epochs=1,
    ),
    "dash-app-vgg16": Preset(
        "the VGG16 encoder-decoder beside it: content relu1_2 1, style 5; else as `dash-app`",
        FeedforwardSettings(
            architecture="vgg16-decoder",
            backbone="vgg16",
            layers=LayerWeights(JOHNSON_LAYERS.style, {"relu1_2": 1.0}),
            formula="raw",
            feature_scale=BYTES_OVER_DEVIATION,
            content_weight=1.0,
            style_weight=5.0,
            style_size=256,
            learning_rate=1e-3,
            last_rate=1.0,
        ),
        CropSettings(256, load=256, random=False),
        epochs=1,
    ),
}
CYCLEGAN = {
    "official": Preset(
        "junyanz/pytorch-CycleGAN-and-pix2pix: Adam 2e-4 with beta1 0.5, batch 1, lambda 10, identity 0.5, pool 50, "
        "100 epochs constant and 100 falling to zero; 286 px, random crops of 256, half of them mirrored",
        CycleSettings(),
        CropSettings(256, load=286, flip=True),
        batch=1,
        epochs=200,
    ),
    "ece285": Preset(
        "ece285: DnCNN of depth 6 with 64 channels, five 3x3 convolutions as discriminator, three Adams of 2e-3 with "
        "betas 0.5 and 0.999, batch 16, factor 0.99 every second epoch, least squares, 200 epochs. It says nothing of "
        "a pool and of identity, which are off; sizes of crops are the official ones",
        CycleSettings(
            generator="dncnn",
            discriminator="conv5",
            identity_weight=0.0,
            pool=0,
            learning_rate=2e-3,
            decay="exponential",
        ),
        CropSettings(256, load=286, flip=True),
        batch=16,
        epochs=200,
    ),
    "ece285-slow": Preset(
        "ece285's other run: Adams of 1e-3 that do not fall, batch 2; else as `ece285`",
        CycleSettings(
            generator="dncnn",
            discriminator="conv5",
            identity_weight=0.0,
            pool=0,
            learning_rate=1e-3,
            decay="exponential",
            decay_factor=1.0,
        ),
        CropSettings(256, load=286, flip=True),
        batch=2,
        epochs=200,
    ),
}
