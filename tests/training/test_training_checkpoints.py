"""Checkpoints of a training: whole or not there, of this training or refused, and only as many as wanted."""

import os
import struct
import zipfile

import pytest
import torch
from lessons import Lesson, everything

from parallel_nst.files.whole_files import aside_name
from parallel_nst.training.checkpoint_files import main_path, memory_path, steps_of
from parallel_nst.training.checkpoints import damage_of, load_newest, save_checkpoint
from parallel_nst.workers.ranks.place import Place

RECIPE = {"seed": 0, "widths": (4, 4)}
BATCH = {"images": torch.linspace(0, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)}


def trained(steps=2, **options):
    """A lesson whose networks, optimisers, schedules, memory and generator have been used."""
    lesson = Lesson(**options)
    for _ in range(steps):
        for phase in lesson.phases:
            phase.optimizer.zero_grad()
            phase.module(BATCH)["total"].backward()
            phase.optimizer.step()
            phase.schedule.step()
    return lesson


def save(folder, step, lesson=None, place=None, keep=9):
    save_checkpoint(folder, step, lesson or trained(), RECIPE, place or Place(), keep)


def load(folder, lesson, place=None, recipe=RECIPE):
    """The step, and the lines that were told."""
    lines = []
    return load_newest(folder, lesson, recipe, place or Place(), lines.append), lines


def assert_equal(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_saved_comes_back(tmp_path):
    lesson = trained()
    saved = everything(lesson)
    save(tmp_path, 7, lesson)
    torch.rand(5)
    other = trained(1)
    assert load(tmp_path, other) == (7, [])
    assert_equal(everything(other), saved)


def test_an_empty_folder_has_nothing_to_go_on_from(tmp_path):
    lesson = trained()
    before = everything(lesson)
    assert load(tmp_path, lesson) == (0, []) and load(tmp_path / "none", lesson) == (0, [])
    assert_equal(everything(lesson), before)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept_and_nothing_else_is_touched(tmp_path, keep):
    (tmp_path / "notes.pt").touch()
    for step in (5, 10, 15, 20):
        save(tmp_path, step, keep=keep)
    left = [20, 15, 10][:keep]
    assert steps_of(tmp_path) == left
    expected = {path(tmp_path, step).name for step in left for path in (main_path, lambda f, s: memory_path(f, s, 0))}
    assert set(os.listdir(tmp_path)) == expected | {"notes.pt"}


def cut_short(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    """One bit of the largest part is wrong."""
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    data[part.header_offset + 30 + len(part.filename) + part.file_size // 2 + 60] ^= 1
    path.write_bytes(bytes(data))


def emptied(path):
    path.write_bytes(b"")


def removed(path):
    path.unlink()


@pytest.mark.parametrize("damage", [cut_short, flipped, emptied, removed])
@pytest.mark.parametrize("which", ["main", "memory"])
def test_a_damaged_one_is_passed_over_and_told(tmp_path, damage, which):
    older = trained(1)
    save(tmp_path, 5, older)
    expected = everything(older)
    save(tmp_path, 10)
    path = main_path(tmp_path, 10) if which == "main" else memory_path(tmp_path, 10, 0)
    damage(path)
    lesson = Lesson()
    step, lines = load(tmp_path, lesson)
    assert step == 5
    assert_equal(everything(lesson)["networks"], expected["networks"])
    if (which, damage) != ("main", removed):
        assert len(lines) == 1 and str(path) in lines[0] and "\n" not in lines[0]


def test_only_damaged_ones_are_refused_rather_than_written_over(tmp_path):
    save(tmp_path, 5)
    cut_short(main_path(tmp_path, 5))
    with pytest.raises(ValueError, match=r"none of 1 checkpoints .* delete them"):
        load(tmp_path, Lesson())


def test_a_damaged_later_one_does_not_push_out_new_ones(tmp_path):
    for step in (5, 10):
        save(tmp_path, step)
    cut_short(main_path(tmp_path, 10))
    for step in (6, 7, 8):
        save(tmp_path, step, keep=2)
    assert steps_of(tmp_path) == [10, 8, 7]
    assert load(tmp_path, Lesson())[0] == 8


def test_a_write_that_fails_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    save(tmp_path, 5)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left on device") as caught:
        patched.setattr(os, "fsync", full)
        save(tmp_path, 10, keep=1)
    assert "\n" not in str(caught.value)
    assert load(tmp_path, Lesson())[0] == 5
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000005.memory-0.pt", "checkpoint-00000005.pt"]


def test_what_a_killed_write_left_is_cleared_by_the_next(tmp_path):
    for name in ("checkpoint-00000010.pt", "checkpoint-00000010.memory-0.pt"):
        (tmp_path / aside_name(name)).write_bytes(b"half")
    memory_path(tmp_path, 10, 0).write_bytes(b"whole, but the main file was never written")
    save(tmp_path, 12)
    assert sorted(os.listdir(tmp_path)) == ["checkpoint-00000012.memory-0.pt", "checkpoint-00000012.pt"]


def test_other_settings_are_refused_by_name(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(ValueError, match=r"other settings \(seed: 0, now 1\)"):
        load(tmp_path, Lesson(), recipe={**RECIPE, "seed": 1})
    with pytest.raises(ValueError, match=r"other settings \(batch: None, now 4\)"):
        load(tmp_path, Lesson(), recipe={**RECIPE, "batch": 4})


def test_another_architecture_is_refused_before_anything_is_changed(tmp_path):
    save(tmp_path, 5)
    lesson = Lesson(width=6)
    before = everything(lesson)
    with pytest.raises(ValueError, match=r"another architecture \(painter\.0\.bias: \(4,\), now \(6,\)\)"):
        load(tmp_path, lesson)
    assert_equal(everything(lesson), before)


def test_other_phases_are_another_architecture(tmp_path):
    save(tmp_path, 5)
    lesson = Lesson()
    lesson.phases.pop()
    with pytest.raises(ValueError, match="trained by paint, judge"):
        load(tmp_path, lesson)


@pytest.mark.parametrize("content", [[1, 2], {"format": "something else"}, {"ranks": 1}])
def test_other_files_of_that_name_are_refused(tmp_path, content):
    torch.save(content, main_path(tmp_path, 5))
    with pytest.raises(ValueError, match="is no checkpoint of a training") as caught:
        load(tmp_path, Lesson())
    assert "\n" not in str(caught.value)


class Bomb:
    def __reduce__(self):
        return os.system, ("false",)


def test_code_in_a_file_is_not_run(tmp_path):
    torch.save({"ranks": 1, "bomb": Bomb()}, main_path(tmp_path, 5))
    with pytest.raises(ValueError, match=r"no checkpoint of a training \(UnpicklingError\); delete them"):
        load(tmp_path, Lesson())


def edited(path, change):
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)


@pytest.mark.parametrize("entry", ["step", "ranks", "recipe", "networks", "optimizers", "schedules"])
@pytest.mark.parametrize("change", [lambda state, key: state.pop(key), lambda state, key: state.update({key: None})])
def test_entries_that_are_missing_or_of_another_kind_are_refused(tmp_path, entry, change):
    save(tmp_path, 5)
    path = main_path(tmp_path, 5)
    edited(path, lambda state: change(state, entry))
    with pytest.raises(ValueError, match=rf"{path.name} is no checkpoint of a training \(it has no {entry}"):
        load(tmp_path, Lesson())


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(recipe="no JSON"),
        lambda state: state.update(networks={1: {}}),
        lambda state: state["networks"].update(painter={"weight": 1}),
        lambda state: state.update(optimizers={1: {}}),
        lambda state: state["optimizers"].update(paint={}),
        lambda state: state["schedules"].pop("paint"),
    ],
)
def test_entries_within_entries_that_do_not_fit_are_refused(tmp_path, change):
    save(tmp_path, 5)
    edited(main_path(tmp_path, 5), change)
    with pytest.raises(ValueError, match=main_path(tmp_path, 5).name) as caught:
        load(tmp_path, Lesson())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [{}, {"memory": {}, "random": None}, {"memory": {}, "random": {}}])
def test_a_memory_that_is_none_is_refused(tmp_path, content):
    save(tmp_path, 5)
    torch.save(content, memory_path(tmp_path, 5, 0))
    with pytest.raises(ValueError, match=r"move (it|them) away") as caught:
        load(tmp_path, Lesson())
    assert "\n" not in str(caught.value)


KINDS_OF_ERRORS = [
    OSError(5, "Input/output error"), zipfile.BadZipFile("bad"), RuntimeError("encrypted"), NotImplementedError(),
    UnicodeDecodeError("utf-8", b"x", 0, 1, "invalid"), struct.error("unpack"), MemoryError(), EOFError(),
]  # fmt: skip


@pytest.mark.parametrize("error", KINDS_OF_ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("reader", ["zipfile.ZipFile.testzip", "torch.load"])
def test_whatever_reading_raises_the_one_before_is_taken(tmp_path, monkeypatch, error, reader):
    save(tmp_path, 5)
    save(tmp_path, 10)
    owner, name = (zipfile.ZipFile, "testzip") if "zip" in reader else (torch, "load")
    given, calls = getattr(owner, name), []

    def fails_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 1:
            raise error
        return given(*arguments, **options)

    monkeypatch.setattr(owner, name, fails_once)
    step, lines = load(tmp_path, Lesson())
    assert step == 5 and len(lines) == 1 and main_path(tmp_path, 10).name in lines[0] and "\n" not in lines[0]


def test_any_wrong_byte_of_the_directory_is_damage_or_none(tmp_path):
    """Never another error: the checksums cover the contents, not the archive's own directory."""
    save(tmp_path, 5)
    path = main_path(tmp_path, 5)
    whole = path.read_bytes()
    for place in range(whole.rfind(b"PK\x01\x02"), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        damage = damage_of(tmp_path, 5)
        assert damage is None or (path.name in damage and "\n" not in damage)


def interrupted(*arguments):
    """As PyTorch's writer does, which makes another error of Ctrl-C."""
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise RuntimeError("unexpected pos 64 vs 0")  # noqa: B904


@pytest.mark.parametrize("place", ["save", "fsync"])
def test_ctrl_c_while_writing_is_ctrl_c_and_leaves_the_checkpoint_before(tmp_path, monkeypatch, place):
    save(tmp_path, 5)
    before = sorted(os.listdir(tmp_path))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(torch if place == "save" else os, place, interrupted)
        save(tmp_path, 10)
    assert sorted(os.listdir(tmp_path)) == before and load(tmp_path, Lesson())[0] == 5


def save_as_two(folder, step):
    """As two ranks would, the second first; returns what each remembers."""
    lessons = [trained(1), trained(3)]
    for rank in (1, 0):
        save(folder, step, lessons[rank], Place(rank=rank, ranks=2))
    return [lesson.memory() for lesson in lessons]


def test_each_rank_has_its_own_memory_and_all_the_same_networks(tmp_path):
    memories = save_as_two(tmp_path, 5)
    got = [Lesson(), Lesson()]
    for rank in range(2):
        assert load(tmp_path, got[rank], Place(rank=rank, ranks=2)) == (5, [])
        assert_equal(got[rank].memory(), memories[rank])
    assert_equal(got[0].networks["painter"].state_dict(), got[1].networks["painter"].state_dict())


@pytest.mark.parametrize("rank", [0, 1])
def test_memory_missing_of_one_rank_is_damage_to_all(tmp_path, rank):
    save_as_two(tmp_path, 5)
    save_as_two(tmp_path, 10)
    memory_path(tmp_path, 10, 1).unlink()
    assert damage_of(tmp_path, 10) is not None and damage_of(tmp_path, 5) is None
    assert load(tmp_path, Lesson(), Place(rank=rank, ranks=2))[0] == 5


@pytest.mark.parametrize(("rank", "ranks"), [(0, 1), (0, 3), (2, 3)])
def test_another_number_of_ranks_goes_on_and_is_told(tmp_path, rank, ranks):
    memories = save_as_two(tmp_path, 5)
    lesson = Lesson()
    step, lines = load(tmp_path, lesson, Place(rank=rank, ranks=ranks))
    assert step == 5 and "of 2 workers" in lines[0]
    assert_equal(lesson.memory(), memories[rank] if rank < 2 else {"past": []})


def test_ranks_that_see_different_folders_are_told(tmp_path):
    save_as_two(tmp_path, 5)
    with pytest.raises(ValueError, match="share"):
        load(tmp_path, Lesson(), Place(ranks=2, mean=lambda step: step / 2))


def test_the_main_file_is_written_when_all_memories_are_there(tmp_path):
    seen = []

    def meeting(value):
        seen.append(sorted(os.listdir(tmp_path)))
        return value

    save(tmp_path, 5, place=Place(mean=meeting))
    memory, main = "checkpoint-00000005.memory-0.pt", "checkpoint-00000005.pt"
    assert seen == [[memory], [memory, main]]
