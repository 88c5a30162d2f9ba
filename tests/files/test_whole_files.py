"""Files appear whole or not at all, and what a killed process left of them is found again."""

import errno
import os

import pytest
from odd_texts import ODD_TEXTS

from parallel_nst.files.whole_files import (
    LONGEST,
    aside_name,
    aside_stem,
    cut_name,
    remove_leftovers,
    remove_leftovers_in,
    replacing,
    told_in_one_line,
    whole_file,
    write_whole,
)

posix = pytest.mark.skipif(os.name != "posix", reason="links and modes as POSIX has them")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_takes_its_place_when_the_block_ends_well(tmp_path, sync):
    (tmp_path / "a").write_bytes(b"old")
    with replacing(tmp_path / "a", sync=sync) as aside:
        aside.write_bytes(b"new")
        assert (tmp_path / "a").read_bytes() == b"old" and aside.parent == tmp_path
    assert contents(tmp_path) == {"a": b"new"}


@pytest.mark.parametrize("error", [OSError(28, "full"), KeyboardInterrupt(), ValueError("x")])
@pytest.mark.parametrize("before", [True, False])
def test_a_block_that_fails_changes_nothing(tmp_path, error, before):
    if before:
        (tmp_path / "a").write_bytes(b"old")
    there = contents(tmp_path)
    with pytest.raises(type(error)), whole_file(tmp_path / "a") as file:
        file.write(b"half")
        raise error
    assert contents(tmp_path) == there


@pytest.mark.parametrize("fails", [0, 1, 2])
def test_of_some_files_none_gets_its_name_before_all_are_written(tmp_path, monkeypatch, fails):
    paths = [tmp_path / name for name in "abc"]
    paths[1].write_bytes(b"old")
    write, calls = type(tmp_path).write_bytes, []

    def full(path, data):
        calls.append(path)
        if len(calls) > fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr(type(tmp_path), "write_bytes", full)
        write_whole(dict.fromkeys(paths, b"new"))
    assert contents(tmp_path) == {"b": b"old"}
    write_whole(dict.fromkeys(paths, memoryview(b"new")), sync=True)
    assert contents(tmp_path) == dict.fromkeys("abc", b"new")


@posix
def test_a_link_stays_and_leads_to_the_new_file(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "store" / "a")
    write_whole({tmp_path / "link": b"new"})
    assert (tmp_path / "link").is_symlink() and contents(tmp_path / "store") == {"a": b"new"}


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_left_to_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_whole({tmp_path / "a": b""})
        with whole_file(tmp_path / "b") as file:
            file.write(b"")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize(
    ("error", "reason"), [(OSError(28, "full"), "full"), (OSError("a\nb"), "a b"), (RuntimeError(""), "RuntimeError")]
)
def test_what_cannot_be_written_is_told_in_one_line(tmp_path, error, reason):
    with pytest.raises(OSError) as caught, told_in_one_line(tmp_path, "make room", RuntimeError):
        raise error
    assert str(caught.value) == f"{tmp_path}: cannot be written ({reason}): make room"
    with pytest.raises(KeyError), told_in_one_line(tmp_path, "make room"):
        raise KeyError


# --- names, and what was left


LONG = ["a" * 255, "\u98a8" * 85, "\U0001f304" * 63 + "x", "a" * 230 + "\u98a8" * 8, os.fsdecode(b"\xff" * 255)]
NAMES = ["a.jpg", "a.jpg.b.jpg", ".a", "x.0123456789abcdef.pnst", "a" * 232, "a" * 233, *ODD_TEXTS, *LONG]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_aside_is_hidden_new_fits_and_is_told_from_all_others(name):
    aside = aside_name(name)
    assert aside.startswith(".") and aside.endswith(".pnst") and aside != aside_name(name)
    assert len(os.fsencode(aside)) <= LONGEST
    if name != os.fsdecode(b"\xff" * 255):
        os.fsencode(aside).decode("utf-8", "strict" if name != os.fsdecode(b"\xff\xfe") else "replace")
    assert [other for other in NAMES if aside_stem(aside) == cut_name(other)] == [name]
    assert not {aside_stem(aside + "x"), aside_stem(aside[1:]), aside_stem(name)} & {cut_name(name)}


def test_long_names_that_begin_alike_are_told_apart():
    assert aside_stem(aside_name("a" * 254 + "b")) != cut_name("a" * 255)


@pytest.mark.parametrize("name", ["", ".", ".pnst", "..0123456789abcdef.pnst", ".a.0123456789ABCDEF.pnst", ".a.pnst"])
def test_other_names_are_not_aside(name):
    assert not aside_stem(name)


def test_only_leftovers_of_this_plan_are_cleared(tmp_path):
    (tmp_path / "s").mkdir()
    leftovers = [aside_name("a.jpg"), aside_name("a.jpg"), f"s/{aside_name('b.jpg')}"]
    others = [aside_name("other.jpg"), "a.jpg", ".a.jpg.pnst", f"s/{aside_name('a.jpg')}", ".0123456789abcdef.pnst"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"")
    folder = tmp_path / aside_name("a.jpg")
    folder.mkdir()
    assert remove_leftovers(tmp_path / name for name in ("a.jpg", "s/b.jpg", "not/there.jpg")) == len(leftovers)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {*others, "s", folder.name}


@posix
def test_leftovers_lie_where_a_linked_output_leads(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.jpg").symlink_to(tmp_path / "real" / "b.jpg")
    (tmp_path / "real" / aside_name("b.jpg")).write_bytes(b"")
    assert remove_leftovers([tmp_path / "a.jpg"]) == 1


def test_leftovers_in_a_folder_are_told_by_what_they_were_to_become(tmp_path):
    for name in ("step-1.png", "other"):
        (tmp_path / aside_name(name)).write_bytes(b"half")
    assert remove_leftovers_in(tmp_path, lambda name: name.startswith("step-")) == 1
    assert [aside_stem(path.name) for path in tmp_path.iterdir()] == ["other"]
    assert remove_leftovers_in(tmp_path / "none", lambda name: True) == 0
