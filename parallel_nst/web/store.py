"""Jobs in SQLite, each with its pictures in a folder of its own. What is said here to be so is so after a crash.

    queued -> running -> done | failed | cancelled | interrupted

A job that was running when the server ended goes back to its place in the queue where it has left a snapshot, and is
`interrupted` where it has not, or where it has taken the server with it time and again.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from parallel_nst.errors import BadInput, printable
from parallel_nst.files.size import Size

Kind = Literal["painting", "model"]
State = Literal["queued", "running", "done", "failed", "cancelled", "interrupted"]
STATES: tuple[State, ...] = get_args(State)
ENDED: tuple[State, ...] = ("done", "failed", "cancelled", "interrupted")

MOST_STARTS = 3  # of one job: more often a server does not die of something else
ID_BYTES = 16  # 128 bits, which nobody guesses
VERSION = 1
TABLE = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, state TEXT NOT NULL, name TEXT NOT NULL, settings TEXT NOT NULL,
    place REAL NOT NULL, created REAL NOT NULL, started REAL, ended REAL, starts INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '', width INTEGER, height INTEGER
)
"""
INDEX = "CREATE INDEX IF NOT EXISTS by_state ON jobs (state, kind, place)"


@dataclass(frozen=True)
class QueuedJob:
    """name: of the content, for people. settings: as the request was understood. place: jobs wait in this order.
    created, started, ended: seconds since 1970. starts: how often it was begun. message: why it failed, or what is to
    be said of the result. width, height: of the result in px."""

    id: str
    kind: Kind
    state: State
    name: str
    settings: Mapping[str, Any]
    place: float
    created: float
    started: float | None
    ended: float | None
    starts: int
    message: str
    width: int | None
    height: int | None


COLUMNS = ", ".join(spec.name for spec in fields(QueuedJob))


@dataclass(frozen=True)
class JobFiles:
    """The files of a job; not all need be there."""

    folder: Path

    @property
    def content(self) -> Path:
        return self.folder / "content.png"

    @property
    def style(self) -> Path:
        return self.folder / "style.png"

    @property
    def preview(self) -> Path:
        return self.folder / "preview.jpg"

    @property
    def snapshot(self) -> Path:
        return self.folder / "run.snapshot"

    @property
    def result(self) -> Path:
        return self.folder / "result.png"


class JobStore:
    """All jobs of a folder. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """BadInput for a folder that is of a later version of this program."""
        self.folder = folder
        self.incoming = folder / "incoming"  # what is not a job yet
        self._jobs = folder / "jobs"
        shutil.rmtree(self.incoming, ignore_errors=True)
        for path in (self.incoming, self._jobs):
            path.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._base = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None)
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute(TABLE)
        self._base.execute(INDEX)
        (version,) = self._base.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise BadInput(f"{folder} was written by a later version of this program; use that, or another --folder")
        self._base.execute(f"PRAGMA user_version = {VERSION}")

    def close(self) -> None:
        with self._lock:
            self._base.close()

    def files(self, job: str) -> JobFiles:
        """Of a job by its id, which is one that `add` has made."""
        return JobFiles(self._jobs / job)

    def add(self, kind: Kind, name: str, settings: Mapping[str, Any], pictures: Mapping[str, Path]) -> QueuedJob:
        """A new job at the end of the queue. pictures: files of `incoming` by the name of the `JobFiles` that each
        becomes. They are moved before the job can be seen."""
        job = secrets.token_urlsafe(ID_BYTES)
        files = self.files(job)
        files.folder.mkdir()
        for role, path in pictures.items():
            path.replace(getattr(files, role))
        with self._transaction() as base:
            (last,) = base.execute("SELECT coalesce(max(place), 0) FROM jobs").fetchone()
            base.execute(
                "INSERT INTO jobs (id, kind, state, name, settings, place, created) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?)",
                (job, kind, name, json.dumps(settings), last + 1, time.time()),
            )
        return self[job]

    def __getitem__(self, job: str) -> QueuedJob:
        """KeyError for an id that there is not."""
        found = self._select("WHERE id = ?", (job,))
        if not found:
            raise KeyError(job)
        return found[0]

    def all(self, limit: int = -1) -> list[QueuedJob]:
        """Those in the queue in their order, then the others, newest first."""
        queued = self._select("WHERE state IN ('running', 'queued') ORDER BY state DESC, place", ())
        others = "WHERE state NOT IN ('running', 'queued') ORDER BY created DESC LIMIT ?"
        return queued + self._select(others, (limit,))

    def count(self, state: State) -> int:
        with self._lock:
            (found,) = self._base.execute("SELECT count(*) FROM jobs WHERE state = ?", (state,)).fetchone()
        return int(found)

    def waiting(self) -> dict[str, int]:
        """Places, from 1, of all that wait, by id; each kind has a queue of its own."""
        with self._lock:
            rows = self._base.execute(
                "SELECT id, row_number() OVER (PARTITION BY kind ORDER BY place) FROM jobs WHERE state = 'queued'"
            ).fetchall()
        return dict(rows)

    def claim(self, kind: Kind) -> QueuedJob | None:
        """The next job of a kind, which runs from now on; None where none waits."""
        with self._transaction() as base:
            found = self._select("WHERE state = 'queued' AND kind = ? ORDER BY place LIMIT 1", (kind,))
            if not found:
                return None
            base.execute(
                "UPDATE jobs SET state = 'running', started = ?, starts = starts + 1 WHERE id = ?",
                (time.time(), found[0].id),
            )
        return self[found[0].id]

    def end(self, job: str, state: State, message: str = "", size: Size | None = None) -> bool:
        """Say how a running job has ended; False where it runs no more, for it was cancelled. size: of the result."""
        height, width = size or (None, None)
        with self._transaction() as base:
            changed = base.execute(
                "UPDATE jobs SET state = ?, ended = ?, message = ?, width = ?, height = ? "
                "WHERE id = ? AND state = 'running'",
                (state, time.time(), message, width, height, job),
            )
            return changed.rowcount > 0

    def put_back(self, job: str, *, blameless: bool = False) -> None:
        """A running job waits again, at the place that it had. blameless: this start does not count."""
        with self._transaction() as base:
            base.execute(
                "UPDATE jobs SET state = 'queued', starts = starts - ? WHERE id = ? AND state = 'running'",
                (int(blameless), job),
            )

    def cancel(self, job: str) -> bool:
        """Whether it was waiting or running until now."""
        with self._transaction() as base:
            changed = base.execute(
                "UPDATE jobs SET state = 'cancelled', ended = ? WHERE id = ? AND state IN ('queued', 'running')",
                (time.time(), job),
            )
            return changed.rowcount > 0

    def move(self, job: str, to: int) -> bool:
        """Put a waiting job at place `to`, from 1, of its queue; False where it does not wait."""
        with self._transaction() as base:
            own = self[job]
            if own.state != "queued":
                return False
            others = self._select("WHERE state = 'queued' AND kind = ? AND id != ? ORDER BY place", (own.kind, job))
            base.execute("UPDATE jobs SET place = ? WHERE id = ?", (between(others, to), job))
        return True

    def remove(self, job: str) -> None:
        """Forget a job that has ended, with its pictures."""
        with self._transaction() as base:
            base.execute(f"DELETE FROM jobs WHERE id = ? AND state IN {ENDED}", (job,))
        shutil.rmtree(self.files(job).folder, ignore_errors=True)

    def remove_older(self, seconds: float) -> int:
        """Forget what ended so long ago; how many."""
        old = self._select(f"WHERE state IN {ENDED} AND ended < ?", (time.time() - seconds,))
        for job in old:
            self.remove(job.id)
        return len(old)

    def recover(self) -> tuple[int, int]:
        """At the start of a server: account for all that ran when the last one ended, and remove folders of no job.
        How many wait again and how many are interrupted."""
        again = gone = 0
        for job in self._select("WHERE state = 'running'", ()):
            if self.files(job.id).snapshot.exists() and job.starts < MOST_STARTS:
                self.put_back(job.id)
                again += 1
            else:
                often = job.starts >= MOST_STARTS
                why = f"the server has ended {job.starts} times while this ran" if often else "the server has ended"
                self.end(job.id, "interrupted", f"{why}; start it again with the same settings")
                gone += 1
        known = {job.id for job in self.all()}
        for folder in self._jobs.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        return again, gone

    def _select(self, where: str, values: tuple[Any, ...]) -> list[QueuedJob]:
        with self._lock, closing(self._base.execute(f"SELECT {COLUMNS} FROM jobs {where}", values)) as rows:
            return [job_of(row) for row in rows]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")


def job_of(row: tuple[Any, ...]) -> QueuedJob:
    """A row of the columns of `QueuedJob`, in their order."""
    values = dict(zip(COLUMNS.split(", "), row, strict=True))
    return QueuedJob(**values | {"settings": json.loads(values["settings"])})


def between(others: list[QueuedJob], to: int) -> float:
    """A place such that `to` - 1 of the other jobs, which are in order, stand before it."""
    places = [job.place for job in others]
    before = min(max(to, 1) - 1, len(places))
    if not places:
        return 1.0
    if before == 0:
        return places[0] - 1
    if before == len(places):
        return places[-1] + 1
    return (places[before - 1] + places[before]) / 2


def shown_name(text: str | None, otherwise: str = "picture") -> str:
    """A file's name as people are shown it, never as it is stored: its last part, in one line of 80 characters."""
    name = printable(re.split(r"[/\\]", text or "")[-1])[:80].strip()
    return name if name.strip(".") else otherwise
