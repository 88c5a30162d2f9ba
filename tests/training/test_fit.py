"""The training loop on tiny networks: stopped and resumed, shared by ranks, recorded."""

import csv
import json
import math
from dataclasses import replace

import pytest
import torch
from lessons import Lesson, everything, pictures, stream, weights
from PIL import Image
from torch import nn

from parallel_nst.errors import Diverged
from parallel_nst.files.whole_files import aside_name
from parallel_nst.training.batches import Batches
from parallel_nst.training.checkpoint_files import steps_of
from parallel_nst.training.fit import FitSettings, TrainingCallbacks, TrainingSpeed, fit, take_turn
from parallel_nst.training.settings import CropSettings
from parallel_nst.workers.ranks.place import Place

SETTINGS = FitSettings(steps=6, checkpoint_every=3, sample_every=2, recipe={"seed": 0})
RESUMED = replace(SETTINGS, resume=True)


class Killed(BaseException):
    """What no `except Exception` catches."""


def killed_after(step):
    def on_step(status):
        if status.step == step:
            raise Killed

    return TrainingCallbacks(on_step=on_step)


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def rows(folder):
    with open(folder / "losses.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def undisturbed(tmp_path):
    lesson = Lesson()
    fit(lesson, stream(), SETTINGS, tmp_path / "undisturbed")
    return everything(lesson), (tmp_path / "undisturbed/losses.csv").read_bytes()


@pytest.mark.parametrize("kills", [(3,), (5,), (1,), (4, 5, 6), (6, 6)])
def test_a_killed_run_goes_on_to_the_bit(tmp_path, undisturbed, kills):
    for step in kills:
        with pytest.raises(Killed):
            fit(Lesson(), stream(), RESUMED, tmp_path / "run", callbacks=killed_after(step))
    torch.manual_seed(99)
    lesson = Lesson()
    report = fit(lesson, stream(), RESUMED, tmp_path / "run")
    assert report.began == (3 if max(kills) > 3 else 0)
    assert_equal(everything(lesson), undisturbed[0])
    assert (tmp_path / "run/losses.csv").read_bytes() == undisturbed[1]


def test_a_longer_run_goes_on_from_a_shorter_one(tmp_path, undisturbed):
    fit(Lesson(), stream(), replace(SETTINGS, steps=3), tmp_path / "run")
    lesson = Lesson()
    fit(lesson, stream(), RESUMED, tmp_path / "run")
    assert_equal(everything(lesson), undisturbed[0])
    with pytest.raises(ValueError, match="beyond the 5 asked for"):
        fit(Lesson(), stream(), replace(RESUMED, steps=5), tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(tmp_path, undisturbed):
    lesson = Lesson()
    report = fit(lesson, stream(), RESUMED, tmp_path / "undisturbed")
    assert (report.began, report.losses, report.images_per_second) == (6, {}, 0.0)
    assert_equal(everything(lesson), undisturbed[0])
    assert (tmp_path / "undisturbed/losses.csv").read_bytes() == undisturbed[1]


def test_a_checkpoint_cut_short_is_passed_over(tmp_path, undisturbed):
    fit(Lesson(), stream(), SETTINGS, tmp_path / "run")
    newest = tmp_path / "run/checkpoint-00000006.pt"
    newest.write_bytes(newest.read_bytes()[:5000])
    (tmp_path / "run" / aside_name("checkpoint-00000007.pt")).write_bytes(b"never finished")
    lines = []
    lesson = Lesson()
    report = fit(lesson, stream(), RESUMED, tmp_path / "run", callbacks=TrainingCallbacks(notify=lines.append))
    assert report.began == 3
    assert any(str(newest) in line and "passed over" in line for line in lines)
    assert_equal(everything(lesson), undisturbed[0])
    assert (tmp_path / "run/losses.csv").read_bytes() == undisturbed[1]
    assert not list((tmp_path / "run").rglob(".*"))


def test_a_folder_in_use_is_not_overwritten(tmp_path):
    fit(Lesson(), stream(), replace(SETTINGS, steps=3), tmp_path)
    with pytest.raises(ValueError, match="resume it, or give another folder"):
        fit(Lesson(), stream(), SETTINGS, tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        fit(Lesson(), stream(), SETTINGS, tmp_path / "losses.csv")


def test_losses_are_recorded_with_each_step_once_and_to_the_bit(tmp_path):
    seen = {}
    callbacks = TrainingCallbacks(on_step=lambda status: seen.update({status.step: dict(status.losses)}))
    report = fit(Lesson(), stream(), SETTINGS, tmp_path, callbacks=callbacks)
    table = rows(tmp_path)
    assert [int(row.pop("step")) for row in table] == list(range(1, 7))
    assert [{k: torch.tensor(float(v)).item() for k, v in row.items()} for row in table] == list(seen.values())
    assert list(table[0]) == ["paint/total", "paint/grey", "paint/liked", "judge/total"]
    assert dict(report.losses) == seen[6]


def test_the_schedule_is_stepped_once_a_step(tmp_path):
    lesson = Lesson()
    fit(lesson, stream(), SETTINGS, tmp_path)
    for phase in lesson.phases:
        assert phase.optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 * 0.9**6)


def test_what_is_told_while_training(tmp_path):
    statuses, checkpoints = [], []

    def told(status):
        statuses.append(status)
        checkpoints.append(max(steps_of(tmp_path), default=0))

    callbacks = TrainingCallbacks(on_step=told)
    fit(Lesson(), stream(), replace(SETTINGS, steps=7), tmp_path, callbacks=callbacks)
    assert [status.step for status in statuses] == list(range(1, 8))
    assert statuses[0].images_per_second == 0 and statuses[-1].images_per_second > 0
    assert all(0 <= status.waiting <= 1 for status in statuses)
    assert checkpoints == [0, 0, 0, 3, 3, 3, 6] and max(steps_of(tmp_path)) == 7


@pytest.mark.parametrize("every", [0, 2, 5])
def test_samples_are_made_of_fixed_inputs_and_change_nothing(tmp_path, undisturbed, every):
    inputs = {"images": stream().at(0)["images"][:2]}
    lesson = Lesson()
    report = fit(lesson, stream(), replace(SETTINGS, sample_every=every), tmp_path / "run", inputs=inputs)
    assert_equal(everything(lesson), undisturbed[0])
    steps = [int(path.stem[5:]) for path in sorted((tmp_path / "run").glob("samples/*.png"))]
    assert steps == {0: [], 2: [0, 2, 4, 6], 5: [0, 5, 6]}[every]
    assert (report.sheet is None) == (every == 0)
    if every:
        with Image.open(tmp_path / "run/samples/step-00000006.png") as image:
            assert image.size == (16, 8)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_loss_that_is_not_finite_ends_the_run_and_leaves_the_checkpoint(tmp_path, dtype):
    lesson = Lesson()

    def spoil(status):
        if status.step == 4:
            with torch.no_grad():
                lesson.networks["critic"][0].weight.fill_(math.inf)

    with pytest.raises(Diverged, match=r"step 5: the loss paint/\w+ is (nan|inf)") as caught:
        fit(lesson, stream(), replace(SETTINGS, dtype=dtype), tmp_path, callbacks=TrainingCallbacks(on_step=spoil))
    advice = "; start again in another folder (--out) with a lower learning rate (--lr)"
    assert str(caught.value).endswith(advice + (" or in float32 (--dtype)" if dtype == "bfloat16" else ""))
    assert "\n" not in str(caught.value)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]
    assert [path.name for path in tmp_path.glob("checkpoint-????????.pt")] == ["checkpoint-00000003.pt"]


def test_bfloat16_is_used_where_it_is_asked_for(tmp_path):
    exact, low = Lesson(noise=0), Lesson(noise=0)
    fit(exact, stream(), SETTINGS, tmp_path / "exact")
    fit(low, stream(), replace(SETTINGS, dtype="bfloat16"), tmp_path / "low")
    assert not torch.equal(weights(exact), weights(low)) and weights(low).dtype == torch.float32
    torch.testing.assert_close(weights(low), weights(exact), rtol=0.1, atol=0.05)
    with pytest.raises(ValueError, match="dtype: float32, now bfloat16"):
        fit(Lesson(), stream(), replace(RESUMED, dtype="bfloat16"), tmp_path / "exact")


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"keep": 0}, {"checkpoint_every": 0}, {"sample_every": -1}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="at least"):
        FitSettings(**{"steps": 1, **wrong})
    with pytest.raises(ValueError, match="float32, bfloat16"):
        FitSettings(steps=1, dtype="float8")


def gradients(ranks):
    """Of each phase in the first step, averaged over ranks by hand."""
    of_all = []
    for rank in range(ranks):
        batch = {"images": stream(rank=rank, ranks=ranks).at(0)["images"] / 255}
        turns = [(phase.module(batch)["total"], list(phase.module.parameters())) for phase in Lesson(noise=0).phases]
        of_all.append(torch.cat([g.flatten() for loss, own in turns for g in torch.autograd.grad(loss, own)]))
    return torch.stack(of_all).mean(0)


@pytest.mark.parametrize("ranks", [2, 4])
def test_gradients_of_slices_average_to_the_batchs(ranks):
    torch.testing.assert_close(gradients(ranks), gradients(1), rtol=1e-4, atol=1e-6)


class Averaged(nn.Module):
    """What DistributedDataParallel is to a phase's module: a wrapper that hands on the forward."""

    def __init__(self, module, calls):
        super().__init__()
        self.module, self.calls = module, calls

    def forward(self, batch):
        self.calls.append(type(self.module).__name__)
        return self.module(batch)


def test_a_wrapped_module_is_what_is_called(tmp_path, undisturbed):
    calls = []
    lesson = Lesson()
    fit(lesson, stream(), SETTINGS, tmp_path / "run", Place(wrap=lambda module: Averaged(module, calls)))
    assert calls == ["Painter", "Critic"] * 6
    assert_equal(everything(lesson), undisturbed[0])


def test_only_rank_0_writes_but_for_its_own_memory(tmp_path):
    told = []
    callbacks = TrainingCallbacks(told.append, told.append)
    inputs = {"images": stream().at(0)["images"]}
    place = Place(rank=1, ranks=2)
    report = fit(Lesson(), stream(rank=1, ranks=2), SETTINGS, tmp_path, place, inputs=inputs, callbacks=callbacks)
    names = sorted(path.name for path in tmp_path.rglob("*"))
    assert names == ["checkpoint-00000003.memory-1.pt", "checkpoint-00000006.memory-1.pt"]
    assert told == [] and report.sheet is None


def test_recorded_losses_are_means_over_ranks(tmp_path):
    fit(Lesson(), stream(), SETTINGS, tmp_path / "plain")
    fit(Lesson(), stream(), SETTINGS, tmp_path / "doubled", Place(mean=lambda value: 2 * value))
    for one, two in zip(rows(tmp_path / "plain"), rows(tmp_path / "doubled"), strict=True):
        assert float(two["paint/grey"]) == pytest.approx(2 * float(one["paint/grey"]), rel=1e-6)


def test_a_gradient_above_the_clip_is_shortened_to_it():
    lesson = Lesson(clip=1e-3)
    phase = lesson.phases[0]
    batch = {"images": stream().at(0)["images"] / 255}
    take_turn(phase, phase.module, batch, torch.enable_grad)
    norm = torch.cat([p.grad.flatten() for p in phase.module.parameters()]).norm()
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_training_learns(tmp_path):
    report = fit(Lesson(noise=0), stream(), FitSettings(steps=60), tmp_path)
    first = float(rows(tmp_path)[0]["paint/grey"])
    assert report.losses["paint/grey"] < 0.7 * first


def test_the_speed_leaves_out_the_first_step_and_knows_the_share_of_waiting():
    speed = TrainingSpeed(4)
    assert (speed.images_per_second, speed.lately, speed.waiting) == (0, 0, 0)
    speed.add(100.0, 99.0)
    assert (speed.images_per_second, speed.lately, speed.waiting) == (0, 0, 0)
    speed.add(2.0, 0.5)
    speed.add(2.0, 0.5)
    assert (speed.images_per_second, speed.lately, speed.waiting) == (2.0, 2.0, 0.25)
    for _ in range(20):
        speed.add(1.0, 0.0)
    assert speed.lately == pytest.approx(4.0) and speed.images_per_second < 4.0


def test_float_pictures_are_trained_on_as_they_are(tmp_path):
    crop = CropSettings(8, flip=True)
    floats = Batches({"images": pictures()}, 4, lambda pixels, rng: crop(pixels, rng).float() / 255)
    one, other = Lesson(noise=0), Lesson(noise=0)
    fit(one, stream(), SETTINGS, tmp_path / "bytes")
    fit(other, floats, SETTINGS, tmp_path / "floats")
    assert torch.equal(weights(one), weights(other))


def test_the_recipe_is_readable_in_the_checkpoint(tmp_path):
    fit(Lesson(), stream(), SETTINGS, tmp_path)
    state = torch.load(tmp_path / "checkpoint-00000006.pt", weights_only=True)
    assert json.loads(state["recipe"]) == {"seed": 0, "dtype": "float32"}
    assert state["step"] == 6
