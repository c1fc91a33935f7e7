"""Byte ranges of local files."""

import os
import threading

import pytest

from collapse_cli.errors import UnreadableCheckpoint
from collapse_cli.sources import bytes as ranges
from collapse_cli.sources.bytes import ByteSource, open_local


@pytest.fixture
def numbered(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 64)
    return path


def test_ranges(numbered):
    source = open_local(numbered)
    assert isinstance(source, ByteSource)
    assert source.size == 256 * 64
    assert source.read(3, 7) == b"\3\4\5\6"
    assert source.read(5, 5) == b""
    buffer = bytearray(6)
    source.read_into(254, memoryview(buffer)[1:5])
    assert buffer == b"\0\xfe\xff\0\1\0"


def test_short_reads_are_continued(numbered, monkeypatch):
    whole = os.preadv
    # a kernel may give one byte at a time; there is no file system here that does
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: whole(fd, [buffers[0][:1]], offset))
    assert open_local(numbered).read(250, 260) == bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3])


def test_a_file_that_shrank_is_an_error_and_no_signal(numbered):
    source = open_local(numbered)
    os.truncate(numbered, 100)
    with pytest.raises(UnreadableCheckpoint, match=r"byte 200 was wanted, the file ends at 100") as caught:
        source.read(50, 200)
    assert "became shorter" in caught.value.hint
    assert caught.value.where == str(numbered)


def test_large_files_are_dropped_behind_the_reader(numbered, monkeypatch):
    dropped = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *rest: dropped.append(rest))
    open_local(numbered).read(10, 20)
    assert dropped == []
    monkeypatch.setattr(ranges, "_DROPPED_BEHIND", 1000)
    open_local(numbered).read(10, 20)
    assert dropped == [(10, 10, os.POSIX_FADV_DONTNEED)]


def test_threads_do_not_disturb_each_other(numbered):
    source, wrong = open_local(numbered), []

    def reader(first):
        for _ in range(200):
            if source.read(first, first + 3) != bytes([first, first + 1, first + 2]):
                wrong.append(first)

    threads = [threading.Thread(target=reader, args=(first,)) for first in (0, 50, 100, 200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_closed_is_closed(numbered):
    source = open_local(numbered)
    source.close()
    source.close()
    with pytest.raises(UnreadableCheckpoint, match="closed"):
        source.read(0, 1)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in (
        (tmp_path / "nothing", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "pipe"),
        (tmp_path / "a\0b", "null"),
    ):
        with pytest.raises(UnreadableCheckpoint, match=words):
            open_local(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_permission_is_named(numbered):
    numbered.chmod(0)
    with pytest.raises(UnreadableCheckpoint, match="permission denied"):
        open_local(numbered)
