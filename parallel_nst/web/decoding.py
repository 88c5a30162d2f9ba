"""The process that decodes strangers' pictures: `python -m parallel_nst.web.decoding BYTES`.

It reads questions on standard input, each a line of JSON, and answers each on standard output with a line of JSON,
behind which, for `pixels`, the arrays follow. It has no more memory than BYTES beyond what it needs to start; whoever
asks ends it when it takes too long. So a decoder that a picture breaks or fills takes nothing else with it.

    {"do": "convert", "path": ..., "max_pixels": ..., "to": ...}    ->  {"size": [height, width], "note": ...}
    {"do": "pixels", "path": ..., "max_pixels": ..., "longest": ...} ->  {"shape": [H, W, C], ...} and float32
    {"do": "settings", "path": ...}                                  ->  {"settings": ... or null}
    whatever is wrong with the picture                               ->  {"error": one line}
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from parallel_nst.errors import message_of
from parallel_nst.files.images import Picture, fit, read_image, read_settings, resize, write_image

OPEN_FILES = 64


def limit_memory(extra: int) -> None:
    """Bytes of address space that may come on top of today's. Does nothing where the system has no such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        today = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (today + extra, today + extra))
        resource.setrlimit(resource.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def convert(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Write the first frame as PNG, with nothing of the file but its picture: what else was in it stays behind."""
    picture = read_image(asked["path"], max_pixels=asked["max_pixels"])
    bare = Picture(picture.pixels, picture.alpha, picture.icc, depth=picture.depth)
    write_image(asked["to"], bare)
    return {"size": picture.size, "note": picture.note}, []


def pixels(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """Pixels, and alpha as a fourth channel, of the first frame, its longer side brought to `longest` px (0: as is)."""
    picture = read_image(asked["path"], max_pixels=asked["max_pixels"])
    image = picture.pixels if picture.alpha is None else np.dstack([picture.pixels, picture.alpha])
    if asked["longest"] and asked["longest"] != max(picture.size):
        image = resize(image, fit(picture.size, asked["longest"]))
    return {"shape": image.shape, "note": picture.note}, [np.ascontiguousarray(image, np.float32)]


def settings(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The settings in a picture of this program's own."""
    return {"settings": read_settings(asked["path"])}, []


DOES = {"convert": convert, "pixels": pixels, "settings": settings}


def answered(asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The answer to a question, whatever happens."""
    try:
        return DOES[asked["do"]](asked)
    except MemoryError:
        return {"error": "takes more memory than a picture may; give a smaller one"}, []
    except Exception as error:  # of any kind: a stranger's picture
        return {"error": message_of(error).removeprefix(f"{asked['path']}: ")}, []


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Answer until there are no more questions."""
    for line in questions:
        told, arrays = answered(json.loads(line))
        answers.write(json.dumps(told).encode() + b"\n")
        for array in arrays:
            answers.write(array.data.cast("B"))
        answers.flush()


def main() -> None:
    """As the module says. What libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    limit_memory(int(sys.argv[1]))
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
