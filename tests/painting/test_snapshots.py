"""Snapshots: whole or not there, of this run or refused."""

import json
import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from parallel_nst.painting import snapshots
from parallel_nst.painting.named_tensors import prefixed
from parallel_nst.painting.snapshots import FORMAT, Snapshot, load_snapshot, save_snapshot

SNAPSHOT = Snapshot(
    scale=3,
    step=17,
    tensors={
        "pixels": torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0)),
        "state.half": torch.tensor([1e-7, 65504.0, -0.0]).half(),
        "state.double": torch.tensor(1 / 3, dtype=torch.float64),
        "state.count": torch.tensor([2**40, -1]),
        "state.none": torch.zeros(0, 0, dtype=torch.float64),
    },
    numbers={"loss": 0.1 + 0.2, "best_loss": float("inf"), "tiny": 5e-324},
)


def bits(tensor):
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def assert_equal(found, expected):
    assert (found.scale, found.step, found.numbers) == (expected.scale, expected.step, expected.numbers)
    assert set(found.tensors) == set(expected.tensors)
    for name, tensor in expected.tensors.items():
        assert found.tensors[name].dtype == tensor.dtype and found.tensors[name].shape == tensor.shape
        assert bits(found.tensors[name]) == bits(tensor)


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    path = tmp_path / "out.png.snapshot"
    save_snapshot(path, SNAPSHOT, "me")
    assert_equal(load_snapshot(path, "me"), SNAPSHOT)
    assert os.listdir(tmp_path) == [path.name]


def test_tensors_that_share_memory_or_lie_crosswise_are_saved_too(tmp_path):
    """As an optimiser's last point and the best image do, which are one and the same."""
    image = torch.rand(1, 3, 5, 5)
    tensors = {"best": image, "state.image": image, "turned": image.transpose(2, 3), "part": image[..., 1:, :2]}
    snapshot = Snapshot(0, 1, tensors, {})
    save_snapshot(tmp_path / "s", snapshot, "me")
    assert_equal(load_snapshot(tmp_path / "s", "me"), snapshot)


def test_what_was_loaded_can_be_written_and_outlives_the_file(tmp_path):
    path = tmp_path / "s"
    save_snapshot(path, SNAPSHOT, "me")
    loaded = load_snapshot(path, "me")
    save_snapshot(path, Snapshot(0, 0, {"pixels": torch.zeros(3, 5, 7)}, {}), "me")
    path.unlink()
    assert_equal(loaded, SNAPSHOT)
    loaded.tensors["pixels"].add_(1)
    loaded.tensors["pixels"].numpy()[:] = np.float32(2)


def test_names_are_found_under_their_prefix_alone():
    tensors = prefixed("state.1", {"a": torch.ones(1)}) | prefixed("state.10", {"a": torch.zeros(1)})
    snapshot = Snapshot(0, 0, {"pixels": torch.ones(2), **tensors}, {})
    assert snapshot.under("state.1") == {"a": torch.ones(1)}
    assert set(snapshot.under("state")) == {"1.a", "10.a"}
    assert snapshot.under("pixels") == {}


def refused(path, identity="me"):
    """The line that says why."""
    with pytest.raises(ValueError) as caught:
        load_snapshot(path, identity)
    line = str(caught.value)
    assert "\n" not in line and str(path) in line
    return line


def test_another_runs_snapshot_is_refused(tmp_path):
    save_snapshot(tmp_path / "s", SNAPSHOT, "me")
    assert "another picture or other settings" in refused(tmp_path / "s", "you")


@pytest.mark.parametrize("length", [0, 1, 8, 100, 500, -1])
def test_a_file_that_ends_too_early_is_refused(tmp_path, length):
    path = tmp_path / "s"
    save_snapshot(path, SNAPSHOT, "me")
    path.write_bytes(path.read_bytes()[:length])
    assert "delete it" in refused(path)


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, b"not a snapshot at all, only words", b"\x89PNG\r\n\x1a\n" + bytes(99)]
)
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    path = tmp_path / "s"
    path.write_bytes(content)
    assert "cannot be read as a snapshot" in refused(path)


FOREIGN = [
    {},
    {"format": "pt"},
    {"format": FORMAT + "0", "identity": "me", "run": "{}"},
    {"format": FORMAT},
    {"format": FORMAT, "identity": "me"},
    {"format": FORMAT, "identity": "me", "run": "{"},
    {"format": FORMAT, "identity": "me", "run": "[]"},
    {"format": FORMAT, "identity": "me", "run": json.dumps({"scale": 1})},
]


@pytest.mark.parametrize("metadata", FOREIGN, ids=map(str, range(len(FOREIGN))))
def test_tensors_that_are_no_snapshot_are_refused(tmp_path, metadata):
    path = tmp_path / "s"
    save_file({"pixels": torch.zeros(2)}, path, metadata=metadata)
    refused(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises((ValueError, OSError)) as caught:
        load_snapshot(tmp_path, "me")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("fails", ["save_file", "replace"])
@pytest.mark.parametrize("before", [True, False])
def test_a_save_that_fails_leaves_all_as_it_was(tmp_path, monkeypatch, fails, before):
    path = tmp_path / "s"
    if before:
        save_snapshot(path, SNAPSHOT, "me")
    files = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def half_written(tensors, aside, metadata):
        aside.write_bytes(b"half")
        raise OSError("no space left on device")

    def refusing(*arguments):
        raise OSError("not permitted")

    with monkeypatch.context() as patched:
        if fails == "save_file":
            patched.setattr(snapshots, "save_file", half_written)
        else:
            patched.setattr(snapshots.os, "replace", refusing)
        with pytest.raises(OSError):
            save_snapshot(path, Snapshot(0, 0, {"pixels": torch.ones(1)}, {}), "me")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == files
    save_snapshot(path, SNAPSHOT, "me")
    assert_equal(load_snapshot(path, "me"), SNAPSHOT)


def test_a_snapshot_in_a_folder_that_is_gone_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        save_snapshot(tmp_path / "gone" / "s", SNAPSHOT, "me")
