"""Files by strangers: whatever is in them, the answer is one line, soon, and without much memory."""

import argparse
import io
import random
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_generators import as_variables, same_pictures, small

from parallel_nst.networks.generators.files import read_generator, save_generator
from parallel_nst.networks.weights import reader as weight_files
from parallel_nst.networks.weights.reader import LONGEST_INDEX, MOST_TENSORS, read_array, read_file
from parallel_nst.networks.weights.states import read_state

FIRST = "conv1.conv2d.weight"


def plain():
    return small("transformer-net").state_dict()


def refused(path, match=None):
    with pytest.raises(ValueError, match=match) as caught:
        read_generator(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.isprintable() and len(text) < 700
    return text


def changed(value):
    """A state dict with another first weight."""
    return plain() | {FIRST: value}


SHAPE = (4, 3, 9, 9)
TENSORS = {
    "integers": (lambda: torch.ones(SHAPE, dtype=torch.int64), "holds int64 in place of floating-point"),
    "truths": (lambda: torch.ones(SHAPE) > 0, "holds bool in place of floating-point"),
    "complex": (lambda: torch.ones(SHAPE, dtype=torch.complex64), "holds complex64"),
    "sparse": (lambda: torch.ones(SHAPE).to_sparse(), "is a sparse, quantised or meta tensor"),
    "meta": (lambda: torch.empty(SHAPE, device="meta"), "is a sparse, quantised or meta tensor"),
    "empty": (lambda: torch.empty(0, 3, 9, 9), r"is empty \(its shape is \(0, 3, 9, 9\)\)"),
    "too large for float32": (lambda: torch.full(SHAPE, 1e300, dtype=torch.float64), "infinite values or NaN"),
    "one number seen often": (lambda: torch.zeros(1).half().expand(1 << 20, 1 << 20, 1, 1), "declares .* numbers"),
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_cannot_be_weights_are_named(kind, tmp_path):
    make, message = TENSORS[kind]
    torch.save(changed(make()), tmp_path / "g.pth")
    refused(tmp_path / "g.pth", message)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read_as_float32(dtype, tmp_path):
    torch.save({key: value.to(dtype) for key, value in plain().items()}, tmp_path / "g.pth")
    generator, info = read_generator(tmp_path / "g.pth")
    assert {value.dtype for value in generator.state_dict().values()} == {torch.float32}
    assert info.precision == str(dtype).removeprefix("torch.")
    assert same_pictures(generator, small("transformer-net"), 0.1)


STATES = {
    "many": (lambda: {str(n): torch.zeros(()) for n in range(MOST_TENSORS + 1)}, "entries, more than any network"),
    "lines": (lambda: {"a\n\x1b[31m": torch.zeros(1)}, r"a key that no network has \(a\?\?\[31m\)"),
    "long": (lambda: {"module." * 1000: torch.zeros(1)}, "a key that no network has"),
    "tuples": (lambda: {((1,) * 9,) * 9: torch.zeros(1)}, "but a key of type tuple"),
    "blocks": (lambda: plain() | {f"res{n}.x": torch.zeros(1) for n in range(99)}, "res2.* is missing"),
    "far": (lambda: small("vgg-decoder").state_dict() | {"encoder.99999999999.bias": torch.zeros(1)}, "its shapes are"),
    "wide": (
        lambda: plain() | {f"conv{n}.conv2d.weight": torch.zeros(90_000, 1, 1, 1) for n in (1, 2, 3)},
        "has shape",
    ),
    "nested": (lambda: {"model": {"model": {"model": {"model": plain()}}}}, "holds no state dict"),
}


@pytest.mark.parametrize("kind", STATES)
def test_states_that_no_network_has_are_refused_before_one_is_built(kind, tmp_path):
    make, message = STATES[kind]
    torch.save(make(), tmp_path / "g.pth")
    refused(tmp_path / "g.pth", message)


def test_methods_that_a_file_puts_in_the_way_do_nothing(tmp_path):
    value = torch.zeros(SHAPE)
    value.float = value.numel = value.is_floating_point = 3
    torch.save({"state_dict": changed(value)}, tmp_path / "g.pth")
    assert read_generator(tmp_path / "g.pth")[1].architecture == "transformer-net"


@pytest.mark.parametrize("legacy", [False, True])
def test_the_options_of_a_training_may_be_in_the_file(legacy, tmp_path):
    content = {"args": argparse.Namespace(lr=0.1), "state_dict": plain()}
    torch.save(content, tmp_path / "g.pth", _use_new_zipfile_serialization=not legacy)
    assert same_pictures(read_generator(tmp_path / "g.pth")[0], small("transformer-net"))


def pytorch(path, pickled):
    """A PyTorch file of a pickle written by hand."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return path


HUGE = b"\x8a\x06" + (10**13).to_bytes(6, "little")  # a number, as pickles have it
PICKLES = {
    "bytes": (b"\x80\x02cbuiltins\nbytearray\n" + HUGE + b"\x85R.", r"holds Python objects \(builtins.bytearray\)"),
    "tensor": (b"\x80\x02ctorch\nFloatTensor\n" + HUGE + b"\x85R.", "damaged or cut short"),
    "deep": (b"\x80\x02" + b"}X\x05\0\0\0model" * 9999 + b"}" + b"s" * 9999 + b".", "no state dict"),
    "shadows": (
        b"\x80\x02ccollections\nOrderedDict\n)R}(X\x05\0\0\0itemsK\x01X\x04\0\0\0keysK\x01ub.",
        "no state dict",
    ),
    "long": (b"\x80\x02" + bytes(LONGEST_INDEX), "more objects than any network"),
    "none": (b"\x80\x02.", "damaged or cut short"),
}


@pytest.mark.parametrize("kind", PICKLES)
def test_pickles_that_ask_for_too_much_are_refused(kind, tmp_path):
    pickled, message = PICKLES[kind]
    refused(pytorch(tmp_path / "g.pth", pickled), message)


def npy(described, body=b""):
    """An array's file with a header written by hand."""
    header = f"{{'descr': {described[0]}, 'fortran_order': False, 'shape': {described[1]}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


ARRAYS = {
    "larger than memory": (npy(("'<f4'", "(1000000, 1000000)"), b"1234"), "is not as long as it says"),
    "larger than its bytes": (npy(("'<f4'", "(5000000000,)"), b"1234"), "is not as long as it says"),
    "negative": (npy(("'<f4'", "(-1, -4)"), b"1234" * 4), "is not as long as it says"),
    "of objects": (npy(("'|O'", "(1,)"), b"12345678"), "an array of object in place of numbers"),
    "of nothing": (npy(("'|V0'", "(10000000000000,)")), "in place of numbers"),
    "of text": (npy(("'<U1'", "(1,)"), b"1234"), "in place of numbers"),
    "nested": (b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000, "damaged or cut short"),
    "no array": (b"hello", "damaged or cut short"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_are_measured_before_they_are_read(kind, tmp_path):
    raw, message = ARRAYS[kind]
    with zipfile.ZipFile(tmp_path / "g.npz", "w") as archive:
        archive.writestr("Variable.npy", raw)
    refused(tmp_path / "g.npz", message)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", "<f2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype, order)
    file = io.BytesIO()
    np.save(file, array)
    assert np.array_equal(read_array(file.getvalue()).numpy(), array)


def test_what_unpacks_to_too_much_is_not_unpacked(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "g.npz", Variable=np.zeros(1 << 16, np.float32))
    monkeypatch.setattr(weight_files, "LARGEST", 1 << 17)
    refused(tmp_path / "g.npz", r"unpacks to .* more than any network")
    (tmp_path / "large.pth").write_bytes(bytes(1 << 18))
    refused(tmp_path / "large.pth", "save the network's weights alone")


def test_an_archive_of_other_files_is_to_be_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "saved_models.zip", "w") as archive:
        archive.writestr("saved_models/candy.pth", b"1")
    refused(tmp_path / "saved_models.zip", r"archive of other files \(saved_models/candy.pth\); unpack it")


def safetensors(header, body=b"", length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + body


HEADERS = {
    "huge header": safetensors(b"{}", length=1 << 62),
    "huge tensor": safetensors(b'{"a":{"dtype":"F32","shape":[1099511627776,99],"data_offsets":[0,4]}}', b"1234"),
    "deep": safetensors(b'{"a":' * 10_000),
    "empty": safetensors(b"{}"),
}


@pytest.mark.parametrize("kind", HEADERS)
def test_headers_of_safetensors_are_not_believed(kind, tmp_path):
    (tmp_path / "g.safetensors").write_bytes(HEADERS[kind])
    refused(tmp_path / "g.safetensors")


@pytest.mark.parametrize("length", [0x3C, 0x3C20])
def test_a_header_as_long_as_a_web_page_begins_is_still_a_header(length, tmp_path):
    """The length stands first: these bytes are `<` and ` <`."""
    header = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    for path in (tmp_path / "g.safetensors", tmp_path / "w.safetensors"):
        path.write_bytes(safetensors(header, b"1234"))
        assert read_file(path)[0].keys() == read_state(path).keys() == {"a"}


OWN = {
    "deep": ("dncnn", '{"depth": 1000000000}', "depth 1000000000; give 0 to 500"),
    "wide": ("dncnn", '{"width": 1000000000000}', "metadata that cannot be read"),
    "text": ("dncnn", '{"depth": "2"}', "metadata that cannot be read"),
    "no number": ("dncnn", '{"depth": 2, "width": 5, "eps": NaN}', "eps nan; give a number above 0"),
    "norm": ("transformer-net", '{"norm": "none"}', "norm 'none'; known: instance, batch"),
    "halvings": ("vgg-decoder", '{"encoder": [0, 0, 0, 0, 0, 0, 0, 0, 0, 4]}', "9 of which halve"),
    "groups": ("microast", '{"widths": [3, 5, 7]}', "metadata that cannot be read"),
    "nothing": ("cyclegan-resnet", '{"width": 0}', "is missing"),
    "list": ("dncnn", "[1]", "metadata that cannot be read"),
    "brackets": ("dncnn", "[" * 9000, "metadata that cannot be read"),
    "long": ("dncnn", '{"depth": 2}' + " " * 10_000, "characters of hyperparameters"),
    "lines": ("a\nb\x1b[31m" * 99, "{}", "unknown architecture"),
}


@pytest.mark.parametrize("kind", OWN)
def test_sizes_in_metadata_are_not_believed(kind, tmp_path):
    architecture, hyperparameters, message = OWN[kind]
    metadata = {"architecture": architecture, "hyperparameters": hyperparameters}
    save_file(small("dncnn").state_dict(), tmp_path / "g.safetensors", metadata=metadata)
    refused(tmp_path / "g.safetensors", message)


def whole_files(folder):
    """A small file of each kind."""
    torch.save(plain(), folder / "g.pth")
    torch.save(plain(), folder / "old.pth", _use_new_zipfile_serialization=False)
    save_generator(small("dncnn"), folder / "g.safetensors")
    np.savez(folder / "g.npz", **as_variables(small("fast-style-transfer")))
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def test_damaged_files_are_read_or_refused_in_one_line(tmp_path):
    draw = random.Random(0)
    for raw in whole_files(tmp_path):
        for _ in range(25):
            damaged = bytearray(raw)
            for _ in range(draw.choice([1, 5])):
                damaged[draw.randrange(min(len(raw), draw.choice([200, 4000])))] = draw.randrange(256)
            for number, content in enumerate((raw[: draw.randrange(len(raw))], damaged)):
                path = tmp_path / f"damaged{number}.bin"
                path.write_bytes(content)
                try:
                    read_generator(path)
                except ValueError as error:
                    assert str(error).startswith(str(path)) and str(error).isprintable() and len(str(error)) < 700


def test_what_is_no_file_is_not_waited_for(tmp_path):
    with pytest.raises(ValueError, match="is no file"):
        read_file(tmp_path)
