"""Records of a training: losses, samples, the contact sheet."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from parallel_nst.training.records import NO_TENSORBOARD, SHEET_WIDTH, Losses, Records, joined, write_sheet

LOSSES = {"paint/total": 1 / 3, "paint/grey": 1e-12}


def write(folder, step, steps, losses=LOSSES):
    record = Losses(folder, step)
    for number in steps:
        record.add(number, losses)
    record.close()
    return record.path


@pytest.fixture
def without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def test_lines_behind_the_step_gone_on_from_are_dropped(tmp_path):
    once = write(tmp_path, 0, range(1, 6)).read_text()
    write(tmp_path, 3, [4, 5])
    assert (tmp_path / "losses.csv").read_text() == once


@pytest.mark.parametrize("cut", [1, 8, 25])
def test_a_line_cut_short_is_dropped(tmp_path, cut):
    path = write(tmp_path, 0, range(1, 6))
    once = path.read_text()
    path.write_text(once[:-cut])
    write(tmp_path, 3, [4, 5])
    assert path.read_text() == once


def test_a_new_run_begins_a_new_record_and_a_lost_one_too(tmp_path):
    once = write(tmp_path, 0, [1]).read_text()
    assert write(tmp_path, 0, [1]).read_text() == once
    (tmp_path / "losses.csv").write_text("step")
    write(tmp_path, 3, [4])
    assert (tmp_path / "losses.csv").read_text().splitlines()[0] == "step,paint/total,paint/grey"


def test_other_losses_are_refused(tmp_path):
    write(tmp_path, 0, [1])
    record = Losses(tmp_path, 1)
    with pytest.raises(ValueError, match="columns"):
        record.add(2, {"other": 1.0})
    record.close()


def test_nine_digits_hold_a_float32(tmp_path):
    values = {f"{i}": v for i, v in enumerate(torch.randn(50, generator=torch.Generator().manual_seed(0)).tolist())}
    line = write(tmp_path, 0, [1], values).read_text().splitlines()[1]
    assert [torch.tensor(float(text)).item() for text in line.split(",")[1:]] == list(values.values())


def test_pictures_are_joined_along_the_shorter_way():
    assert joined(torch.zeros(3, 3, 4, 5)).shape == (12, 5, 3)
    assert joined(torch.zeros(3, 3, 5, 5)).shape == (5, 15, 3)
    pictures = torch.tensor([-1.0, 0.5, 2.0]).view(3, 1, 1, 1).expand(3, 3, 2, 2)
    assert joined(pictures)[0, ::2, 0].tolist() == [0, 128, 255]


def test_the_sheet_shows_samples_from_first_to_last_with_their_steps(tmp_path, without_tensorboard):
    with Records(tmp_path, 0, lambda line: None) as records:
        for step in range(0, 2000, 100):
            records.add_sample(step, torch.full((2, 3, 40, 40), step / 2000))
    with Image.open(write_sheet(tmp_path)) as image:
        sheet = np.asarray(image)
    assert sheet.shape == (8 * (40 + 24), 80, 3)
    shown = [int(sheet[24 + 20 + 64 * i, 40, 0]) for i in range(8)]
    assert shown == sorted(shown) and shown[0] == 0 and shown[-1] == round(255 * 1900 / 2000)
    assert all((sheet[64 * i : 64 * i + 24] < 128).any() for i in range(8))


def test_a_sheet_of_few_large_or_damaged_samples(tmp_path, without_tensorboard):
    assert write_sheet(tmp_path) is None
    with Records(tmp_path, 0, lambda line: None) as records:
        records.add_sample(0, torch.zeros(5, 3, 400, 400))
        records.add_sample(1, torch.zeros(1, 3, 20, 20))
        records.add_sample(2, torch.zeros(1, 3, 20, 20))
    (tmp_path / "samples/step-00000001.png").write_bytes(b"damaged")
    with Image.open(write_sheet(tmp_path)) as image:
        assert image.size == (SHEET_WIDTH, 24 + 320 + 24 + 20)


def test_colours_stay_what_they_are(tmp_path, without_tensorboard):
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 30, 30)
    with Records(tmp_path, 0, lambda line: None) as records:
        records.add_sample(0, red)
    for path, place in ((tmp_path / "samples/step-00000000.png", (5, 5)), (write_sheet(tmp_path), (5, 40))):
        with Image.open(path) as image:
            assert image.getpixel(place) == (255, 0, 0)


def test_without_tensorboard_the_user_is_told_what_to_install(tmp_path, without_tensorboard):
    lines = []
    with Records(tmp_path, 0, lines.append) as records:
        records.add(1, LOSSES)
        records.sync()
    assert lines == [NO_TENSORBOARD] and not (tmp_path / "tensorboard").exists()


def test_with_tensorboard_losses_and_samples_are_there_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for step, steps in ((0, [1, 2, 3]), (2, [3, 4])):
        with Records(tmp_path, step, lambda line: None) as records:
            for number in steps:
                records.add(number, LOSSES)
            records.add_sample(steps[-1], torch.zeros(1, 3, 8, 8))
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("paint/total")] == [1, 2, 3, 4]
    assert [event.step for event in events.Images("sample")] == [4]
