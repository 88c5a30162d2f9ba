"""Generators by name: what names and paths mean, downloads, and digests."""

import functools
import hashlib
import http.server
import subprocess
import sys
import threading
import urllib.error

import numpy as np
import pytest
import torch
from small_generators import as_variables, microast_files, same_pictures, small

from parallel_nst.files.bundled import STYLES
from parallel_nst.networks.generators import registry as generator_registry
from parallel_nst.networks.generators.files import digest_of, open_generator, save_generator
from parallel_nst.networks.generators.registry import (
    BY_HAND,
    PUBLISHED,
    Published,
    bundled,
    default_model,
    named_models,
    resolve,
)
from parallel_nst.networks.weights import download


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The cache folder and, as working folder, an empty one; no network."""
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(download.urllib.request, "urlopen", no_network)
    return tmp_path / "cache"


def no_network(*_, **__):
    raise urllib.error.URLError("no route to host")


@pytest.fixture
def styles(tmp_path, monkeypatch):
    """Two bundled styles."""
    monkeypatch.setattr(generator_registry, "STYLES", tmp_path / "styles")
    (tmp_path / "styles").mkdir()
    for name in ("wave", "candlelight"):
        save_generator(small("transformer-net"), tmp_path / "styles" / f"{name}.safetensors")
    return tmp_path / "styles"


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A small MicroAST on a server of this machine in the place of the public one; its files' folder."""
    monkeypatch.setenv("PNST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "public"
    folder.mkdir()
    _, paths = microast_files(folder)
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        monkeypatch.setitem(PUBLISHED, "microast", Published("MicroAST", address, digests))
        yield folder
        server.shutdown()
        thread.join()


def test_files_are_fetched_once_and_verified(served, tmp_path):
    generator, info, _ = open_generator("microast")
    assert info.architecture == "microast" and same_pictures(generator, small("microast"))
    kept = sorted((tmp_path / "cache" / "microast").iterdir())
    assert [path.name for path in kept] == sorted(PUBLISHED["microast"].digests)
    for path in served.iterdir():
        path.unlink()
    assert resolve("microast") == [tmp_path / "cache" / "microast" / name for name in PUBLISHED["microast"].digests]


def test_a_file_with_another_digest_is_not_used(served, tmp_path):
    (served / "decoder_iter_9.pth.tar").write_bytes(b"another")
    with pytest.raises(ValueError, match=r"decoder_iter_9.* has SHA-256 .*, which does not begin with"):
        resolve("microast")
    kept = tmp_path / "cache" / "microast" / "decoder_iter_9.pth.tar"
    assert not kept.exists()
    kept.write_bytes(b"another")
    with pytest.raises(ValueError, match=r"decoder_iter_9.* is not the published file .*; delete it"):
        resolve("microast")


def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(cache):
    with pytest.raises(ValueError) as caught:
        open_generator("microast")
    text, model = str(caught.value), PUBLISHED["microast"]
    assert "\n" not in text
    for word in (*model.digests, model.address, str(cache / "microast"), "--model FOLDER", "no route to host"):
        assert word in text


def test_published_files_have_whole_digests_and_an_address_that_does_not_change():
    assert all(len(digest) == 64 for model in PUBLISHED.values() for digest in model.digests.values())
    assert PUBLISHED["microast"].address.split("/")[5] == "d2796c7dbf01dbc29ed35b11675d87fcc640f969"


def test_bundled_styles_go_by_the_names_of_their_files(cache, styles):
    assert list(bundled()) == ["candlelight", "wave"] and default_model() == "candlelight"
    assert resolve("wave") == styles / "wave.safetensors"
    assert open_generator("wave")[1].architecture == "transformer-net"
    assert [model.state for model in named_models()[:3]] == ["bundled", "bundled", "download"]


def test_each_bundled_painting_has_its_style_and_the_first_is_the_default():
    assert set(bundled()) == set(STYLES) and default_model() == STYLES[0]
    for path in bundled().values():
        assert path.stat().st_size <= 4e6


def test_without_a_bundled_style_there_is_no_default(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(generator_registry, "STYLES", tmp_path / "none")
    assert default_model() is None and bundled() == {}


def test_a_path_wins_where_it_looks_like_one_else_the_name(cache, styles):
    here = cache.parent / "here"
    for name in ("wave", "wave.pth", "candy", "mine"):
        (here / name).write_bytes(b"")
    assert resolve("wave") == styles / "wave.safetensors"
    assert str(resolve("./wave")) == "wave" and str(resolve("wave.pth")) == "wave.pth"
    assert str(resolve("candy")) == "candy" and str(resolve("mine")) == "mine"


@pytest.mark.parametrize("name", ["style_monet", "candy"])
def test_what_cannot_be_verified_is_left_to_the_user(cache, name):
    with pytest.raises(ValueError, match="no published digest") as caught:
        resolve(name)
    assert BY_HAND[name][1] in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "microats",
            "no model or file 'microats', perhaps microast is meant; give a file of weights or a name: .*microast",
        ),
        ("style_mone", "perhaps style_monet"),
        ("", "no model or file ''"),
        ("nothing.pth", "nothing.pth does not exist; give a file"),
        ("models/microast.pth", "does not exist, perhaps microast is meant"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(cache, text, message):
    with pytest.raises(ValueError, match=message):
        resolve(text)


def test_states_follow_the_cache(cache):
    states = {model.name: model.state for model in named_models()}
    assert states["microast"] == "download" and states["horse2zebra"] == "by hand"
    (cache / "microast").mkdir(parents=True)
    for name in PUBLISHED["microast"].digests:
        (cache / "microast" / name).write_bytes(b"")
    assert {model.name: model.state for model in named_models()}["microast"] == "in cache"


@pytest.mark.parametrize("name", ["transformer-net", "fast-style-transfer", "dncnn"])
def test_the_digest_does_not_depend_on_the_kind_of_file(cache, name):
    generator = small(name)
    save_generator(generator, cache.parent / "g.safetensors")
    if name == "fast-style-transfer":
        np.savez(cache.parent / "g.npz", **as_variables(generator))
    else:
        counted = {key: value for key, value in generator.state_dict().items() if "num_batches" not in key}
        torch.save({"state_dict": counted}, cache.parent / "g.npz")
    digests = {open_generator(str(cache.parent / file))[2] for file in ("g.safetensors", "g.npz")}
    assert digests == {digest_of(generator)} and len(digests.pop()) == 64


def test_the_digest_depends_on_every_weight_and_size():
    generator = small("dncnn")
    first = digest_of(generator)
    for value in generator.state_dict().values():
        if value.is_floating_point():
            value.view(-1)[-1] += 1
            assert digest_of(generator) != first
            first = digest_of(generator)
    generator.hyperparameters = generator.hyperparameters | {"skip": False}
    assert digest_of(generator) != first


def test_names_and_addresses_are_known_without_pytorch():
    code = (
        "import sys; from parallel_nst.networks.generators.registry import named_models;"
        "from parallel_nst.networks.backbones.registry import BACKBONES; named_models();"
        "[entry.address for entry in BACKBONES.values()]; print(*{'torch', 'ray', 'cv2'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, ""), ran.stderr
