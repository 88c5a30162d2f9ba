"""Training of a generator for one style: it is to make of any photograph what Gatys' method would make of it.

Johnson, Alahi, Fei-Fei: Perceptual Losses for Real-Time Style Transfer and Super-Resolution, 2016 (arXiv 1603.08155).
A frozen backbone measures what comes out: content against the photograph, style against one painting.

Shape letters: N pictures of a batch, C channels, H and W positions of a layer. Pictures are RGB in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from parallel_nst.errors import BadInput
from parallel_nst.files.images import resize
from parallel_nst.files.size import Size
from parallel_nst.networks.backbones.base import Backbone
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.published import build_generator
from parallel_nst.networks.generators.transformer import VGG16_ENCODER, VGGDecoder
from parallel_nst.painting.gatys.features import FeatureReader
from parallel_nst.painting.gatys.losses import content_sums, gram_loss, gram_part, gram_sums, variation_sums, wide
from parallel_nst.painting.gatys.objective import weighted_mean
from parallel_nst.painting.gatys.style import StyleTargets, measure_style
from parallel_nst.painting.tiles.geometry import Rect, whole_tile
from parallel_nst.training.objective import Batch, Losses, Phase
from parallel_nst.training.settings import FeedforwardSettings, Formula

FORM_OF = {"transformer": "transformer-net", "aonet": "aonet"}
FIRST_SPREAD = 32  # times PyTorch's first weights: a spread of 13 in pixels of 0 to 255
FROZEN_LAYERS = 20  # of VGG16's `features`, up to and with relu4_2, when the encoder comes with its weights


class StyleObjective(nn.Module):
    """The generator under the eye of a frozen backbone.

    forward: pictures (N, 3, H, W) under "images" -> losses, each a mean over the pictures of what one of them misses,
    times its weight; "total" is their sum. So the gradient of a batch is the mean of those of its parts, exactly with
    instance normalisation; with batch normalisation it is not, because every picture changes the statistics of all.
    Under autocast generator and backbone compute in its precision; sums and losses stay in float32.
    """

    def __init__(
        self, generator: Generator, backbone: Backbone, targets: StyleTargets, settings: FeedforwardSettings
    ) -> None:
        super().__init__()
        self.generator = generator
        self._judged_by = (backbone, targets)  # in a tuple: no part of what is trained or wrapped
        self.settings = settings

    def forward(self, batch: Batch) -> Losses:
        photos = batch["images"]
        dtype, kind = precision(photos.device), photos.device.type
        painted = wide(self.generator(photos, clamp=False))
        with torch.autocast(kind, enabled=False):
            return self.losses(photos, painted, dtype)

    def losses(self, photos: Tensor, painted: Tensor, dtype: torch.dtype) -> Losses:
        """Of what was painted, not clamped, of photographs. dtype: of the backbone."""
        settings, layers = self.settings, self.settings.layers_used
        backbone, targets = self._judged_by
        with torch.no_grad():
            wanted = backbone(photos, layers.content, dtype)
        features = backbone(painted, {**layers.style, **layers.content}, dtype)
        losses = {
            "content": settings.content_weight * content_loss(features, wanted, targets, settings),
            "style": settings.style_weight * style_losses(features, targets, settings),
            "variation": settings.tv_weight * variation(painted),
        }
        return {"total": sum(losses.values(), torch.zeros_like(losses["style"])), **losses}


def precision(device: torch.device) -> torch.dtype:
    """Of the autocast that is on for this kind of device, float32 if none is."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else torch.float32


def content_loss(
    features: Mapping[str, Tensor], wanted: Mapping[str, Tensor], targets: StyleTargets, settings: FeedforwardSettings
) -> Tensor:
    """Mean squared difference of the content layers' features (N, C, H, W), over `targets.powers`."""
    terms = {
        name: content_sums(features[name], wanted[name]) / (places(features[name]) * targets.powers[name])
        for name in settings.layers_used.content
    }
    return together(terms, settings.layers_used.content, settings.formula)


def style_losses(features: Mapping[str, Tensor], targets: StyleTargets, settings: FeedforwardSettings) -> Tensor:
    """Mean over pictures of the squared distance of their Gram means from the style's, over `targets.norms`."""
    terms = {
        name: gram_loss(gram_means(features[name]), gram_part(targets.grams[name]), targets.norms[name])
        / len(features[name])
        for name in settings.layers_used.style
    }
    return together(terms, settings.layers_used.style, settings.formula)


def together(terms: Mapping[str, Tensor], weights: Mapping[str, float], formula: Formula) -> Tensor:
    """The weighted mean of the layers' terms, or their weighted sum where the formula is raw."""
    mean = weighted_mean(terms, weights)
    return mean * sum(weights.values()) if formula == "raw" else mean


def places(features: Tensor) -> int:
    """N H W."""
    return features.shape[0] * features.shape[2] * features.shape[3]


def gram_means(features: Tensor) -> Tensor:
    """Gram mean of each picture (N, C, C), of features (N, C, H, W)."""
    positions = features.shape[2] * features.shape[3]
    return torch.stack([gram_sums(picture) for picture in features.split_with_sizes([1] * len(features))]) / positions


def variation(pictures: Tensor) -> Tensor:
    """Squared differences of neighbouring pixels, summed over both directions, as a mean over all numbers."""
    height, width = pictures.shape[-2:]
    return variation_sums(pictures, Rect(0, 0, height, width)) / pictures.numel()


def measured_targets(backbone: Backbone, style: Tensor, settings: FeedforwardSettings) -> StyleTargets:
    """What the style picture (1, 3, H, W) asks for, and the units of the losses.

    Relative: |G_s|^2 and the mean square of the style's content features, as in `gatys`. Raw: the PyTorch examples'
    fast_neural_style, mean squared errors of features and of Gram matrices divided by C H W.
    """
    height, width = style.shape[-2:]
    layers = settings.layers_used
    with torch.no_grad():
        reader = FeatureReader(backbone, layers, style.dtype)
        sums = measure_style(reader, style, whole_tile(height, width))
    targets = sums.targets
    if settings.formula == "relative":
        return targets
    channels = {name: len(gram_part(gram)) for name, gram in targets.grams.items()}
    return replace(
        targets,
        norms={name: (count / settings.feature_scale) ** 4 for name, count in channels.items()},
        powers=dict.fromkeys(targets.powers, settings.feature_scale**-2),
    )


def style_picture(pixels: NDArray[np.float32], style_size: int, crop: int) -> Tensor:
    """A style picture (H, W, 3) as (1, 3, h, w), reduced to a shorter side of `style_size` px, never enlarged.

    BadInput when it would be smaller than the crops it is compared with: statistics of so few positions say little.
    """
    height, width = pixels.shape[:2]
    side = min(style_size or height, height, width)
    if side < crop:
        raise BadInput(
            f"the style picture is {width}x{height} px and is used with a shorter side of {side} px, smaller than the "
            f"crops of {crop} px; give a larger picture, a larger --style-size or a smaller --crop"
        )
    if style_size and side < min(height, width):
        scale = side / min(height, width)
        pixels = resize(pixels, Size(round(height * scale), round(width * scale)))
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]


def new_generator(settings: FeedforwardSettings) -> Generator:
    """With its first weights, drawn from the seed; the state of the global random generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.architecture == "vgg16-decoder":
            return new_decoder(settings.width or VGG16_ENCODER[0])
        width = settings.width or 32
        sizes = {"widths": [width, 2 * width, 4 * width], "blocks": settings.blocks, "norm": settings.norm}
        return build_generator(FORM_OF[settings.architecture], sizes)


def new_decoder(width: int) -> Generator:
    """VGG16's encoder, `width` channels at its first convolution, and a decoder. Nothing normalises the encoder's
    convolutions, so they begin as He et al. 2015 (arXiv 1502.01852) have it, which keeps the size of activations."""
    widths = [channels * width // VGG16_ENCODER[0] if channels > 0 else channels for channels in VGG16_ENCODER]
    generator = VGGDecoder(widths)
    for layer in generator.encoder:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return generator


def take_encoder(generator: Generator, weights: Mapping[str, Tensor]) -> None:
    """Put torchvision's VGG16 into the encoder and freeze its first 20 layers, as the source of this generator does.
    BadInput where the generator has no such encoder."""
    encoder = generator.vgg_encoder()
    if encoder is None:
        raise BadInput(f"weights for an encoder are given, but {generator.architecture} has none")
    own = {f"encoder.{key.removeprefix('features.')}": value for key, value in weights.items()}
    for key, value in generator.state_dict().items():
        layer = key.split(".")[1]
        if key.startswith("encoder.") and isinstance(encoder[int(layer)], nn.Conv2d):
            if key not in own or own[key].shape != value.shape:
                raise BadInput(f"the encoder's weights lack {key.replace('encoder', 'features')} of VGG16's shape")
            value.copy_(own[key])
    encoder[:FROZEN_LAYERS].requires_grad_(False)


def take_weights(generator: Generator, weights: Mapping[str, Tensor]) -> None:
    """Put another generator's weights in. BadInput, in one line, where it has another shape."""
    own, other = ({key: value.shape for key, value in state.items()} for state in (generator.state_dict(), weights))
    if own != other:
        raise BadInput(
            f"the generator to start with has not the shape of the {generator.architecture} that is to be trained, "
            f"{generator.hyperparameters}; give its --arch, --width, --blocks and --norm (pnst models inspect)"
        )
    generator.load_state_dict(weights)


def begin_at(generator: Generator, colour: Tensor) -> None:
    """Let the last convolution begin about this colour (3,), in [0, 1], with a spread that can be seen.

    Its pixels go up to 255 while weights move by the learning rate a step. From PyTorch's first weights, which give
    black with a spread of 0.4, the style loss was after 100 steps where it is after 25 when begun so.
    """
    last = [layer for layer in generator.modules() if isinstance(layer, nn.Conv2d)][-1]
    assert last.bias is not None
    with torch.no_grad():
        last.weight.mul_(FIRST_SPREAD)
        last.bias.copy_(generator.made.enter(colour.view(1, 3, 1, 1).to(last.bias)).flatten())


def cosine(steps: int, last: float) -> Callable[[int], float]:
    """Share of the learning rate at a step: a half cosine from 1 to `last`."""
    return lambda step: last + (1 - last) * (1 + math.cos(math.pi * min(step / max(1, steps), 1.0))) / 2


class Feedforward:
    """The objective that the loop trains (see `training.objective`): one generator, one phase.

    style: the picture (1, 3, H, W), as `style_picture` gives it; its precision is that of the networks. backbone:
    frozen, moved to the device. steps: of the whole training, which the learning rate falls over. encoder: VGG16's
    weights for a vgg16-decoder, torchvision's key names. start: weights of a generator of the same shape, to begin
    with in place of random ones. BadInput for weights that do not fit.
    """

    def __init__(
        self,
        settings: FeedforwardSettings,
        style: Tensor,
        backbone: Backbone,
        *,
        steps: int,
        encoder: Mapping[str, Tensor] | None = None,
        start: Mapping[str, Tensor] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = settings
        self.generator = new_generator(settings)
        if encoder is not None:
            take_encoder(self.generator, encoder)
        if start is None:
            begin_at(self.generator, style.mean((0, 2, 3)))
        else:
            take_weights(self.generator, start)
        self.generator.to(device, style.dtype)
        backbone, style = backbone.to(device, style.dtype), style.to(device)
        module = StyleObjective(self.generator, backbone, measured_targets(backbone, style, settings), settings)
        trained = [weight for weight in module.parameters() if weight.requires_grad]
        optimizer = torch.optim.Adam(trained, lr=settings.learning_rate)
        schedule = LambdaLR(optimizer, cosine(steps, settings.last_rate))
        self.networks: Mapping[str, nn.Module] = {"generator": self.generator}
        self.generators: Mapping[str, Generator] = {"generator": self.generator}
        self.phases: Sequence[Phase] = [Phase("generator", module, optimizer, schedule)]

    def memory(self) -> Mapping[str, Any]:
        """Nothing: all there is lies in the network and its optimiser."""
        return {}

    def restore(self, memory: Mapping[str, Any]) -> None:
        """Nothing to take back."""

    def sample(self, inputs: Batch) -> Tensor:
        """The pictures under "images" as the generator paints them."""
        return looked_at(self.generator, inputs["images"])


@torch.no_grad()
def looked_at(generator: Generator, pictures: Tensor) -> Tensor:
    """What a generator makes of pictures when it is not training; it goes back to whatever it was doing."""
    training = generator.training
    generator.eval()
    made: Tensor = generator(pictures)
    generator.train(training)
    return made
