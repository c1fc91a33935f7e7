"""Digests, against sha256 of the whole in one piece."""

import hashlib
import shutil

import pytest

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources.digest import digest


def sha256(content):
    return "sha256:" + hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [0, 5, 4 << 20, (4 << 20) + 1])
def test_one_file(tmp_path, size):
    content = bytes(index * 7 % 251 for index in range(1000)) * (size // 1000 + 1)
    path = tmp_path / "a"
    path.write_bytes(content[:size])
    assert digest(path) == digest([path]) == digest(str(path)) == sha256(content[:size])


def test_several_files_by_name_and_not_by_place(tmp_path):
    for name, content in (("b", b"2"), ("inner/a", b"1")):
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(content)
    lines = f"b\0{sha256(b'2')}\ninner/a\0{sha256(b'1')}\n".encode()
    files = [tmp_path / "x" / "inner" / "a", tmp_path / "x" / "b"]
    assert digest(files) == digest(files[::-1]) == sha256(lines)
    shutil.move(tmp_path / "x", tmp_path / "y")
    assert digest([tmp_path / "y" / "inner" / "a", tmp_path / "y" / "b"]) == sha256(lines)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableCheckpoint, match="no such file"):
        digest(tmp_path / "nothing")
