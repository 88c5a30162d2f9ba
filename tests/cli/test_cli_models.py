"""`pnst models`: what it prints of names and files, and one line for what is no model."""

import json
from pathlib import Path

import pytest
import torch
from command import caller
from safetensors import safe_open
from small_generators import same_pictures, small

from parallel_nst.networks.backbones.registry import BACKBONES
from parallel_nst.networks.generators.files import digest_of, read_generator, save_generator
from parallel_nst.networks.generators.registry import named_models


@pytest.fixture
def pnst(tmp_path, monkeypatch, capfd):
    """Call `pnst models` with these arguments; exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    return caller(monkeypatch, capfd, "models")


def test_the_list_has_a_line_for_each_name_with_its_address(pnst):
    code, out, _ = pnst("list")
    assert code == 0 and len(out.splitlines()) == len(named_models())
    for line, model in zip(out.splitlines(), named_models(), strict=True):
        assert line.startswith(f"{model.name} ") and line.endswith(model.address)
    assert [model["name"] for model in json.loads(pnst("list", "--json")[1])] == [m.name for m in named_models()]


def test_inspect_says_what_a_file_is(pnst):
    generator = small("cyclegan-resnet")
    save_generator(generator, Path("g.safetensors"), {"epochs": "2\n3"}, half=True)
    torch.save(small("transformer-net").state_dict(), "t.pth")
    code, out, _ = pnst("inspect", "g.safetensors", "t.pth", "--json")
    first, second = json.loads(out)
    assert code == 0
    assert first["architecture"] == "cyclegan-resnet" and first["hyperparameters"] == {"width": 4, "blocks": 2}
    assert (first["stride"], first["reach"]) == (generator.stride, generator.reach)
    assert first["precision"] == "float16" and first["metadata"] == {"epochs": "2\n3"} and not first["takes_style"]
    assert second["digest"] == digest_of(small("transformer-net")) and second["source"].startswith("PyTorch examples")
    text = pnst("inspect", "g.safetensors", "t.pth")[1]
    for word in ("cyclegan-resnet", "width 4, blocks 2", "float16", "2 3", second["digest"], f"{generator.reach} px"):
        assert word in text


def test_inspect_goes_on_after_what_is_no_model(pnst):
    save_generator(small("dncnn"), Path("g.safetensors"))
    code, out, err = pnst("inspect", "nothing.pth", "g.safetensors", "microats")
    assert code == 1 and "dncnn" in out
    assert [line.split(" ")[0] for line in err.splitlines()] == ["pnst:", "pnst:"]


@pytest.mark.parametrize("half", [False, True])
def test_convert_writes_a_file_of_this_project(pnst, tmp_path, half):
    torch.save(small("transformer-net").state_dict(), "t.pth")
    code, out, _ = pnst("convert", "t.pth", "own.safetensors", *["--half"] * half)
    assert code == 0 and out.startswith("own.safetensors: transformer-net, ")
    read, info = read_generator(tmp_path / "own.safetensors")
    assert same_pictures(read, small("transformer-net"), 0.01 if half else 1e-6)
    assert info.precision == ("float16" if half else "float32")
    with safe_open(tmp_path / "own.safetensors", "pt") as file:
        assert file.metadata()["converted_from"] == "PyTorch examples, fast_neural_style"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["own.safetensors", "t.pth"]


@pytest.mark.parametrize("out", ["own.pth", "none/own.safetensors"])
def test_convert_writes_nothing_else(pnst, tmp_path, out):
    code, _, err = pnst("convert", "t.pth", out)
    assert code == 2 and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_backbones_are_listed_with_address_digest_and_size(pnst):
    code, out, _ = pnst("list", "--backbones")
    assert code == 0 and len(out.splitlines()) == len(BACKBONES)
    (line,) = (line for line in out.splitlines() if line.startswith("vgg19 "))
    assert all(part in line for part in ("548.1 MiB", "dcbb9e9d", "vgg19-dcbb9e9d.pth", "downloaded on first use"))
    rows = json.loads(pnst("list", "--backbones", "--json")[1])
    assert [row["name"] for row in rows] == list(BACKBONES) and len(rows[0]["sha256"]) == 64


def test_a_backbone_is_inspected_and_fetched_by_name(pnst):
    (facts,) = json.loads(pnst("inspect", "embedded", "--json")[1])
    assert facts["parameters"] > 1e6 and "relu5_1" in facts["layers"] and facts["margin"] > 0
    assert "style_layers" in pnst("inspect", "embedded")[1]
    code, out, _ = pnst("fetch", "embedded")
    assert code == 0 and out.strip().endswith("embedded.safetensors")


def test_what_cannot_be_fetched_is_one_line(pnst):
    code, _, err = pnst("fetch", "alexnet")
    assert code != 0 and err.startswith("pnst: name is 'alexnet'; known: embedded, ") and err.count("\n") == 1
