"""The manifest: nothing that was written is lost, whatever stops the batch."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest
from odd_texts import ODD_TEXTS, refused

from parallel_nst.jobs.batch import manifest as module
from parallel_nst.jobs.batch.manifest import MANIFEST, Entry, Manifest

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

    monkeypatch.setattr("fcntl.flock", flock)
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
