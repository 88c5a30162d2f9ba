"""Files of generators: what is published loads as it is found, what is no generator is refused in one line."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from small_generators import NARROW, as_variables, microast_files, picture, same_pictures, small
from torch import nn

from parallel_nst.networks.generators.cyclegan import ResNetGenerator
from parallel_nst.networks.generators.files import OWN, read_generator, save_generator
from parallel_nst.networks.generators.published import FORMATS, detect
from parallel_nst.networks.generators.transformer import TransformerNet

CHECKPOINTS = Path(__file__).parents[3] / "shared/data/checkpoints"
needs_checkpoints = pytest.mark.skipif(not CHECKPOINTS.exists(), reason="no public checkpoints here")


@pytest.mark.parametrize("name", NARROW)
def test_what_is_saved_is_read_back(name, tmp_path):
    generator = small(name)
    save_generator(generator, tmp_path / "own.safetensors", {"epochs": "2"})
    read, info = read_generator(tmp_path / "own.safetensors")
    assert all(torch.equal(value, generator.state_dict()[key]) for key, value in read.state_dict().items())
    assert (read.architecture, read.hyperparameters) == (generator.architecture, generator.hyperparameters)
    assert (info.architecture, info.source) == (name, OWN)
    assert info.parameters == sum(parameter.numel() for parameter in generator.parameters())
    assert same_pictures(read, generator)
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        assert file.metadata()["epochs"] == "2"
    assert [path.name for path in tmp_path.iterdir()] == ["own.safetensors"]
    assert not any(parameter.requires_grad for parameter in read.parameters()) and not read.training


def test_half_precision_takes_half_the_space_and_reads_as_float32(tmp_path):
    generator = TransformerNet(widths=(8, 16, 32))
    save_generator(generator, tmp_path / "full.safetensors")
    save_generator(generator, tmp_path / "half.safetensors", half=True)
    full, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("full", "half"))
    assert half < 0.6 * full
    read, _ = read_generator(tmp_path / "half.safetensors")
    assert {value.dtype for value in read.state_dict().values()} == {torch.float32}
    assert same_pictures(read, generator, 0.01)


def test_metadata_cannot_name_another_architecture(tmp_path):
    save_generator(small("dncnn"), tmp_path / "g.safetensors", {"architecture": "microast"})
    assert read_generator(tmp_path / "g.safetensors")[1].architecture == "dncnn"


@pytest.mark.parametrize("name", ["transformer-net", "cyclegan-resnet", "dncnn", "vgg-decoder", "microast"])
def test_a_state_dict_alone_says_what_it_is(name, tmp_path):
    """The other forms are published under key names of their own and have tests of their own."""
    generator = small(name)
    torch.save(generator.state_dict(), tmp_path / "plain.pth")
    read, info = read_generator(tmp_path / "plain.pth")
    assert info.architecture == name and same_pictures(read, generator)


def wrapped(state, how):
    """The same weights as other people save them."""
    if how == "data parallel":
        return {f"module.{key}": value for key, value in state.items()}
    if how == "compiled and parallel":
        return {f"module._orig_mod.{key}": value for key, value in state.items()}
    if how == "checkpoint":
        return {"epoch": 3, "optimizer": {"lr": 0.1}, "state_dict": state}
    return {"model": {"params": wrapped(state, "data parallel")}, "loss": 0.5}


@pytest.mark.parametrize("how", ["data parallel", "compiled and parallel", "checkpoint", "nested"])
@pytest.mark.parametrize("legacy", [False, True])
def test_wrapping_is_taken_off(how, legacy, tmp_path):
    generator = small("transformer-net")
    torch.save(wrapped(generator.state_dict(), how), tmp_path / "g.pth", _use_new_zipfile_serialization=not legacy)
    assert same_pictures(read_generator(tmp_path / "g.pth")[0], generator)


def with_statistics(state, norms):
    """As PyTorch before 0.4 saved instance normalisation."""
    counted = dict(state)
    for name, channels in norms:
        counted[f"{name}.running_mean"] = torch.zeros(channels)
        counted[f"{name}.running_var"] = torch.ones(channels)
    return counted


def test_deprecated_statistics_of_the_pytorch_examples_are_left_out(tmp_path):
    generator = small("transformer-net")
    torch.save(with_statistics(generator.state_dict(), [("in1", 4), ("res1.in2", 6), ("in5", 4)]), tmp_path / "old.pth")
    read, info = read_generator(tmp_path / "old.pth")
    assert same_pictures(read, generator)
    assert info.notes == ("6 running statistics that instance normalisation does not use left out",)


def test_the_imagenet_form_is_known_by_its_key_names(tmp_path):
    generator = small("transformer-net-imagenet")
    names = {"deconv1.": "up1.conv2d.", "deconv2.": "up2.conv2d.", "deconv3.": "up3."}
    state = {}
    for key, value in generator.state_dict().items():
        state[next((new + key.removeprefix(old) for old, new in names.items() if key.startswith(old)), key)] = value
    torch.save({"state_dict": state, "content_weight": 1.0, "num_of_datapoints": 7}, tmp_path / "mosaic.pth")
    read, info = read_generator(tmp_path / "mosaic.pth")
    assert info.architecture == "transformer-net-imagenet" and same_pictures(read, generator)


class BlockNetwork(nn.Module):
    """The public form with transposed convolutions, from PyTorch's own modules; pixels BGR, 0 to 255."""

    class Layer(nn.Module):
        def __init__(self, conv, norm=True):
            super().__init__()
            setattr(self, "conv_transpose" if isinstance(conv, nn.ConvTranspose2d) else "conv_layer", conv)
            self.norm_layer = nn.InstanceNorm2d(conv.out_channels, affine=True) if norm else nn.Identity()
            self.conv = [conv]

        def forward(self, x):
            return self.norm_layer(self.conv[0](x))

    class Block(nn.Module):
        def __init__(self, layers):
            super().__init__()
            self.conv1, self.conv2 = layers

        def forward(self, x):
            return x + self.conv2(torch.relu(self.conv1(x)))

    def __init__(self, tanh):
        super().__init__()
        layer, relu = self.Layer, nn.ReLU

        def conv(i, o, k, s=1):
            return nn.Conv2d(i, o, k, s, k // 2, padding_mode="reflect")

        def wide(i, o):
            return nn.ConvTranspose2d(i, o, 3, 2, 1, 1)

        down = [layer(conv(3, 4, 9)), relu(), layer(conv(4, 5, 3, 2)), relu(), layer(conv(5, 6, 3, 2)), relu()]
        self.ConvBlock = nn.Sequential(*down)
        self.ResidualBlock = nn.Sequential(*(self.Block([layer(conv(6, 6, 3)) for _ in range(2)]) for _ in range(2)))
        up = [layer(wide(6, 5)), relu(), layer(wide(5, 4)), relu(), layer(conv(4, 3, 9), norm=False)]
        self.DeconvBlock = nn.Sequential(*up, *([nn.Tanh()] if tanh else []))
        self.tanh = tanh
        if not tanh:  # as training leaves it: the last convolution gives pixels
            with torch.no_grad():
                self.DeconvBlock[4].conv_layer.weight.mul_(200)
                self.DeconvBlock[4].conv_layer.bias.fill_(120)

    def forward(self, picture):
        y = self.DeconvBlock(self.ResidualBlock(self.ConvBlock(picture.flip(1) * 255)))
        return ((150 * y if self.tanh else y).flip(1) / 255).clamp(0, 1)


@pytest.mark.parametrize("tanh", [False, True])
def test_the_form_with_transposed_convolutions_gives_the_pictures_of_its_own_network(tanh, tmp_path):
    torch.manual_seed(0)
    network, content = BlockNetwork(tanh), picture(32, 40, dtype=torch.float32)
    torch.save(network.state_dict(), tmp_path / "starry.pth")
    read, info = read_generator(tmp_path / "starry.pth")
    assert info.architecture == ("aonet-tanh" if tanh else "aonet")
    with torch.no_grad():
        assert (read(content) - network(content)).abs().max() < 1e-4


def test_tensorflow_variables_are_put_in_their_places(tmp_path):
    generator = small("fast-style-transfer")
    np.savez(tmp_path / "wave.npz", **as_variables(generator))
    read, info = read_generator(tmp_path / "wave.npz")
    assert info.source == "fast-style-transfer (TensorFlow)" and same_pictures(read, generator)


def test_leftovers_and_dropout_of_cyclegan_are_understood(tmp_path):
    generator = ResNetGenerator(4, 2)
    state = {key.replace("conv_block.5.", "conv_block.6."): v for key, v in generator.state_dict().items()}
    norms = [("model.2", 4), ("model.10.conv_block.2", 16)]
    state = with_statistics(state, norms) | {"model.2.num_batches_tracked": torch.tensor(3)}
    torch.save(state, tmp_path / "latest_net_G.pth")
    read, info = read_generator(tmp_path / "latest_net_G.pth")
    assert same_pictures(read, generator) and read.hyperparameters == {"width": 4, "blocks": 2}
    assert len(info.notes) == 2 and "dropout" in info.notes[1]


def test_the_courses_epsilon_of_dncnn_is_recognised(tmp_path):
    generator = small("dncnn")
    state = generator.state_dict()
    for number in range(2):
        state[f"bn.{number}.weight"] = torch.full((5,), 1.25 * 5**0.5)
    torch.save(state, tmp_path / "dncnn.pth")
    read, info = read_generator(tmp_path / "dncnn.pth")
    assert read.hyperparameters["eps"] == 5.0 and "epsilon of 5" in info.notes[0]


def test_microast_comes_in_four_files_or_their_folder(tmp_path):
    generator, paths = microast_files(tmp_path)
    for given in (tmp_path, paths, paths[::-1]):
        read, info = read_generator(given)
        assert info.source == "MicroAST" and read.takes_style and same_pictures(read, generator)


def test_an_incomplete_microast_says_what_is_there(tmp_path):
    _, (content, style, modulator, decoder) = microast_files(tmp_path)
    with pytest.raises(ValueError, match=r"holds 2 of MicroAST's four networks \(decoder, modulator\); give all four"):
        read_generator([modulator, decoder])
    with pytest.raises(ValueError, match=r"decoder_iter_9.*is one of the four files of MicroAST"):
        read_generator(decoder)
    with pytest.raises(ValueError, match="two files of MicroAST's content encoder"):
        read_generator([content, content, modulator, decoder])
    odd = style.rename(tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match=r"encoder \(encoder.pth\) without content or style in its name"):
        read_generator([content, odd, modulator, decoder])


def saved(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


class Whole(nn.Module):
    """A model of somebody else's, saved whole."""


class Wicked:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def damaged():
    whole = saved(small("transformer-net").state_dict())
    return whole[: len(whole) // 2]


REFUSED = {
    "empty.pth": (lambda: b"", "is empty"),
    "page.pth": (lambda: b"\n<!DOCTYPE html><html>quota exceeded</html>", "is a web page"),
    "pointer.pth": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer of Git LFS"),
    "text.pth": (lambda: b"these are no weights, dear\n", "is a text file"),
    "keras.h5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(64), "is an HDF5 file"),
    "net.t7": (lambda: b"\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00V 1", "is a Lua Torch file"),
    "lua.pth": (lambda: b"\x04\x00\x00\x00\x01\x00\x00\x00\x03\x00\x00\x00V 1", "is a Lua Torch file"),
    "net.onnx": (lambda: b"\x08\x07\x12\x07pytorch", "is an ONNX file"),
    "short.pth": (damaged, "is cut short"),
    "short.safetensors": (lambda: (1 << 20).to_bytes(8, "little") + b'{"a":', "damaged or cut short"),
    "noise.pth": (lambda: bytes(range(128, 256)) * 4, "damaged or no PyTorch file"),
    "model.pth": (lambda: saved(Whole()), r"holds Python objects \(test_generator_files.Whole\)"),
    "pickle.pth": (lambda: pickle.dumps({"a": [1.0]}), "damaged or no PyTorch file"),
    "list.pth": (lambda: saved([1, 2]), "holds no state dict"),
    "training.pth": (lambda: saved({"step": 3, "networks": {"a": {}}, "optimizers": {}}), "a training goes on from"),
    "mixed.pth": (lambda: saved({"a": torch.zeros(1), "b": 3}), "holds no state dict"),
    "vgg.pth": (lambda: saved({"features.0.weight": torch.zeros(4, 3, 3, 3)}), "backbone, not a generator"),
    "embedded.pth": (lambda: saved({"block1.conv1.weight": torch.zeros(4, 3, 3, 3)}), "embedded backbone, not a gen"),
    "resnet.pth": (lambda: saved({"layer1.0.conv1.weight": torch.zeros(4, 4, 1, 1)}), "ResNet backbone"),
    "pix.pth": (lambda: saved({"model.model.0.weight": torch.zeros(1)}), "U-Net generator of pix2pix"),
    "D.pth": (
        lambda: saved({f"model.{n}.weight": torch.zeros(1, 1, 4, 4) for n in (0, 2, 5, 8, 11)}),
        "is a CycleGAN discriminator, not a generator",
    ),
    "else.pth": (lambda: saved({"layer.weight": torch.zeros(3)}), "no generator known here .*layer.weight"),
    "part.pth": (
        lambda: saved({k: v for k, v in small("transformer-net").state_dict().items() if k != "in4.bias"}),
        "looks like transformer-net, but key in4.bias is missing",
    ),
    "more.pth": (
        lambda: saved(small("transformer-net").state_dict() | {"in9.bias": torch.zeros(1)}),
        "key in9.bias is not known",
    ),
    "shape.pth": (
        lambda: saved(small("transformer-net").state_dict() | {"in4.bias": torch.zeros(1)}),
        r"in4.bias has shape \(1,\) instead of \(5,\)",
    ),
    "nan.pth": (
        lambda: saved(small("transformer-net").state_dict() | {"in4.bias": torch.full((5,), float("nan"))}),
        "in4.bias holds infinite values or NaN",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_generator_is_refused_in_one_line(name, tmp_path):
    content, message = REFUSED[name]
    path = tmp_path / name
    path.write_bytes(content())
    with pytest.raises(ValueError, match=message) as caught:
        read_generator(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_nothing_in_a_file_is_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"state_dict": Wicked(str(trace))}, tmp_path / "wicked.pth")
    with pytest.raises(ValueError, match="holds Python objects"):
        read_generator(tmp_path / "wicked.pth")
    assert not trace.exists()


def test_torchscript_and_object_arrays_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/constants.pkl", b"\x80\x02).")
        archive.writestr("script/data.pkl", b"\x80\x02).")
        archive.writestr("script/code/__torch__.py", "")
        archive.writestr("script/version", "3\n")
    np.savez(tmp_path / "objects.npz", Variable=np.array([{}], dtype=object))
    for name in ("script.pt", "objects.npz"):
        with pytest.raises(ValueError, match=f"{name} ") as caught:
            read_generator(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_metadata_that_is_wrong_is_refused(tmp_path):
    state = small("dncnn").state_dict()
    wrong = ({"architecture": "dcgan", "hyperparameters": "{}"}, {"architecture": "dncnn", "hyperparameters": "{"})
    for metadata, message in zip(wrong, ("unknown architecture 'dcgan'; known: ", "metadata that cannot"), strict=True):
        save_file(state, tmp_path / "g.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match=message):
            read_generator(tmp_path / "g.safetensors")


def test_folders_and_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder without weights"):
        read_generator(tmp_path)
    with pytest.raises(ValueError, match=r"nothing\.pth does not exist"):
        read_generator(tmp_path / "nothing.pth")
    with pytest.raises(ValueError, match="no file of weights given"):
        read_generator([])


@pytest.mark.parametrize("name", NARROW)
def test_hyperparameters_travel_as_json(name):
    generator = NARROW[name]()
    assert json.loads(json.dumps(generator.hyperparameters)) == generator.hyperparameters


def test_no_two_formats_claim_the_same_file():
    states = [
        small(name).state_dict() for name in ("transformer-net", "cyclegan-resnet", "dncnn", "vgg-decoder", "microast")
    ]
    states += [
        BlockNetwork(False).state_dict(),
        dict.fromkeys(as_variables(small("fast-style-transfer")), torch.zeros(1)),
    ]
    for state in states:
        assert len([form for form in FORMATS if form.fits(state)]) == 1
    assert detect(states[0])[0].source == "PyTorch examples, fast_neural_style"


@needs_checkpoints
@pytest.mark.parametrize("name", ["la_muse", "rain_princess", "udnie", "wave"])
def test_public_fast_style_checkpoints(name):
    generator, info = read_generator(CHECKPOINTS / f"{name}.npz")
    assert (info.architecture, info.parameters) == ("fast-style-transfer", 1_677_638)
    content = picture(96, 96, dtype=torch.float32)
    stylised = generator(content)
    assert 0.1 < stylised.std() < 0.4 and 0.2 < stylised.mean() < 0.8
    assert (stylised - content).abs().mean() > 0.1


@needs_checkpoints
def test_public_microast():
    generator, info = read_generator(CHECKPOINTS / "microast")
    assert (info.architecture, info.parameters) == ("microast", 471_987)
    content = picture(96, 96, dtype=torch.float32)
    red, blue = (content * torch.tensor(tint).view(1, 3, 1, 1) for tint in ((1.0, 0.2, 0.2), (0.2, 0.2, 1.0)))
    stylised = generator(content, generator.encode_style(red)) - generator(content, generator.encode_style(blue))
    assert stylised[:, 0].mean() > 0.2 and stylised[:, 2].mean() < -0.2
