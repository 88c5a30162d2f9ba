"""Whose generator is this? A table of the forms in which generators are published: how to know one by its keys and
shapes, and how to turn its state dict into this project's key names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from parallel_nst.errors import BadWeights
from parallel_nst.networks.generators.base import Generator
from parallel_nst.networks.generators.cyclegan import DnCNN, ResNetGenerator
from parallel_nst.networks.generators.microast import MicroAST
from parallel_nst.networks.generators.transformer import FORMS, TransformerNet, VGGDecoder
from parallel_nst.networks.weights.states import State

BUILDERS: dict[str, Callable[..., Generator]] = {
    "cyclegan-resnet": ResNetGenerator,
    "dncnn": DnCNN,
    "vgg-decoder": lambda encoder: vgg_decoder(encoder),
    "microast": MicroAST,
}
MOST_LAYERS = 500  # of one kind that files may ask for
MOST_HALVINGS = 8
LARGEST_TANH_INPUT = 10.0  # root mean square; a network without the final tanh has about 100 there


def build_generator(architecture: str, hyperparameters: Mapping[str, Any]) -> Generator:
    """An untrained generator; BadWeights for an architecture that there is not and for sizes that none has."""
    if architecture not in FORMS and architecture not in BUILDERS:
        raise BadWeights(f"unknown architecture {architecture[:60]!r}; known: {', '.join([*FORMS, *BUILDERS])}")
    for name in ("blocks", "depth"):
        if not 0 <= hyperparameters.get(name, 1) <= MOST_LAYERS:
            raise BadWeights(f"has {name} {hyperparameters[name]}; give 0 to {MOST_LAYERS}")
    if hyperparameters.get("norm", "instance") not in ("instance", "batch"):
        raise BadWeights(f"has norm {str(hyperparameters['norm'])[:60]!r}; known: instance, batch")
    if not 0 < hyperparameters.get("eps", 1.0) < float("inf"):
        raise BadWeights(f"has eps {hyperparameters['eps']}; give a number above 0")
    if architecture in FORMS:
        return TransformerNet(architecture, **hyperparameters)
    return BUILDERS[architecture](**hyperparameters)


def vgg_decoder(encoder: Sequence[int]) -> VGGDecoder:
    """BadWeights for more layers or halvings than pictures can have."""
    if len(encoder) > MOST_LAYERS or list(encoder).count(0) > MOST_HALVINGS:
        raise BadWeights(f"has an encoder of {len(encoder)} layers, {list(encoder).count(0)} of which halve")
    return VGGDecoder(encoder)


@dataclass(frozen=True)
class Candidate:
    """A generator to be loaded with a state dict of its own key names, and what a user should know of the file."""

    generator: Generator
    state: State
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Format:
    """One published form. keys: regular expressions, each of which must fit a key from its beginning to its end."""

    source: str
    keys: tuple[str, ...]
    read: Callable[[State], Candidate]

    def fits(self, state: State) -> bool:
        return all(any(re.fullmatch(pattern, key) for key in state) for pattern in self.keys)


def detect(state: State) -> tuple[Format, Candidate]:
    """The format of a canonical state dict, and what to load; BadWeights where it is none of them. The generator has no
    memory for its weights yet: the sizes that it was built by are a stranger's."""
    for form in FORMATS:
        if form.fits(state):
            try:
                with torch.device("meta"):
                    return form, form.read(state)
            except Exception as error:  # of any kind: shapes lead wherever they like
                raise BadWeights(f"looks like {form.source}, but {missing(error)}") from None
    for what, keys in OTHERS.items():
        if all(any(re.fullmatch(pattern, key) for key in state) for pattern in keys):
            raise BadWeights(f"is {what}, not a generator")
    first = ", ".join(list(state)[:3])[:200]
    raise BadWeights(f"holds no generator known here (its keys begin with {first}); known: {', '.join(sources())}")


def missing(error: Exception) -> str:
    return f"key {error.args[0]} is missing" if isinstance(error, KeyError) else "its shapes are not those"


def sources() -> list[str]:
    return [form.source for form in FORMATS]


def renamed(state: State, *rules: tuple[str, str]) -> dict[str, Tensor]:
    """With each regular expression replaced in all keys, one rule after the other."""
    result = {}
    for key, value in state.items():
        for pattern, text in rules:
            key = re.sub(pattern, text, key)
        result[key] = value
    return result


def without(state: State, pattern: str) -> tuple[dict[str, Tensor], list[str]]:
    """Without the keys that the regular expression finds, and these."""
    dropped = [key for key in state if re.search(pattern, key)]
    return {key: value for key, value in state.items() if key not in dropped}, dropped


def without_statistics(state: State) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Without the running statistics that old versions of PyTorch wrote for instance normalisation, and a note."""
    kept, dropped = without(state, r"\.(running_mean|running_var|num_batches_tracked)$")
    return kept, (f"{len(dropped)} running statistics that instance normalisation does not use left out",) * bool(
        dropped
    )


def count_of(state: State, pattern: str) -> int:
    """How many different numbers the one group of the regular expression finds in the keys."""
    return len({found[1] for key in state if (found := re.match(pattern, key))})


def transformer_net(form: str, state: State, notes: tuple[str, ...]) -> Candidate:
    """From a state dict of this project's key names, the sizes read off its shapes."""
    widths = [state[f"conv{number}.conv2d.weight"].shape[0] for number in (1, 2, 3)]
    return Candidate(TransformerNet(form, widths, count_of(state, r"res(\d+)\.")), state, notes)


def read_examples(state: State) -> Candidate:
    return transformer_net("transformer-net", *without_statistics(state))


def read_imagenet(state: State) -> Candidate:
    state = renamed(state, (r"^up([12])\.conv2d\.", r"deconv\1."), (r"^up3\.", "deconv3."))
    return transformer_net("transformer-net-imagenet", *without_statistics(state))


def read_aonet(state: State) -> Candidate:
    """Trained on BGR pixels, which the first and the last convolution are turned round for."""
    rules = (
        (r"^ConvBlock\.0\.", "conv1."),
        (r"^ConvBlock\.2\.", "conv2."),
        (r"^ConvBlock\.4\.", "conv3."),
        (r"^ResidualBlock\.(\d+)\.", lambda found: f"res{int(found[1]) + 1}."),
        (r"^DeconvBlock\.0\.", "deconv1."),
        (r"^DeconvBlock\.2\.", "deconv2."),
        (r"^DeconvBlock\.4\.", "deconv3."),
        (r"^conv(\d)\.norm_layer", r"in\1"),
        (r"^deconv(\d)\.norm_layer", lambda found: f"in{int(found[1]) + 3}"),
        (r"conv(\d)\.norm_layer", r"in\1"),
        (r"\.(conv_layer|conv_transpose)\.", ".conv2d."),
    )
    plain, notes = without_statistics(renamed(state, *rules))  # type: ignore[arg-type]
    plain["conv1.conv2d.weight"] = plain["conv1.conv2d.weight"].flip(1)
    for name in ("weight", "bias"):
        plain[f"deconv3.conv2d.{name}"] = plain[f"deconv3.conv2d.{name}"].flip(0)
    form = "aonet-tanh" if ends_in_tanh(plain) else "aonet"
    note = "trained on BGR pixels: colour channels of the first and last convolution turned round"
    return transformer_net(form, plain, (*notes, note))


def ends_in_tanh(state: State) -> bool:
    """Whether the last convolution aims at a tanh or at pixels from 0 to 255: a tanh leaves no trace in the keys, but
    behind a normalisation the size of what it is given can be reckoned from the weights."""
    gain, shift = state["in5.weight"].double(), state["in5.bias"].double()
    power = (
        state["deconv3.conv2d.weight"].double().square().sum((0, 2, 3)) / 3 * (gain.square() + shift.square()) / 2
    ).sum()
    return bool((power + state["deconv3.conv2d.bias"].double().square().mean()).sqrt() < LARGEST_TANH_INPUT)


def read_tensorflow(state: State) -> Candidate:
    """Variables in the order of their creation: weight, shift and scale of each layer."""
    found = {key: re.fullmatch(r"Variable(?:_(\d+))?(?::0)?", key) for key in state}
    numbered = {int(match[1] or 0): state[key] for key, match in found.items() if match}
    count = len(numbered) // 3 * 3
    if gaps := [f"Variable_{number}" for number in range(count) if number not in numbered]:
        raise KeyError(gaps[0])
    values = [numbered[number] for number in range(count)]
    blocks = (len(values) // 3 - 6) // 2
    layers = [("conv1.conv2d", "in1"), ("conv2.conv2d", "in2"), ("conv3.conv2d", "in3")]
    layers += [(f"res{b}.conv{c}.conv2d", f"res{b}.in{c}") for b in range(1, blocks + 1) for c in (1, 2)]
    layers += [("deconv1.conv2d", "in4"), ("deconv2.conv2d", "in5"), ("deconv3.conv2d", "in6")]
    plain: dict[str, Tensor] = {}
    for number, (conv, norm) in enumerate(layers):
        weight, shift, scale = values[3 * number : 3 * number + 3]
        # H, W, in, out and, transposed, H, W, out, in: the same turn gives PyTorch's order for either
        plain |= {
            f"{conv}.weight": weight.permute(3, 2, 0, 1).contiguous(),
            f"{norm}.bias": shift,
            f"{norm}.weight": scale,
        }
    return transformer_net("fast-style-transfer", plain, ())


def read_cyclegan(state: State) -> Candidate:
    """With dropout the second convolution of a block is number 6, not 5; dropout itself does nothing in use."""
    plain, notes = without_statistics(state)
    if any(".conv_block.6." in key for key in plain):
        plain = renamed(plain, (r"\.conv_block\.6\.", ".conv_block.5."))
        notes = (*notes, "trained with dropout, which is left out in use")
    blocks = count_of(plain, r"model\.(\d+)\.conv_block\.")
    return Candidate(ResNetGenerator(plain["model.1.weight"].shape[0], blocks), plain, notes)


def read_dncnn(state: State) -> Candidate:
    """Files of the course that this form comes from have the number of channels as epsilon of their normalisations,
    by mistake, and scales to go with it."""
    width, depth = state["conv.0.weight"].shape[0], count_of(state, r"bn\.(\d+)\.")
    large = bool(torch.stack([state[f"bn.{n}.weight"].mean() for n in range(depth)]).mean() > 0.5 * width**0.5)
    note = (f"scales of its normalisations are those of files trained with an epsilon of {width}, which is taken",)
    return Candidate(DnCNN(depth, width, float(width) if large else 1e-5), state, note * large)


def read_vgg_decoder(state: State) -> Candidate:
    numbers = sorted({int(key.split(".")[1]) for key in state if key.startswith("encoder.")})
    if numbers[-1] > MOST_LAYERS:
        raise BadWeights("too many layers")
    encoder: list[int] = []
    position = 0
    for number in numbers:
        encoder += [0] * (number - position)
        weight = state[f"encoder.{number}.weight"]
        encoder.append(weight.shape[0] if weight.dim() == 4 else -1)
        position = number + (2 if weight.dim() == 4 else 1)
    return Candidate(vgg_decoder(encoder), state)


def read_microast(state: State) -> Candidate:
    widths = [state[f"content_encoder.enc1.{n}.conv_layer.weight"].shape[0] for n in (0, 2, 6)]
    return Candidate(MicroAST(widths), state, ("takes any style picture",))


FORMATS = (
    Format(
        "fast-style-transfer (TensorFlow)",
        (r"Variable(:0)?", r"Variable_17(:0)?"),
        read_tensorflow,
    ),
    Format(
        "PyTorch examples, fast_neural_style", (r"conv1\.conv2d\.weight", r"deconv3\.conv2d\.weight"), read_examples
    ),
    Format("TransformerNet on ImageNet pixels", (r"conv1\.conv2d\.weight", r"up3\.conv2d\.weight"), read_imagenet),
    Format("TransformerNetwork with transposed convolutions", (r"ConvBlock\.0\..*", r"DeconvBlock\.4\..*"), read_aonet),
    Format("CycleGAN, ResNet", (r"model\.1\.weight", r"model\.\d+\.conv_block\.1\.weight"), read_cyclegan),
    Format("CycleGAN, DnCNN", (r"conv\.0\.weight", r"bn\.0\.running_mean"), read_dncnn),
    Format("VGG16 encoder-decoder", (r"encoder\.0\.weight", r"decoder\.\d+\.weight"), read_vgg_decoder),
    Format("MicroAST", (r"content_encoder\.enc1\..*", r"decoder\.dec1\..*"), read_microast),
)
OTHERS = {
    "the weights of the embedded backbone": (r"block1\.conv1\.weight",),
    "the weights of a VGG or SqueezeNet backbone": (r"features\.0\.(weight|bias)",),
    "the weights of a ResNet backbone": (r"layer1\.0\.conv1\.weight",),
    "a U-Net generator of pix2pix, which is not supported": (r"model\.model\..*",),
    "a CycleGAN discriminator": (r"model\.0\.weight", r"model\.11\.weight"),
    "one of the four files of MicroAST (give all four or their folder)": (r"(enc1|dec1|weight1)\..*",),
}
