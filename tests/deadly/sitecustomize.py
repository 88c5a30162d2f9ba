"""Kills one of Ray's workers in the midst of its work. Python runs this at its start where the folder is in PYTHONPATH.

PNST_TEST_PLACES names functions, `module:function` or `module:Class.method`. Where the folder PNST_TEST_DEATHS has a
file of that name, the worker that calls the function removes the file and is gone. The file's text is at which call, 1
if it is empty; each worker counts its own.
"""

import functools
import importlib.abc
import importlib.machinery
import os
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from types import ModuleType

FOLDER = Path(os.environ.get("PNST_TEST_DEATHS", os.devnull))
PLACES = [place.split(":") for place in os.environ.get("PNST_TEST_PLACES", "").split()]
CALLS = Counter()


def die_if_due(file):
    with suppress(FileNotFoundError):  # another one may be the one that dies
        due = int(file.read_text() or 1)
        CALLS[file] += 1
        if CALLS[file] >= due:
            file.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(3600)  # not another line, however long the signal takes


def make_deadly(module, path):
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, module)
    if isinstance(owner, ModuleType) and owner is not module:  # another module, such as os: only as it is seen here
        copy = ModuleType(owner.__name__)
        copy.__dict__.update(vars(owner))
        setattr(module, owners[-1], copy)
        owner = copy
    function = getattr(owner, name)

    @functools.wraps(function)
    def deadly(*arguments, **named):
        die_if_due(FOLDER / f"{module.__name__}:{path}")
        return function(*arguments, **named)

    setattr(owner, name, deadly)


class Finder(importlib.abc.MetaPathFinder):
    """Finds modules as usual, and makes their functions deadly once they are loaded."""

    def find_spec(self, name, path, target=None):
        paths = [place for module, place in PLACES if module == name]
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if paths else None
        if spec is None:
            return None
        execute = spec.loader.exec_module

        def executed(module):
            execute(module)
            for place in paths:
                make_deadly(module, place)

        spec.loader.exec_module = executed
        return spec


sys.meta_path.insert(0, Finder())
