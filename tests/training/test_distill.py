"""Training of the embedded backbone, on pictures of noise and in seconds."""

import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from safetensors import safe_open

from parallel_nst.networks.backbones.embedded import Embedded
from parallel_nst.networks.backbones.loading import build_backbone
from parallel_nst.networks.backbones.squeezenet import SqueezeNet
from parallel_nst.networks.backbones.vgg import VGG
from parallel_nst.networks.weights.states import read_state
from parallel_nst.training.distill.distiller import Distiller, gram_gap
from parallel_nst.training.distill.loop import distill, export, learning_rate
from parallel_nst.training.distill.photographs import batches, load_photos, random_crop, recoloured, split
from parallel_nst.training.distill.settings import DistillSettings
from parallel_nst.training.distill.student import NormalisedStudent

SETTINGS = DistillSettings(
    teacher="squeezenet",
    widths=((4,), (4,), (4,)),
    taps=(("relu2_1", "relu1"),),
    steps=4,
    batch=2,
    crop=32,
    warmup=1,
    held_out=2,
)
FIRE = (("relu2_2", "relu1"), ("relu3_2", "fire3"), ("relu4_2", "fire6"), ("relu5_2", "fire9"))


@pytest.fixture(autouse=True)
def few_batches_to_measure(monkeypatch):
    monkeypatch.setattr("parallel_nst.training.distill.loop.MEASURED", 2)


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(0)
    return SqueezeNet().requires_grad_(False)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(0)
    return [np.kron(rng.integers(0, 255, (8, 9, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(6)]


@pytest.mark.parametrize("settings", [DistillSettings(), DistillSettings(teacher="squeezenet", taps=FIRE)])
def test_teacher_and_student_have_the_same_grids(teacher, settings):
    narrow = VGG(((4, 4), (4, 4), (4,) * 4, (4,) * 4, (4,) * 4))
    model = Distiller(settings, teacher if settings.teacher == "squeezenet" else narrow)
    crops = torch.rand(1, 3, 128, 128)
    taught = model.teach(crops)
    learnt = model.student(crops, [tap for tap, _ in settings.taps])
    for tap, target in settings.taps:
        assert learnt[tap].shape[-2:] == taught[target].shape[-2:]


def test_the_teachers_border_is_out_of_sight():
    """A flat picture has flat features, where zero padding would show."""
    vgg = VGG(((4, 4), (4, 4), (4,), (4,), (4,))).requires_grad_(False)
    taught = Distiller(replace(SETTINGS, teacher="vgg19", taps=(("relu2_1", "relu2_1"),)), vgg).teach(
        torch.full((1, 3, 32, 32), 0.3)
    )
    spread = taught["relu2_1"].std((2, 3))
    assert spread.max() < 1e-6


def test_a_student_can_begin_as_a_backbone():
    backbone = Embedded(((4, 4), (6,))).requires_grad_(False)
    student, crops = NormalisedStudent(((4, 4), (6,))), torch.rand(3, 3, 17, 20)
    student.begin_as(backbone, crops)
    expected = backbone(crops, ["relu1_2", "relu2_1"])
    for mode in (True, False):
        for name, features in student.train(mode)(crops, ["relu1_2", "relu2_1"]).items():
            torch.testing.assert_close(features, expected[name], rtol=1e-3, atol=1e-3)


def test_the_gap_of_gram_matrices_is_relative():
    features = torch.rand(2, 3, 5, 5)
    assert gram_gap(features, features) == 0
    assert float(gram_gap(torch.zeros_like(features), features)) == pytest.approx(1)
    assert float(gram_gap(2 * features, features)) == pytest.approx(9)


def test_recolouring_leaves_grey_grey_and_does_recolour():
    grey = torch.rand(1, 8, 8).expand(3, 8, 8)
    for seed in range(3):
        assert recoloured(grey, Random(seed)).std(0).max() < 1e-5
    crop = torch.rand(3, 8, 8)
    assert not torch.allclose(recoloured(crop, Random(0)), crop, atol=0.05)


def test_folding_keeps_the_function():
    student = NormalisedStudent(((4, 4), (6,)))
    crops = torch.rand(3, 3, 17, 20)
    for _ in range(20):
        student(crops, ["relu2_1"])
    student.eval()
    expected = student(crops, ["relu1_2", "relu2_1"])
    for name, features in student.fold()(crops, ["relu1_2", "relu2_1"]).items():
        torch.testing.assert_close(features, expected[name], rtol=1e-4, atol=1e-5)


def test_training_lowers_the_error(teacher, photos, tmp_path):
    torch.manual_seed(0)
    settings = replace(SETTINGS, steps=40)
    model = distill(settings, photos, teacher, tmp_path)
    fresh = Distiller(settings, teacher)
    statistics = {name: value for name, value in model.state_dict().items() if name.startswith(("mean_", "std_"))}
    fresh.load_state_dict(statistics, strict=False)
    crops = batches(photos, settings, 3).at(0)["images"]
    with torch.no_grad():
        assert float(model(crops)[0].sum()) < 0.95 * float(fresh(crops)[0].sum())


def test_the_loop_does_what_its_settings_say(teacher, photos, tmp_path):
    made = distill(SETTINGS, photos, teacher, tmp_path)
    torch.manual_seed(SETTINGS.seed)
    model = Distiller(SETTINGS, teacher)
    model.to(memory_format=torch.channels_last)
    stream = batches(split(photos, SETTINGS)[0], SETTINGS, SETTINGS.seed)
    model.measure([stream.at(SETTINGS.steps + number)["images"] for number in range(2)])
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS.learning_rate, weight_decay=SETTINGS.weight_decay)
    for step in range(SETTINGS.steps):
        optimizer.param_groups[0]["lr"] = learning_rate(step, SETTINGS)
        optimizer.zero_grad()
        errors, gaps = model(stream.at(step)["images"].contiguous(memory_format=torch.channels_last))
        (errors.sum() + SETTINGS.gram_weight * gaps.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
    torch.testing.assert_close(made.state_dict(), model.state_dict())


def test_a_stopped_run_goes_on_to_the_same_weights(teacher, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("parallel_nst.training.distill.loop.CHECKPOINT_EVERY", 2)
    undisturbed = distill(SETTINGS, photos, teacher, tmp_path / "a")

    def stop(status, *_):
        if status.step == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("parallel_nst.training.distill.loop.tell", stop)
        distill(SETTINGS, photos, teacher, tmp_path / "b")
    resumed = distill(SETTINGS, photos, teacher, tmp_path / "b")
    torch.testing.assert_close(resumed.state_dict(), undisturbed.state_dict(), rtol=0, atol=0)
    losses = [(tmp_path / name / "losses.csv").read_text() for name in "ab"]
    assert losses[0] == losses[1] and losses[0].count("\n") == SETTINGS.steps + 1


def test_a_finished_run_is_not_run_again_and_other_settings_are_refused(teacher, photos, tmp_path):
    first = distill(SETTINGS, photos, teacher, tmp_path)
    again = distill(SETTINGS, photos, teacher, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    with pytest.raises(ValueError, match="other settings"):
        distill(replace(SETTINGS, batch=3), photos, teacher, tmp_path)


def test_what_is_exported_says_how_it_was_made(teacher, photos, tmp_path):
    model = distill(SETTINGS, photos, teacher, tmp_path / "work")
    errors = export(model, photos[:2], SETTINGS, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["errors"]) == errors
    assert json.loads(metadata["settings"])["steps"] == 4
    build_backbone("embedded", read_state(tmp_path / "small.safetensors"))


def test_held_out_photographs_are_not_trained_on(photos):
    training, held_out = split(photos, SETTINGS)
    assert len(training) + len(held_out) == len(photos) and held_out
    assert not {id(p) for p in training} & {id(p) for p in held_out}


def test_crops_are_squares_in_range_whatever_the_photograph():
    rng = Random(0)
    for shape in ((33, 200, 3), (40, 40, 3), (500, 400, 3)):
        photo = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
        for _ in range(8):
            crop = random_crop(photo, SETTINGS, rng)
            assert crop.shape == (3, 32, 32) and crop.min() >= 0 and crop.max() <= 1


def test_the_learning_rate_warms_up_and_ends_at_zero():
    settings = replace(SETTINGS, steps=100, warmup=10)
    rates = [learning_rate(step, settings) for step in range(101)]
    assert max(rates) == pytest.approx(settings.learning_rate) and rates.index(max(rates)) in (9, 10)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no photographs"):
        load_photos(tmp_path)
