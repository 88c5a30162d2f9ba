"""The manifest: nothing that was written is lost, whatever stops the batch; nothing is done twice or overwritten."""

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from parallel_nst.files.whole_files import LONGEST, aside_name, aside_stem, is_aside
from parallel_nst.jobs.batch import manifest as module
from parallel_nst.jobs.batch import resume as decisions
from parallel_nst.jobs.batch.inputs import Source, Target
from parallel_nst.jobs.batch.manifest import MANIFEST, Entry, Manifest
from parallel_nst.jobs.batch.resume import (
    clear_leftovers,
    decide,
    earlier_outputs,
    file_digest,
    input_state,
    stamp,
    stamped,
)

ODD_TEXTS = [
    "a b",
    "line\nbreak",
    "\u00e9 e\u0301 \u98a8",
    os.fsdecode(b"\xff\xfe"),
    "\0",
    "\u2028",
    '"\\',
    "\U0001f304",
]
ENTRIES = [
    Entry(
        "a.jpg", "in/a.jpg", "done", "ab" * 32, 2**40, 1_700_000_000_123_456_789, "r", 1.5, None, 640, 480, ("x", "y")
    ),
    Entry("b.jpg", "in/b.jpg", "failed", None, 0, 0, "r", 0.0, "damaged: get a whole copy"),
    *(Entry(f"{text}.png", text, "done", notes=(text,)) for text in ODD_TEXTS),
    Entry("a.jpg", "in/a.jpg", "done", "cd" * 32, recipe="s"),
]
posix = pytest.mark.skipif(os.name != "posix", reason="locks, links and signals as POSIX has them")


def written(out, entries=ENTRIES):
    """The bytes of a manifest with these entries."""
    with Manifest.open(out) as manifest:
        for entry in entries:
            manifest.append(entry)
    return (out / MANIFEST).read_bytes()


def reopened(out):
    with Manifest.open(out) as manifest:
        return manifest.entries, manifest.notes


def refused(call, *names, kind=ValueError):
    """The one line that says why."""
    with pytest.raises(kind) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line and ": " in line
    for name in names:
        assert str(name) in line
    return line


# --- the file


def test_what_is_written_is_read_again_the_last_of_a_name(tmp_path):
    data = written(tmp_path / "deep" / "out")
    assert data.count(b"\n") == len(ENTRIES) and data.isascii()
    assert all(json.loads(line)["name"] for line in data.splitlines())
    assert reopened(tmp_path / "deep" / "out") == ({entry.name: entry for entry in ENTRIES}, ())


def test_entries_are_there_before_the_block_ends(tmp_path):
    with Manifest.open(tmp_path) as manifest:
        for count, entry in enumerate(ENTRIES, 1):
            manifest.append(entry)
            assert (tmp_path / MANIFEST).read_bytes().count(b"\n") == count
            assert manifest.entries[entry.name] == entry


def test_what_stands_there_already_is_not_written_again(tmp_path):
    assert written(tmp_path, ENTRIES[1:3] * 3) == b"".join(entry.to_line() for entry in ENTRIES[1:3])


def test_cut_anywhere_only_the_cut_line_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    path = tmp_path / MANIFEST
    entries = ENTRIES[1:4]
    data = written(tmp_path, entries)
    more = Entry("next.jpg", "in/next.jpg", "done")
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        # A line that lacks nothing but its end is whole.
        kept = data[: cut + 1].count(b"\n") if data[cut : cut + 1] == b"\n" else data[:cut].count(b"\n")
        with Manifest.open(tmp_path) as manifest:
            assert list(manifest.entries.values()) == entries[:kept] and manifest.notes == ()
            manifest.append(more)
        assert path.read_bytes() == b"".join(entry.to_line() for entry in [*entries[:kept], more])


@pytest.mark.parametrize("tail", [b"\0" * 100, b'{"name": "a', b"garbage", b"\xff\xfe", b"{" * 100_000])
def test_any_last_line_without_its_end_is_dropped(tmp_path, tail):
    data = written(tmp_path)
    (tmp_path / MANIFEST).write_bytes(data + tail)
    assert reopened(tmp_path)[0] == {entry.name: entry for entry in ENTRIES}
    assert (tmp_path / MANIFEST).read_bytes() == data


@pytest.mark.parametrize(
    "line",
    [
        b"\0\0\0",
        b"garbage",
        b"[]",
        b"{}",
        b"null",
        b"[" * 100_000,
        b'{"name": "a.jpg", "source": "x", "state": "asleep"}',
        b'{"name": 1, "source": "x", "state": "done"}',
        b'{"name": "a.jpg", "state": "done"}',
        b'{"name": "a.jpg", "source": "x", "state": "done", "size": "1"}',
        b'{"name": "a.jpg", "source": "x", "state": "done", "notes": "n"}',
        b'{"name": "a.jpg", "source": "x", "state": ["done"]}',
    ],
)
@pytest.mark.parametrize("at", [0, 3])
def test_nonsense_within_is_passed_over_and_told(tmp_path, line, at):
    lines = written(tmp_path).splitlines()
    (tmp_path / MANIFEST).write_bytes(b"\n".join([*lines[:at], line, b"", *lines[at:], b""]))
    entries, notes = reopened(tmp_path)
    assert entries == {entry.name: entry for entry in ENTRIES}
    (note,) = notes
    assert "1 line of nonsense" in note and str(tmp_path / MANIFEST) in note
    (tmp_path / MANIFEST).write_bytes(line + b"\n")
    refused(lambda: reopened(tmp_path), tmp_path / MANIFEST, "move it away")
    assert (tmp_path / MANIFEST).read_bytes() == line + b"\n"


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n", b'{"other": 1', b'{"other": 1}\n{"na'])
def test_what_is_no_manifest_is_refused_and_left_alone(tmp_path, data):
    (tmp_path / MANIFEST).write_bytes(data)
    refused(lambda: reopened(tmp_path), tmp_path / MANIFEST, "not a manifest")
    assert (tmp_path / MANIFEST).read_bytes() == data


@pytest.mark.parametrize("data", [b"", b"\n \n", b"\0\0", b"{", b'{"name": "a.jp'])
def test_what_may_be_the_beginning_of_one_is_taken(tmp_path, data):
    (tmp_path / MANIFEST).write_bytes(data)
    assert reopened(tmp_path) == ({}, ())


def test_what_a_later_version_adds_is_ignored():
    line = json.dumps(json.loads(ENTRIES[0].to_line()) | {"later": [1]}).encode()
    assert Entry.from_line(line) == ENTRIES[0]


def test_a_folder_that_cannot_be_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    refused(lambda: reopened(tmp_path / "file"), tmp_path / "file", kind=OSError)
    refused(lambda: reopened(tmp_path / "file" / "below"), tmp_path / "file", kind=OSError)
    (tmp_path / "out" / MANIFEST).mkdir(parents=True)
    refused(lambda: reopened(tmp_path / "out"), tmp_path / "out" / MANIFEST, kind=OSError)


@posix
def test_a_second_batch_is_kept_out_until_the_first_ends(tmp_path):
    with Manifest.open(tmp_path) as manifest:
        refused(lambda: reopened(tmp_path), tmp_path / MANIFEST, "another batch")
        manifest.append(ENTRIES[0])
        with Manifest.open(tmp_path / "other"):
            pass
    assert list(reopened(tmp_path)[0].values()) == [ENTRIES[0]]
    with pytest.raises(KeyError), Manifest.open(tmp_path) as manifest:
        manifest.append(ENTRIES[1])
        raise KeyError
    assert list(reopened(tmp_path)[0].values()) == ENTRIES[:2]
    assert os.listdir(tmp_path) in (["other", MANIFEST], [MANIFEST, "other"])


@posix
def test_where_there_are_no_locks_it_is_told(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.ENOTSUP, "not here")

    monkeypatch.setattr(module.fcntl, "flock", flock)
    written(tmp_path)
    entries, notes = reopened(tmp_path)
    assert len(entries) == len(ENTRIES) - 1 and "second batch" in notes[0]


@posix
def test_nothing_is_lost_and_the_lock_is_given_back_when_the_batch_is_killed(tmp_path):
    source = """
import os, signal, sys
from pathlib import Path
from parallel_nst.jobs.batch.manifest import Entry, Manifest
with Manifest.open(Path(sys.argv[1])) as manifest:
    for number in range(500):
        manifest.append(Entry(f"{number}.jpg", "in", "done"))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    run = subprocess.run([sys.executable, "-c", source, str(tmp_path)])
    assert run.returncode == -signal.SIGKILL
    assert list(reopened(tmp_path)[0]) == [f"{number}.jpg" for number in range(500)]


@pytest.mark.parametrize("room", [0, 1, 50])
def test_a_full_disk_is_told_and_leaves_whole_lines(tmp_path, monkeypatch, room):
    real, left = os.write, [room]

    def write(descriptor, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = real(descriptor, data[: left[0]])
        left[0] -= count
        return count

    with Manifest.open(tmp_path) as manifest:
        manifest.append(ENTRIES[0])
        monkeypatch.setattr(os, "write", write)
        refused(lambda: manifest.append(ENTRIES[1]), MANIFEST, "No space left", kind=OSError)
        assert list(manifest.entries) == ["a.jpg"]
        monkeypatch.undo()
        assert (tmp_path / MANIFEST).read_bytes() == ENTRIES[0].to_line()
        manifest.append(ENTRIES[1])
    assert list(reopened(tmp_path)[0].values()) == ENTRIES[:2]


def test_the_disk_is_waited_for_at_the_end_and_now_and_then(tmp_path, monkeypatch):
    now, waits = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(os, "fsync", waits.append)
    with Manifest.open(tmp_path) as manifest:
        for number in range(100):
            now[0] += module.SYNC_EVERY / 10
            manifest.append(Entry(f"{number}", "in", "done"))
        assert 8 <= len(waits) <= 11
        before = len(waits)
    assert len(waits) == before + 1


# --- decisions


class Case:
    """A picture, its output and an entry that says it is done."""

    def __init__(self, folder):
        self.source, self.output = folder / "a.jpg", folder / "out" / "a.jpg"
        self.output.parent.mkdir()
        self.source.write_bytes(b"input")
        self.output.write_bytes(b"output")
        self.target = Target(Source(self.source, Path("a.jpg")), self.output, "a.jpg")
        size, mtime_ns = input_state(self.source)
        self.digest = file_digest(self.source)
        self.entry = Entry("a.jpg", str(self.source), "done", self.digest, size, mtime_ns, "recipe", 2.0)
        self.stamp = None

    def decide(self, entry, overwrite=False):
        return decide(self.target, entry, "recipe", overwrite=overwrite, found=lambda path: self.stamp)

    def touch(self, data=b"input"):
        self.source.write_bytes(data)
        os.utime(self.source, ns=(0, self.entry.mtime_ns + 10**9))


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def forbidden(path):
    raise AssertionError(f"{path} was read")


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_done_and_unchanged_is_skipped_without_reading_it(case, monkeypatch, overwrite):
    monkeypatch.setattr(decisions, "file_digest", forbidden)
    found = decide(case.target, case.entry, "recipe", overwrite=overwrite, found=forbidden)
    assert (found.action, found.entry, found.paint) == ("skip", None, False)


def test_a_new_time_alone_is_no_change_and_is_noted(case):
    case.touch()
    found = case.decide(case.entry)
    assert found.action == "skip"
    assert found.entry == replace(case.entry, mtime_ns=case.entry.mtime_ns + 10**9)
    assert case.decide(found.entry).entry is None


def test_another_input_is_told_by_its_digest_even_of_the_same_size_and_time(case):
    elsewhere = replace(case.entry, source="elsewhere/a.jpg")
    assert case.decide(elsewhere).entry == case.entry
    assert case.decide(replace(elsewhere, input_digest="0" * 64)).paint


CHANGES = {
    "new": lambda case: case.output.unlink(),
    "failed before": lambda case: case.output.unlink() or replace(case.entry, state="failed"),
    "failed before, its earlier output still there": lambda case: replace(case.entry, state="failed", made_before=True),
    "input of another size": lambda case: case.touch(b"changed") or case.entry,
    "input of another size and the same time": lambda case: replace(case.entry, size=case.entry.size + 1),
    "input of the same size": lambda case: case.touch(b"INPUT") or case.entry,
    "input gone": lambda case: case.source.unlink() or case.entry,
    "input never read": lambda case: case.touch() or replace(case.entry, input_digest=None),
    "settings": lambda case: replace(case.entry, recipe="other"),
    "output gone": lambda case: case.output.unlink() or case.entry,
    "output empty": lambda case: case.output.write_bytes(b"") * 0 or case.entry,
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_is_to_be_done(case, change, overwrite):
    found = case.decide(CHANGES[change](case), overwrite)
    assert (found.action, found.entry, found.paint) == ("do", None, True)


@pytest.mark.parametrize("entry", [None, Entry("a.jpg", "in/a.jpg", "failed")])
@pytest.mark.parametrize("stamp_of", [lambda c: None, lambda c: ("0" * 64, "recipe"), lambda c: (c.digest, "other")])
def test_what_no_batch_has_written_is_refused_unless_told(case, entry, stamp_of):
    case.stamp = stamp_of(case)
    found = case.decide(entry)
    assert (found.action, found.paint) == ("refuse", False)
    assert found.entry.state == "failed" and "--overwrite" in found.entry.error and not found.entry.made
    assert case.decide(found.entry) == found
    assert case.decide(entry, overwrite=True).paint


@pytest.mark.parametrize("entry", [None, Entry("a.jpg", "in/a.jpg", "failed")])
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_a_killed_batch_has_written_counts_as_done(case, entry, overwrite):
    case.stamp = (case.digest, "recipe")
    found = case.decide(entry, overwrite)
    assert found.action == "skip"
    assert found.entry == replace(case.entry, seconds=0.0)
    assert case.decide(found.entry).entry is None


@posix
def test_a_link_into_nowhere_is_not_written_through(case):
    case.output.unlink()
    case.output.symlink_to("nowhere.jpg")
    assert case.decide(None).action == "refuse"


def test_a_batch_may_replace_its_output_even_after_a_failure_and_a_restart(case):
    """An output of the first run, then settings under which it fails, twice."""
    out = case.output.parent
    for _ in range(2):
        written(out, [case.entry, *[replace(case.entry, state="failed", recipe="new", error="no memory")] * 2])
        assert case.decide(reopened(out)[0]["a.jpg"]).paint
    written(out, [replace(case.entry, name="b.jpg", state="failed")])
    assert not reopened(out)[0]["b.jpg"].made


# --- digests, stamps


@pytest.mark.parametrize("size", [0, 1, decisions._BLOCK - 1, decisions._BLOCK, 2 * decisions._BLOCK + 7])
def test_digest_of_a_file(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "f").write_bytes(data[:size])
    assert file_digest(tmp_path / "f") == hashlib.sha256(data[:size]).hexdigest()
    assert input_state(tmp_path / "f")[0] == size


def test_a_stamp_is_found_again_among_settings_of_any_kind():
    settings = {"model": "wave", "input": "x", "size": 0, "strength": 0.5, "tiled": True} | dict.fromkeys(
        ODD_TEXTS, "v"
    )
    for text in ("", *ODD_TEXTS):
        assert stamped(stamp("ab" * 32, "r-95", settings | {"style": text})) == ("ab" * 32, "r-95")
    assert stamped(stamp("i", "r")) == ("i", "r")
    stamp("i", "r", {"style": os.fsdecode(b"\xff")}).encode()


@pytest.mark.parametrize(
    "text",
    ["", "hello", "size = 3", "batch = 1", "[batch]", "[batch]\ninput = 'i'", "[batch]\ninput = 1\nrecipe = 'r'", "\0"],
)
def test_other_texts_are_no_stamp(text):
    assert stamped(text) is None


def test_earlier_outputs_are_known_by_the_manifest_or_by_their_stamp(tmp_path):
    assert not earlier_outputs(tmp_path, "", forbidden)("a.jpg")
    written(tmp_path, [Entry("a-w.jpg", "in", "done"), Entry("b-w.jpg", "in", "failed")])
    made = earlier_outputs(tmp_path, "-w", lambda path: ("i", "r") if path == tmp_path / "s" / "c-w.jpg" else None)
    assert [made(name) for name in ("a-w.jpg", "b-w.jpg", "s/c-w.jpg", "d-w.jpg")] == [True, False, True, False]
    assert not earlier_outputs(tmp_path, "-w", forbidden)("plain.jpg")


# --- files aside


LONG = ["a" * 255, "\u98a8" * 85, "\U0001f304" * 63 + "x", "a" * 230 + "\u98a8" * 8, os.fsdecode(b"\xff" * 255)]
NAMES = ["a.jpg", "a.jpg.b.jpg", ".a", "x.0123456789abcdef.pnst", "a" * 232, "a" * 233, *ODD_TEXTS, *LONG]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_a_name_aside_is_hidden_new_fits_and_is_told_from_all_others(name):
    aside = aside_name(name)
    assert aside.startswith(".") and aside.endswith(".pnst") and aside != aside_name(name)
    assert len(os.fsencode(aside)) <= LONGEST
    if name != os.fsdecode(b"\xff" * 255):
        os.fsencode(aside).decode("utf-8", "strict" if name != os.fsdecode(b"\xff\xfe") else "replace")
    assert [other for other in NAMES if is_aside(aside, other)] == [name]
    assert not is_aside(aside + "x", name) and not is_aside(aside[1:], name) and not is_aside(name, name)


def test_long_names_that_begin_alike_are_told_apart():
    assert not is_aside(aside_name("a" * 254 + "b"), "a" * 255)


@pytest.mark.parametrize("name", ["", ".", ".pnst", "..0123456789abcdef.pnst", ".a.0123456789ABCDEF.pnst", ".a.pnst"])
def test_other_names_are_not_aside(name):
    assert not aside_stem(name)


def targets_of(folder, *names):
    return [Target(Source(Path("in") / name, Path(name)), folder / name, name) for name in names]


def test_only_leftovers_of_this_plan_are_cleared(tmp_path):
    (tmp_path / "s").mkdir()
    leftovers = [aside_name("a.jpg"), aside_name("a.jpg"), f"s/{aside_name('b.jpg')}"]
    others = [aside_name("other.jpg"), "a.jpg", ".a.jpg.pnst", f"s/{aside_name('a.jpg')}", ".0123456789abcdef.pnst"]
    for name in leftovers + others:
        (tmp_path / name).write_bytes(b"")
    folder = tmp_path / aside_name("a.jpg")
    folder.mkdir()
    assert clear_leftovers(targets_of(tmp_path, "a.jpg", "s/b.jpg", "not/there.jpg")) == len(leftovers)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")}
    assert left == {*others, "s", folder.name}


@posix
def test_leftovers_lie_where_a_linked_output_leads(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "a.jpg").symlink_to(tmp_path / "real" / "b.jpg")
    (tmp_path / "real" / aside_name("b.jpg")).write_bytes(b"")
    assert clear_leftovers(targets_of(tmp_path, "a.jpg")) == 1
