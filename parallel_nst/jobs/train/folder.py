"""The folder of a training, for one run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from parallel_nst.errors import BadInput, message_of
from parallel_nst.files.locks import folder_lock
from parallel_nst.training.checkpoint_files import steps_of


@contextmanager
def run_folder(out: Path, resume: bool, notify: Callable[[str], None]) -> Iterator[None]:
    """Make the folder of a run and keep other runs out of it until the block ends; folders that were made for it and
    stayed empty are taken away again. BadInput, in one line, where it cannot be made, where another run is writing,
    and where it holds another run that is not to be gone on with."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    taken = f"{out}: another training is writing here; wait until it ends, or give another --out"
    try:
        with ExitStack() as stack:
            try:
                out.mkdir(parents=True, exist_ok=True)
                locked = stack.enter_context(folder_lock(out, taken))
            except OSError as error:
                raise BadInput(f"{message_of(error)}; give another folder with --out") from None
            if not locked:
                notify(f"{out}: cannot be locked here: let no second training write to this folder")
            check_new(out, resume)
            yield
    finally:
        remove_empty(made)


def check_new(out: Path, resume: bool) -> None:
    """BadInput, in one line, where the folder holds another run."""
    found = steps_of(out)
    if found and not resume:
        raise BadInput(f"{out} holds a training at step {found[0]}; give --resume, or another folder")


def remove_empty(folders: list[Path]) -> None:
    """Delete those that are empty, each before the one that it lies in."""
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
