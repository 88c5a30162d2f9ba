"""`pnst` called in this process: its exit status and what it printed."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from parallel_nst.cli import main as cli


class Run(NamedTuple):
    code: int
    out: str
    err: str


Pnst = Callable[..., Run]


def caller(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *before: str, after: tuple[str, ...] = ()
) -> Pnst:
    """Calls the command with arguments between these; stdin: a text that it reads."""

    def call(*arguments: object, stdin: str = "") -> Run:
        monkeypatch.setattr(sys, "argv", ["pnst", *before, *map(str, arguments), *after])
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        return Run(int(caught.value.code or 0), out, err)

    return call
