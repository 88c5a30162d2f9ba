"""What a batch still has to do: nothing is done twice, and nothing overwritten that no batch has written."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from parallel_nst.files.digests import file_digest
from parallel_nst.jobs.batch import pending
from parallel_nst.jobs.batch.inputs import InputFile
from parallel_nst.jobs.batch.manifest import Entry, Manifest
from parallel_nst.jobs.batch.outputs import BatchPicture
from parallel_nst.jobs.batch.pending import decide, earlier_outputs, input_state
from parallel_nst.jobs.batch.stamps import Stamp

posix = pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")


def written(out, entries):
    with Manifest.open(out) as manifest:
        for entry in entries:
            manifest.append(entry)


def reopened(out):
    with Manifest.open(out) as manifest:
        return manifest.entries


class Case:
    """A picture, its output and an entry that says it is done."""

    def __init__(self, folder):
        self.source, self.output = folder / "a.jpg", folder / "out" / "a.jpg"
        self.output.parent.mkdir()
        self.source.write_bytes(b"input")
        self.output.write_bytes(b"output")
        self.picture = BatchPicture(InputFile(self.source, Path("a.jpg")), self.output, "a.jpg")
        size, mtime_ns = input_state(self.source)
        self.digest = file_digest(self.source)
        self.entry = Entry("a.jpg", str(self.source), "done", self.digest, size, mtime_ns, "recipe", 2.0)
        self.stamp = None

    def decide(self, entry, overwrite=False):
        return decide(self.picture, entry, "recipe", overwrite=overwrite, stamp_of=lambda path: self.stamp)

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
    monkeypatch.setattr(pending, "file_digest", forbidden)
    found = decide(case.picture, case.entry, "recipe", overwrite=overwrite, stamp_of=forbidden)
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
@pytest.mark.parametrize(
    "stamp_of", [lambda c: None, lambda c: Stamp("0" * 64, "recipe"), lambda c: Stamp(c.digest, "other")]
)
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
    case.stamp = Stamp(case.digest, "recipe")
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
        assert case.decide(reopened(out)["a.jpg"]).paint
    written(out, [replace(case.entry, name="b.jpg", state="failed")])
    assert not reopened(out)["b.jpg"].made


def test_earlier_outputs_are_known_by_the_manifest_or_by_their_stamp(tmp_path):
    assert not earlier_outputs(tmp_path, "", forbidden)("a.jpg")
    written(tmp_path, [Entry("a-w.jpg", "in", "done"), Entry("b-w.jpg", "in", "failed")])
    made = earlier_outputs(tmp_path, "-w", lambda path: Stamp("i", "r") if path == tmp_path / "s" / "c-w.jpg" else None)
    assert [made(name) for name in ("a-w.jpg", "b-w.jpg", "s/c-w.jpg", "d-w.jpg")] == [True, False, True, False]
    assert not earlier_outputs(tmp_path, "-w", forbidden)("plain.jpg")
