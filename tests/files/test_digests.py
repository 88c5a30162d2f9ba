"""Digests: SHA-256, however the bytes come."""

import hashlib

import pytest

from parallel_nst.files.digests import _BLOCK, digest_of, file_digest, short_digest


@pytest.mark.parametrize("size", [0, 1, _BLOCK - 1, _BLOCK, 2 * _BLOCK + 7])
def test_digest_of_a_file(tmp_path, size):
    data = bytes(range(251)) * (size // 251 + 1)
    (tmp_path / "f").write_bytes(data[:size])
    assert file_digest(tmp_path / "f") == hashlib.sha256(data[:size]).hexdigest()
    assert digest_of([data[: size // 2], memoryview(data[size // 2 : size])]) == file_digest(tmp_path / "f")


def test_a_short_digest_is_the_beginning_of_the_whole():
    assert short_digest([b"a", b"b"]) == hashlib.sha256(b"ab").hexdigest()[:16]
