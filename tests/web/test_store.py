"""The store of jobs: what is said of a job, and what is left of it after a crash."""

import sqlite3

import pytest

from parallel_nst.errors import BadInput
from parallel_nst.files.size import Size
from parallel_nst.web.store import JobStore, shown_name


@pytest.fixture
def store(tmp_path):
    made = JobStore(tmp_path / "jobs")
    yield made
    made.close()


def added(store, kind="painting", name="a.png"):
    path = store.incoming / "upload"
    path.write_bytes(b"pixels")
    return store.add(kind, name, {"size": 64}, {"content": path})


def reopened(store):
    """What a server finds that starts after another was killed."""
    return JobStore(store.folder)


def test_a_job_has_its_pictures_from_the_first_moment(store):
    job = added(store)
    assert store.files(job.id).content.read_bytes() == b"pixels"
    assert job.state == "queued" and job.settings == {"size": 64}
    assert not list(store.incoming.iterdir())


def test_ids_are_long_and_never_the_same(store):
    ids = {added(store).id for _ in range(20)}
    assert len(ids) == 20 and all(len(one) >= 22 for one in ids)


def test_jobs_are_claimed_in_order_and_kinds_do_not_wait_for_each_other(store):
    first, second, model = added(store), added(store), added(store, "model")
    assert store.claim("painting").id == first.id
    assert store.claim("model").id == model.id
    assert store.claim("model") is None
    assert store.claim("painting").id == second.id


@pytest.mark.parametrize(
    ("to", "order"), [(1, "cabd"), (2, "acbd"), (3, "abcd"), (4, "abdc"), (99, "abdc"), (-5, "cabd")]
)
def test_a_waiting_job_can_be_moved(store, to, order):
    jobs = {name: added(store, name=name) for name in "abcd"}
    assert store.move(jobs["c"].id, to)
    assert "".join(job.name for job in store.all()) == order
    assert sorted(store.waiting().values()) == [1, 2, 3, 4]


def test_only_a_waiting_job_can_be_moved(store):
    job = added(store)
    store.claim("painting")
    assert not store.move(job.id, 1)
    with pytest.raises(KeyError):
        store.move("none", 1)


def test_what_was_cancelled_stays_so_however_its_run_ends(store):
    job = added(store)
    store.claim("painting")
    assert store.cancel(job.id)
    assert not store.end(job.id, "done")
    assert store[job.id].state == "cancelled"
    assert not store.cancel(job.id)


def test_a_running_job_with_a_snapshot_goes_on_after_a_crash(store):
    job, later = added(store), added(store)
    store.claim("painting")
    store.files(job.id).snapshot.write_bytes(b"state")
    after = reopened(store)
    assert after.recover() == (1, 0)
    assert after.waiting() == {job.id: 1, later.id: 2}
    after.close()


def test_a_running_job_without_a_snapshot_is_interrupted_by_a_crash(store):
    job = added(store)
    store.claim("painting")
    after = reopened(store)
    assert after.recover() == (0, 1)
    assert after[job.id].state == "interrupted" and "again" in after[job.id].message
    after.close()


def test_a_job_that_kills_every_server_is_given_up(store):
    job = added(store)
    store.files(job.id).snapshot.write_bytes(b"state")
    for _ in range(3):
        store.claim("painting")
        store.recover()
    assert store[job.id].state == "interrupted"
    assert store.claim("painting") is None


def test_every_job_is_accounted_for_and_nothing_else_stays(store):
    jobs = [added(store) for _ in range(4)]
    store.claim("painting")
    store.end(jobs[0].id, "done", size=Size(2, 3))
    (store.folder / "jobs" / "of-no-job").mkdir()
    (store.incoming / "half").write_bytes(b"x")
    after = reopened(store)
    after.recover()
    assert {job.id for job in after.all()} == {job.id for job in jobs}
    assert after[jobs[0].id].width == 3
    assert {path.name for path in (store.folder / "jobs").iterdir()} == {job.id for job in jobs}
    assert not list(after.incoming.iterdir())
    after.close()


def test_old_jobs_are_removed_with_their_pictures(store):
    job, waiting = added(store), added(store)
    store.claim("painting")
    store.end(job.id, "done")
    assert store.remove_older(3600) == 0
    assert store.remove_older(-1) == 1
    assert [one.id for one in store.all()] == [waiting.id]
    assert not store.files(job.id).folder.exists()


def test_a_folder_of_a_later_version_is_refused(store):
    store.close()
    base = sqlite3.connect(store.folder / "jobs.sqlite")
    base.execute("PRAGMA user_version = 99")
    base.close()
    with pytest.raises(BadInput, match="later version"):
        JobStore(store.folder)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\cat.png", "cat.png"),
        ("", "picture"),
        (None, "picture"),
        ("..", "picture"),
        ("a\nb\x1b[2J.png", "a b\\x1b[2J.png"),
        ("x" * 300, "x" * 80),
    ],
)
def test_a_name_is_only_ever_shown(name, shown):
    assert shown_name(name) == shown
