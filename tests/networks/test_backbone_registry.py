"""Weights: safe reading, 8 bits, and refusals in one line."""

import hashlib
import io
import pickle
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny_networks import tiny_state

from parallel_nst.errors import BadWeights
from parallel_nst.files.images import read_image
from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone, load_weights
from parallel_nst.networks.backbones.registry import BACKBONES, BUNDLED
from parallel_nst.networks.backbones.resnet import ResNet
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG, VGG16_WIDTHS, VGG19_WIDTHS
from parallel_nst.networks.weights import download
from parallel_nst.networks.weights.quantised import quantised, save_quantised
from parallel_nst.networks.weights.states import read_state
from parallel_nst.painting.planning.forecast import untrained

SQUEEZENET = Path(__file__).parents[3] / "shared/data/weights/squeezenet1_0.safetensors"
PHOTOS = Path(__file__).parents[3] / "shared/data/photos"
CLASSES = {"n01440764": 0, "n01443537": 1}  # of ImageNet: tench and goldfish
PUBLIC = {
    "vgg16": lambda: VGG(VGG16_WIDTHS),
    "vgg19": lambda: VGG(VGG19_WIDTHS),
    "resnet50": ResNet,
    "squeezenet": SqueezeNet,
}


def public_state(name):
    """Weights in the form of the public file, classifier and all, drawn at random."""
    classifier = "fc" if name == "resnet50" else "classifier.1"
    rest = {f"{classifier}.weight": torch.zeros(10, 4), f"{classifier}.bias": torch.zeros(10)}
    return PUBLIC[name]().state_dict() | rest


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(tiny_state(), path)
    return path


def test_widths_are_read_from_the_weights(weights):
    backbone = build_backbone("embedded", load_weights("embedded", weights))
    assert isinstance(backbone, Embedded)
    assert backbone.layers["relu3_1"].channels == 8
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_pytorch_files_are_read_too(tmp_path):
    torch.save(tiny_state(), tmp_path / "plain.pth")
    torch.save({"state_dict": tiny_state()}, tmp_path / "wrapped.pth")
    for name in ("plain.pth", "wrapped.pth"):
        read = read_state(tmp_path / name)
        assert all(torch.equal(read[key], value) for key, value in tiny_state().items())


def test_eight_bits_keep_each_weight_within_half_a_step(tmp_path):
    backbone = build_backbone("embedded", tiny_state())
    save_quantised(backbone.state_dict(), tmp_path / "small.safetensors", {"settings": "{}"})
    read = read_state(tmp_path / "small.safetensors")
    for key, value in tiny_state().items():
        if value.dim() == 4:
            step = value.abs().amax((1, 2, 3), keepdim=True) / 127
            assert ((read[key] - value).abs() <= 0.5001 * step).all()
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_every_registered_backbone_has_layers_it_knows():
    for name, entry in BACKBONES.items():
        network = untrained(name)
        network.check_layers((*entry.layers.style, *entry.layers.content))
        assert entry.layers.style and entry.layers.content


@pytest.mark.parametrize("name", PUBLIC)
def test_public_files_are_loaded_without_their_classifier(tmp_path, name):
    state = public_state(name)
    torch.save(state, tmp_path / "weights.pth")
    backbone = build_backbone(name, load_weights(name, tmp_path / "weights.pth"))
    reference = PUBLIC[name]()
    reference.load_state_dict({key: state[key] for key in reference.state_dict()})
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    names = [*BACKBONES[name].layers.style]
    image = torch.rand(1, 3, 40, 48)
    with torch.no_grad():
        expected = reference(image, names)
    for layer, features in backbone(image, names).items():
        torch.testing.assert_close(features, expected[layer], rtol=1e-4, atol=1e-4 * float(expected[layer].abs().max()))


def test_public_files_are_found_at_torchvisions_address():
    addresses = {name: entry.address.rsplit("/", 1) for name, entry in BACKBONES.items() if entry.file}
    assert addresses.keys() == PUBLIC.keys()
    assert {place for place, _ in addresses.values()} == {"https://download.pytorch.org/models"}
    assert addresses["resnet50"][1] == "resnet50-0676ba61.pth"  # the first of torchvision's two sets of weights


def test_the_number_of_batches_seen_may_be_missing(tmp_path):
    state = {key: value for key, value in public_state("resnet50").items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "weights.safetensors")
    assert load_weights("resnet50", tmp_path / "weights.safetensors").keys() == state.keys()


@pytest.mark.skipif(not (SQUEEZENET.exists() and PHOTOS.exists()), reason="needs trained weights and photographs")
def test_trained_squeezenet_knows_what_is_in_a_photograph():
    """Colours, keys and geometry are those that the weights were trained with: with its classifier put back, the
    network names the first classes of ImageNet."""
    backbone = build_backbone("squeezenet", load_weights("squeezenet", SQUEEZENET))
    classifier = {key: value for key, value in read_state(SQUEEZENET).items() if key.startswith("classifier.")}
    photos = sorted(PHOTOS.glob("n0144*"))[:2]
    for path in photos:
        image = torch.from_numpy(read_image(path).pixels.copy()).permute(2, 0, 1)[None]
        features = backbone(image, ["fire9"])["fire9"]
        scores = torch.relu(
            torch.conv2d(features, *(classifier[f"classifier.1.{kind}"] for kind in ("weight", "bias")))
        )
        assert int(scores.mean((2, 3)).argmax()) == CLASSES[path.stem.split("_")[0]]
    assert len(photos) == 2


def test_the_embedded_weights_are_small_and_there():
    path = BUNDLED / "embedded.safetensors"
    assert path.stat().st_size < 3 << 20
    assert all(torch.isfinite(value).all() for value in read_state(path).values())


def damaged(tmp_path):
    """Files that hold no weights, and a word that the refusal must say."""

    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    cases = {
        "empty.pth": (b"", "empty"),
        "page.pth": (b"<!DOCTYPE html><html>", "web page"),
        "text.pth": (b"hello, these are my weights", "is a text file"),
        "evil.pth": (pickle.dumps(Evil()), "cannot be read|holds Python objects"),
        "cut.safetensors": ((2000).to_bytes(8, "little") + b'{"a":', "cannot be read"),
    }
    whole = io.BytesIO()
    torch.save(tiny_state(), whole)
    cases["cut.pth"] = (whole.getvalue()[:300], "is cut short")
    numbers = io.BytesIO()
    torch.save({"epoch": 3}, numbers)
    cases["numbers.pth"] = (numbers.getvalue(), "no state dict")
    return [((tmp_path / name), content, word) for name, (content, word) in cases.items()]


def test_what_is_no_weights_is_refused_in_one_line_that_names_it(tmp_path, capsys):
    for path, content, word in damaged(tmp_path):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=word) as refused:
            read_state(path)
        assert path.name in str(refused.value) and "\n" not in str(refused.value)
    assert "run" not in capsys.readouterr().out
    with pytest.raises(BadWeights, match="is no file"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("vgg19", lambda state: state, "features.0.weight is missing"),
        ("vgg19", lambda state: public_state("vgg16"), "features.16.weight is missing"),
        ("vgg16", lambda state: public_state("squeezenet"), "features.0.weight has shape"),
        ("squeezenet", lambda state: public_state("vgg19"), "features.0.weight has shape"),
        ("resnet50", lambda state: public_state("squeezenet"), "conv1.weight is missing"),
        ("resnet50", lambda state: ResNet(32).state_dict(), "conv1.weight has shape"),
        ("resnet50", lambda state: public_state("resnet50") | {"bn9.bias": torch.zeros(1)}, "bn9.bias is not known"),
        ("embedded", lambda state: {"features.0.weight": torch.zeros(1)}, "block1.conv1.weight is missing"),
        ("embedded", lambda state: {**state, "block2.conv1.weight": torch.zeros(6, 5, 3, 3)}, "shape"),
        ("embedded", lambda state: {**state, "more": torch.zeros(1)}, "more is not known"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, name, change, words):
    path = tmp_path / "other.safetensors"
    save_file(change(tiny_state()), path)
    with pytest.raises(ValueError, match=words) as refused:
        load_weights(name, path)
    assert "other.safetensors" in str(refused.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("key", ["block1.conv1.weight", "block3.conv1.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path, key, value):
    state = tiny_state()
    state[key].view(-1)[-1] = value
    save_file(state, tmp_path / "diverged.safetensors")
    with pytest.raises(BadWeights, match=f"diverged.safetensors .*{key} holds infinite values or NaN") as refused:
        load_weights("embedded", tmp_path / "diverged.safetensors")
    assert "\n" not in str(refused.value)


def test_eight_bit_weights_with_a_scale_that_is_not_finite_are_refused(tmp_path):
    state = quantised(tiny_state())
    state["block1.conv1.weight.scale"][0] = float("nan")
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(BadWeights, match=r"block1\.conv1\.weight holds infinite values or NaN"):
        load_weights("embedded", tmp_path / "small.safetensors")


STRANGE = {
    "integers": (lambda key: {key: torch.ones(4, 3, 3, 3, dtype=torch.int64)}, "holds int64"),
    "meta": (lambda key: {key: torch.empty(4, 3, 3, 3, device="meta")}, "sparse, quantised or meta"),
    "one number seen often": (lambda key: {key: torch.zeros(1).expand(1 << 20, 1 << 20, 1, 1)}, "declares .* numbers"),
    "a list": (lambda key: {key: [1.0]}, "holds no state dict"),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_backbones_are_read_as_carefully_as_generators(tmp_path, kind):
    make, message = STRANGE[kind]
    torch.save(tiny_state() | make("block1.conv1.weight"), tmp_path / "w.pth")
    with pytest.raises(BadWeights, match=message) as refused:
        load_weights("embedded", tmp_path / "w.pth")
    assert str(refused.value).startswith(str(tmp_path)) and "\n" not in str(refused.value)


@pytest.mark.parametrize("prefix", ["module.", "module._orig_mod."])
def test_prefixes_of_wrapping_modules_are_taken_off(tmp_path, prefix):
    torch.save({"model": {f"{prefix}{key}": value for key, value in tiny_state().items()}}, tmp_path / "w.pth")
    assert load_weights("embedded", tmp_path / "w.pth").keys() == tiny_state().keys()


def test_arrays_of_numpy_are_weights_too(tmp_path):
    np.savez(tmp_path / "w.npz", **{key: value.numpy() for key, value in tiny_state().items()})
    assert all(torch.equal(load_weights("embedded", tmp_path / "w.npz")[k], v) for k, v in tiny_state().items())


def test_an_unknown_backbone_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'vgg20'.*embedded, vgg16, vgg19, vgg19-caffe, resnet50, squeezenet"):
        load_weights("vgg20")


class Answer(io.BytesIO):
    """What urlopen returns."""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_without_a_network_the_error_says_what_to_do(cache, monkeypatch):
    def no_network(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    with pytest.raises(ValueError, match="cannot be downloaded") as refused:
        load_weights("vgg19")
    for word in ("vgg19-dcbb9e9d.pth", "--weights FILE", str(cache), "--backbone embedded", "no route"):
        assert word in str(refused.value)


def test_a_download_is_used_only_when_its_digest_agrees(cache, monkeypatch):
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Answer(b"something else"))
    with pytest.raises(ValueError, match="dcbb9e9d"):
        load_weights("vgg19")
    assert not list(cache.iterdir())


def test_a_download_is_kept(cache, monkeypatch):
    digest = hashlib.sha256(b"weights").hexdigest()
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *_, **__: Answer(b"weights"))
    cache.mkdir()
    download.download("https://example.org/file", cache / "file", digest[:8])
    assert [(path.name, path.read_bytes()) for path in cache.iterdir()] == [("file", b"weights")]
