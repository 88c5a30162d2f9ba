"""Files of weights by strangers: what they hold, read without running anything in them and within bounds of memory.

Reading accepts safetensors, `.npz` without objects, and what `torch.load(weights_only=True)` accepts: tensors and plain
containers. Whatever else a file holds, and however it is damaged, the answer is one line (`BadWeights`).
"""

from __future__ import annotations

import argparse
import io
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from parallel_nst.errors import BadWeights

LARGEST = 1 << 30  # bytes of a file, packed and unpacked: twice the largest backbone with its classifier
LONGEST_INDEX = 4 << 20  # bytes of the pickle in a PyTorch file, which says what the tensors are
MOST_TENSORS = 2048
LONGEST_KEY = 200  # characters
LONGEST_HEADER = 10_000  # bytes of an array's header in .npz, as NumPy has it
INDEX, ARRAY = "data.pkl", ".npy"  # how names end in a zip archive of theirs
HEADS = {
    b"<": "is a web page, not weights; download the file itself",
    b"version https://git-lfs": "is a pointer of Git LFS, not the file; fetch it with `git lfs pull`",
    b"\x89HDF": "is an HDF5 file (Keras); export its weights as .npz",
    b"%PDF": "is a PDF document",
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"\x89PNG": "is a picture; give a file of weights",
    b"\xff\xd8\xff": "is a picture; give a file of weights",
}
TORCH7 = {b"\x03\x00\x00\x00", b"\x04\x00\x00\x00", b"4\n1\n", b"3\n1\n"}  # table or object, binary or as text


def read_file(path: Path) -> tuple[object, Mapping[str, str]]:
    """What a file holds, mostly a state dict, and its metadata. BadWeights, in one line, for what is no weights."""
    if not path.is_file():
        raise BadWeights(f"{path} is no file; give a file of weights")
    with path.open("rb") as file:
        head = file.read(512)
    if fault := fault_of(path, head):
        raise BadWeights(f"{path} {fault}")
    try:
        if head[8:9] == b"{":
            return read_safetensors(path)
        if head[:2] == b"PK" and all(name.endswith(ARRAY) for name in names_in(path)):
            return read_npz(path), {}
        return read_pytorch(path), {}
    except pickle.UnpicklingError as error:
        raise BadWeights(f"{path} {refusal(str(error))}") from None
    except Exception as error:  # of any kind: the bytes lead the readers wherever they like
        raise BadWeights(f"{path} cannot be read as weights; it is damaged or cut short{first_line(error)}") from None


def fault_of(path: Path, head: bytes) -> str:
    """Why a file that begins so cannot hold weights; empty when nothing speaks against it."""
    if not head:
        return "is empty; give a file of weights"
    ours = head[8:9] == b"{"  # safetensors: behind the length of its header, which may look like anything
    for beginning, text in HEADS.items():
        if head.lstrip().startswith(beginning) and not ours:
            return text
    if path.suffix.lower() == ".t7" or head[:4] in TORCH7:
        return "is a Lua Torch file; convert it to a PyTorch state dict"
    if path.suffix.lower() == ".onnx":
        return "is an ONNX file; give the PyTorch state dict it was made from"
    if path.stat().st_size > LARGEST:
        return f"has {gigabytes(path.stat().st_size)}; save the network's weights alone, at most {gigabytes(LARGEST)}"
    if head[:2] == b"PK":
        return fault_of_zip(path)
    if not ours and all(byte in b"\t\n\r\f" or 32 <= byte < 127 for byte in head):
        return "is a text file, not weights"
    return ""


def gigabytes(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB"


def names_in(path: Path) -> list[str]:
    """Of the files in a zip archive."""
    with zipfile.ZipFile(path) as archive:
        return archive.namelist()


def fault_of_zip(path: Path) -> str:
    """Why a zip archive cannot hold weights, found before anything in it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except Exception:  # as in `read_file`
        return "is cut short (a zip archive without its end) or damaged; download it again"
    if unpacked > LARGEST:
        return f"unpacks to {gigabytes(unpacked)}, more than any network ({gigabytes(LARGEST)}); it is not read"
    index = [name for name in sizes if name.endswith(INDEX)]
    if not index and not (sizes and all(name.endswith(ARRAY) for name in sizes)):
        return f"is a zip archive of other files ({listed(list(sizes))}); unpack it and give one of them"
    if sum(sizes[name] for name in index) > LONGEST_INDEX:
        return "holds more objects than any network; save the network's weights alone"
    return ""


def listed(names: list[str]) -> str:
    """The first names, fit to be shown."""
    return ", ".join(shown(name) for name in names[:4]) + ", ..." * (len(names) > 4)


def shown(key: object) -> str:
    """A key from a file in an error message: whatever it is, short and in one line."""
    if not isinstance(key, str):
        return str(key) if isinstance(key, int) and abs(key) < 1 << 64 else f"a key of type {type(key).__name__}"
    plain = "".join(character if character.isprintable() else "?" for character in key[: LONGEST_KEY // 2])
    return plain + "..." * (len(key) > LONGEST_KEY // 2)


def refusal(message: str) -> str:
    """One line for what `torch.load(weights_only=True)` would not unpickle."""
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"holds Python objects ({shown(found[1])}), not only weights, and loading it could run code; save the "
            "network's state_dict() where the file was made"
        )
    return "cannot be read as weights; it is damaged or no PyTorch file"


def first_line(error: Exception) -> str:
    """The beginning of an error's text in brackets, if it says anything."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f" ({shown(text)})" if text and not isinstance(error, LookupError | AssertionError) else ""


def read_pytorch(path: Path) -> object:
    """Tensors and plain containers. The options of a training are often saved along as a Namespace, which has nothing
    but attributes and runs nothing when it is made. A bytearray may be unpickled too, of any size; no network has one.
    """
    if names_bytearray(path):
        raise pickle.UnpicklingError("GLOBAL builtins.bytearray")
    with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
        warnings.simplefilter("ignore")  # about what is not a checkpoint; the error says it
        return torch.load(path, map_location="cpu", weights_only=True)


def names_bytearray(path: Path) -> bool:
    """Whether the pickle in a PyTorch file would make one."""
    name = b"bytearray\n"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(name in archive.read(entry) for entry in archive.namelist() if entry.endswith(INDEX))
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        return raw.find(name) >= 0


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    with safe_open(path, "pt") as file:
        keys = file.keys()
        if len(keys) > MOST_TENSORS:
            raise BadWeights(f"{len(keys)} tensors, more than any network")
        return {key: file.get_tensor(key) for key in keys}, file.metadata() or {}


def read_npz(path: Path) -> dict[str, Tensor]:
    """Arrays of numbers. The size that an array's header declares is compared with the bytes there are before any
    memory is taken."""
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) > MOST_TENSORS:
            raise BadWeights(f"{len(names)} arrays, more than any network")
        return {name.removesuffix(ARRAY): read_array(archive.read(name)) for name in names}


def read_array(raw: bytes) -> Tensor:
    """An array of numbers in the form of `numpy.save`."""
    file = io.BytesIO(raw)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file, max_header_size=LONGEST_HEADER)
    count = 1
    for side in shape:
        count *= side
    if dtype.kind not in "fiub":
        raise BadWeights(f"an array of {shown(str(dtype))} in place of numbers")
    if min(shape, default=0) < 0 or count * dtype.itemsize != len(raw) - file.tell():
        raise BadWeights(f"an array of shape {shown(str(shape))} is not as long as it says")
    file.seek(0)
    array = np.load(file, allow_pickle=False, max_header_size=LONGEST_HEADER)
    return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
