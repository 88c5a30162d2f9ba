"""Pictures to train on: what is found, how it is cut, and batches as pure functions of their number."""

import os
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from parallel_nst.training.batches import Batches, Prefetched
from parallel_nst.training.pictures import PictureFiles, check_apart, find_pictures
from parallel_nst.training.settings import CropSettings

CROP = CropSettings(size=8, flip=True)


def noise(number, height=12, width=15):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def save(path, number=0, size=(12, 15), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(number, *size)).save(path, **options)
    return path


def stream(count=11, batch=4, **options):
    return Batches({"images": [noise(i) for i in range(count)]}, batch, CROP, **options)


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_pictures_are_found_at_any_depth_in_natural_order(tmp_path):
    names = "1.png 2.png 10.png a/3.jpg a/20.webp"
    for name in reversed(names.split()):
        save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    save(tmp_path / ".hidden/1.png")
    save(tmp_path / ".4.png")
    found, skipped = find_pictures(tmp_path, 8)
    assert [str(path.relative_to(tmp_path)) for path in found] == names.split()
    assert skipped == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_only_regular_files_and_links_to_them_are_read(tmp_path):
    good = save(tmp_path / "good.png")
    (tmp_path / "link.png").symlink_to(good)
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "lost.png").symlink_to(tmp_path / "none.png")
    found, skipped = find_pictures(tmp_path, 8)
    assert [path.name for path in found] == ["good.png", "link.png"]
    assert {entry.path.name: entry.reason for entry in skipped} == {
        "pipe.png": "not a regular file: save the picture to one first",
        "device.jpg": "not a regular file: save the picture to one first",
        "lost.png": "cannot be read (FileNotFoundError)",
    }


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"


def test_nothing_is_handed_to_another_program_whatever_a_file_is_called(tmp_path, monkeypatch):
    """Pillow would let Ghostscript run the program that an EPS file is."""
    ran = []
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *arguments, **options: ran.append(arguments))
    paths = [tmp_path / name for name in ("1.jpg", "2.png", "3.tif", "4.gif")]
    for path in paths:
        path.write_bytes(EPS)
    good = save(tmp_path / "good.png", size=(40, 40))
    found, skipped = find_pictures(tmp_path, 8)
    assert found == [good] and [entry.path for entry in skipped] == paths
    assert all(entry.reason.startswith("not a picture of a known kind") for entry in skipped)
    for load in (None, 16):
        pictures = PictureFiles([*paths, good], load)
        assert pictures[0].shape == ((40, 40, 3) if load is None else (16, 16, 3))
        assert [entry.path for entry in pictures.skipped] == paths
    assert ran == []


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_a_jpeg_counts_under_all_its_suffixes(tmp_path, suffix):
    path = save(tmp_path / f"1{suffix}", size=(40, 40), format="JPEG")
    assert find_pictures(tmp_path, 8) == ([path], [])


def test_pictures_above_the_limit_are_left_out_unless_it_is_raised(tmp_path):
    path = save(tmp_path / "1.png", size=(40, 40))
    found, skipped = find_pictures(tmp_path, 8, max_pixels=1600)
    assert (found, skipped) == ([path], [])
    with pytest.raises(ValueError, match=r"40x40 is 1600 pixels, above the limit of 1599: pass --max-pixels 1600"):
        find_pictures(tmp_path, 8, max_pixels=1599)


def test_what_cannot_be_used_is_named_with_its_reason(tmp_path):
    good = save(tmp_path / "good.png")
    save(tmp_path / "tiny.png", size=(7, 90))
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    found, skipped = find_pictures(tmp_path, 8)
    assert found == [good]
    reasons = {item.path.name: item.reason for item in skipped}
    assert reasons.keys() == {"tiny.png", "text.jpg", "empty.png"}
    assert reasons["tiny.png"] == "90x7 is smaller than 8 px"


@pytest.mark.parametrize("content", ["nothing", "only bad ones", "no folder"])
def test_a_folder_without_pictures_is_refused(tmp_path, content):
    folder = tmp_path / "pictures"
    if content != "no folder":
        folder.mkdir()
    if content == "only bad ones":
        save(folder / "tiny.png", size=(4, 4))
    with pytest.raises(ValueError, match=str(folder)) as caught:
        find_pictures(folder, 8)
    assert "\n" not in str(caught.value)


def test_sets_that_share_a_picture_are_refused(tmp_path):
    a, b = save(tmp_path / "a/1.png"), save(tmp_path / "b/1.png")
    check_apart([a], [b])
    (tmp_path / "b/2.png").symlink_to(a)
    with pytest.raises(ValueError, match="do not overlap"):
        check_apart([a], [b, tmp_path / "b/2.png"])


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_pictures_are_decoded_as_they_are(tmp_path, suffix):
    pictures = PictureFiles([save(tmp_path / f"{i}{suffix}", i) for i in range(3)])
    for i in range(3):
        assert np.array_equal(pictures[i], noise(i))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = np.linspace(0, 1, 12 * 15).reshape(12, 15)
    if mode == "I;16":
        image = Image.fromarray((grey * 65535).astype(np.uint16))
    else:
        image = Image.fromarray((grey * 255).astype(np.uint8)).convert(mode)
    image.save(tmp_path / "1.tif")
    pixels = PictureFiles([tmp_path / "1.tif"])[0]
    assert pixels.shape == (12, 15, 3) and pixels.dtype == np.uint8
    if mode != "CMYK":
        np.testing.assert_allclose(pixels, 255 * grey[..., None].repeat(3, 2), atol=4)


def test_pictures_are_turned_upright_and_loaded_at_a_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(tmp_path / "1.jpg", size=(64, 200), exif=exif)
    assert PictureFiles([path])[0].shape == (200, 64, 3)
    assert PictureFiles([path], load=16)[0].shape == (50, 16, 3)
    assert PictureFiles([path], load=128)[0].shape == (400, 128, 3)


@pytest.mark.parametrize("room", [0, 12 * 15 * 3 * 2, 1 << 20])
def test_the_cache_changes_nothing_and_keeps_to_its_room(tmp_path, room):
    pictures = PictureFiles([save(tmp_path / f"{i}.png", i) for i in range(4)], cache_bytes=room)
    for _ in range(2):
        assert all(np.array_equal(pictures[i], noise(i)) for i in range(4))
    assert sum(kept.nbytes for kept in pictures._cache.values()) <= room


def test_a_picture_damaged_behind_its_header_is_replaced_by_the_next_and_named(tmp_path):
    paths = [save(tmp_path / f"{i}.png", i, (40, 40)) for i in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    assert find_pictures(tmp_path, 8) == (paths, [])
    pictures = PictureFiles(paths)
    for _ in range(2):
        assert np.array_equal(pictures[1], noise(2, 40, 40))
    assert [item.path for item in pictures.skipped] == [paths[1]]


def test_only_damaged_pictures_are_an_error(tmp_path):
    with pytest.raises(ValueError, match="none of 2 pictures"):
        PictureFiles([tmp_path / "gone.png", tmp_path / "too.png"])[0]


def test_crops_are_pieces_of_the_picture():
    pixels = noise(0)
    pieces = {pixels[i : i + 8, j : j + 8].tobytes() for i in range(5) for j in range(8)}
    seen = set()
    for i in range(200):
        crop = CropSettings(8)(pixels, Random(i))
        assert crop.shape == (3, 8, 8) and crop.dtype == torch.uint8
        seen.add(crop.permute(1, 2, 0).numpy().tobytes())
    assert seen <= pieces and len(seen) > 30


def test_half_of_the_crops_are_mirrored_and_centre_crops_stay_where_they_are():
    pixels = noise(0)
    centre = torch.from_numpy(pixels[2:10, 3:11].copy()).permute(2, 0, 1)
    plain, mirrored = CropSettings(8, random=False), CropSettings(8, random=False, flip=True)
    assert all(torch.equal(plain(pixels, Random(i)), centre) for i in range(4))
    turned = [torch.equal(mirrored(pixels, Random(i)), centre.flip(2)) for i in range(100)]
    kept = [torch.equal(mirrored(pixels, Random(i)), centre) for i in range(100)]
    assert 30 < sum(turned) < 70 and sum(turned) + sum(kept) == 100


@pytest.mark.parametrize("settings", [{"size": 0}, {"size": 8, "load": 7}])
def test_impossible_crops_are_refused(settings):
    with pytest.raises(ValueError, match="px"):
        CropSettings(**settings)
    with pytest.raises(ValueError, match="holds no crop"):
        CropSettings(13)(noise(0), Random(0))


def test_a_batch_depends_on_its_number_and_the_seed_alone():
    one, other = stream(seed=3), stream(seed=3)
    forwards = [one.at(step) for step in range(7)]
    backwards = [other.at(step) for step in reversed(range(7))][::-1]
    assert all(same(a, b) for a, b in zip(forwards, backwards, strict=True))
    assert not same(stream(seed=4).at(0), forwards[0])
    assert not any(same(forwards[0], later) for later in forwards[1:])


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_ranks_slices_together_are_the_batch(ranks):
    slices = [stream(rank=rank, ranks=ranks) for rank in range(ranks)]
    for step in range(4):
        assert torch.equal(torch.cat([s.at(step)["images"] for s in slices]), stream().at(step)["images"])


def numbered(count, size=9):
    """Pictures that show their number."""
    return [np.full((size, size, 3), i, np.uint8) for i in range(count)]


def numbers(batch):
    return batch["images"][:, 0, 0, 0].tolist()


def test_an_epoch_has_every_picture_at_most_once_and_each_another_order():
    batches = Batches({"images": numbered(11)}, 4, CropSettings(8))
    assert batches.steps_per_epoch == 2
    epochs = [numbers(batches.at(2 * e)) + numbers(batches.at(2 * e + 1)) for e in range(6)]
    assert all(len(set(epoch)) == 8 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert set().union(*epochs) == set(range(11))


def test_without_shuffling_pictures_come_in_their_order():
    batches = Batches({"images": numbered(5)}, 2, CropSettings(8), shuffle=False)
    assert [numbers(batches.at(step)) for step in range(3)] == [[0, 1], [2, 3], [0, 1]]


def test_unpaired_sources_have_orders_and_epochs_of_their_own():
    both = Batches({"a": numbered(8), "b": numbered(4)}, 2, CropSettings(8))
    assert both.steps_per_epoch == 4
    rows = [both.at(step) for step in range(4)]
    a, b = (torch.cat([row[name][:, 0, 0, 0] for row in rows]).tolist() for name in "ab")
    assert sorted(a) == list(range(8)) and sorted(b) == sorted([*range(4)] * 2)
    alike = Batches({"a": numbered(8), "b": numbered(8)}, 8, CropSettings(8)).at(0)
    assert not torch.equal(alike["a"], alike["b"])


@pytest.mark.parametrize(("batch", "ranks"), [(12, 1), (5, 2), (0, 1)])
def test_impossible_batches_are_refused(batch, ranks):
    with pytest.raises(ValueError, match="give"):
        stream(batch=batch, ranks=ranks)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("first", "last"), [(0, 9), (4, 9), (5, 6), (7, 7)])
def test_batches_made_ahead_are_the_same(first, last, threads):
    batches = stream()
    with Prefetched(batches, first, last, threads=threads, ahead=2) as ahead:
        made = list(ahead)
    assert len(made) == last - first
    assert all(same(batch, batches.at(step)) for step, batch in enumerate(made, first))
    assert ahead.waited >= 0


class Failing:
    batch = 1

    def __init__(self):
        self.asked = []

    def at(self, step):
        self.asked.append(step)
        if step == 2:
            raise ValueError("batch 2")
        return {"images": torch.zeros(1)}


def test_an_error_in_a_batch_comes_out_where_it_is_asked_for():
    with Prefetched(Failing(), 0, 100) as ahead:
        batches = iter(ahead)
        next(batches), next(batches)
        with pytest.raises(ValueError, match="batch 2"):
            next(batches)


def test_only_a_few_batches_are_made_ahead_and_none_after_the_end():
    failing = Failing()
    with Prefetched(failing, 3, 1000, ahead=3) as ahead:
        next(iter(ahead))
    assert len(failing.asked) <= 4


def test_unreadable_pictures_do_not_change_the_other_ranks_batches(tmp_path):
    paths = [save(tmp_path / f"{i}.png", i, (40, 40)) for i in range(6)]
    paths[2].write_bytes(paths[2].read_bytes()[:300])

    def made(rank, ranks):
        batches = Batches({"images": PictureFiles(paths)}, 6, CROP, rank=rank, ranks=ranks)
        return batches.at(0)["images"]

    assert torch.equal(torch.cat([made(0, 2), made(1, 2)]), made(0, 1))


def test_paths_may_be_named_in_any_way(tmp_path, monkeypatch):
    save(tmp_path / "1.png")
    monkeypatch.chdir(tmp_path)
    assert find_pictures(Path("."), 8)[0] == [Path("1.png")]
