"""The hostile files, byte by byte, the same everywhere. `python sample_checkpoints/hostile.py [--out DIR]`.

Nothing is trained and nothing executed; `pickle_with_code.pt` would make a file named PWNED if it were unpickled.
Only the length of `zip_bomb.pt` depends on the zlib at hand.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from container import framed, header_bytes, tensor_bytes

SEED = 0
ROWS, COLUMNS = 16, 24
CANARY = "PWNED"


def entry(shape: list[int], begin: int, end: int, dtype: str = "F32") -> dict[str, object]:
    """What a header says of one tensor."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def numbers(count: int, seed: int = SEED) -> bytes:
    """Standard normal float32 numbers, little-endian."""
    draw = random.Random(seed)
    return struct.pack(f"<{count}f", *(draw.gauss(0, 1) for _ in range(count)))


def laid_out(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A valid file of (dtype, shape, bytes) by name."""
    header: dict[str, object] = {}
    end = 0
    for name, (dtype, shape, body) in tensors.items():
        header[name] = entry(shape, end, end + len(body), dtype)
        end += len(body)
    return framed(header_bytes(header), b"".join(body for _, _, body in tensors.values()))


def matrix(seed: int = SEED) -> tuple[str, list[int], bytes]:
    """A sound float32 matrix."""
    return "F32", [ROWS, COLUMNS], numbers(ROWS * COLUMNS, seed)


def truncated() -> bytes:
    """Cut in the middle of the second tensor."""
    return laid_out({"fc1.weight": matrix(1), "fc2.weight": matrix(2)})[:-700]


def overlapping_offsets() -> bytes:
    """The second tensor begins 512 bytes before the first one ends."""
    size = 4 * ROWS * COLUMNS
    header = {
        "fc1.weight": entry([ROWS, COLUMNS], 0, size),
        "fc2.weight": entry([ROWS, COLUMNS], size - 512, 2 * size - 512),
    }
    return framed(header_bytes(header), numbers(2 * ROWS * COLUMNS - 128))


def hole() -> bytes:
    """256 bytes between the two tensors belong to neither."""
    size = 4 * ROWS * COLUMNS
    header = {
        "fc1.weight": entry([ROWS, COLUMNS], 0, size),
        "fc2.weight": entry([ROWS, COLUMNS], size + 256, 2 * size + 256),
    }
    return framed(header_bytes(header), numbers(2 * ROWS * COLUMNS + 64))


def duplicate_key() -> bytes:
    """One name twice: a reader that keeps the last shows another tensor than one that keeps the first."""
    size = 4 * ROWS * COLUMNS
    first = json.dumps(entry([ROWS, COLUMNS], 0, size))
    second = json.dumps(entry([ROWS, COLUMNS], size, 2 * size))
    return framed(f'{{"fc1.weight":{first},"fc1.weight":{second}}}'.encode(), numbers(2 * ROWS * COLUMNS))


def header_too_large() -> bytes:
    """A header said to be 2⁶³ bytes long."""
    return struct.pack("<Q", 2**63) + b"{}"


def shape_overflow() -> bytes:
    """A shape whose product wraps to 0 in 64 bits, with no bytes behind it."""
    return framed(header_bytes({"fc1.weight": entry([2**32, 2**32], 0, 0)}))


def unknown_dtype() -> bytes:
    """A dtype the format does not have."""
    return framed(header_bytes({"fc1.weight": entry([ROWS, COLUMNS], 0, 384, "Q3_XL")}), bytes(384))


def nan_inf() -> bytes:
    """A valid file; one tensor of three holds a NaN and an infinity."""
    values = bytearray(numbers(ROWS * COLUMNS, 2))
    struct.pack_into("<f", values, 4 * (1 * COLUMNS + 2), float("nan"))
    struct.pack_into("<f", values, 4 * (3 * COLUMNS), float("inf"))
    return laid_out(
        {"fc1.weight": matrix(1), "fc2.weight": ("F32", [ROWS, COLUMNS], bytes(values)), "fc3.weight": matrix(3)}
    )


class _Canary:
    """Pickles as a call of `os.system`; it is only ever written, never loaded."""

    def __reduce__(self) -> tuple[object, ...]:
        import os

        return os.system, (f"touch {CANARY}",)


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with fixed times, so that its bytes depend on its members alone."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        for name, body in members.items():
            member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            member.compress_type, member.create_system = compression, 3
            file.writestr(member, body, compress_type=compression, compresslevel=9)
    return target.getvalue()


def pickle_with_code() -> bytes:
    """A `torch.save` archive whose pickle calls a shell."""
    # named posix on every machine, as pickle writes it on the systems where torch checkpoints are made
    code = pickle.dumps({"state_dict": _Canary()}, protocol=2).replace(b"cnt\n", b"cposix\n")
    return archive({"archive/data.pkl": code, "archive/byteorder": b"little", "archive/version": b"3\n"})


def zip_bomb() -> bytes:
    """A pickle of 64 MiB of blanks, deflated to about 64 kB: refused for being compressed and for its size."""
    return archive({"archive/data.pkl": bytes(64 << 20), "archive/version": b"3\n"}, zipfile.ZIP_DEFLATED)


def lfs_pointer() -> bytes:
    """What git leaves when the large file was not fetched."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{'4d7a' * 16}\nsize 267844284\n".encode()


def html_page() -> bytes:
    """An error page saved under the name of the model."""
    return b"<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head>\n<body><h1>Not Found</h1></body></html>\n"


def empty() -> bytes:
    """No bytes at all."""
    return b""


def hostile_names() -> bytes:
    """Sound tensors whose names attack a terminal, a spreadsheet, a web page, a CI log and a column."""
    names = (
        "\x1b[2J\x1b]0;title\x07.weight",
        '=cmd("calc").weight',
        "<script>alert(1)</script>.weight",
        "::error file=a.py::injected.weight",
        "[red]x[/red].weight",
        "two\nlines\r.weight",
        "../../etc/passwd.weight",
        "long." * 13107 + "weight",
    )
    return laid_out({name: matrix(seed) for seed, name in enumerate(names)})


def odd_shapes() -> bytes:
    """Scalars, nothing, single rows and columns, four axes, a constant, zeros."""
    return laid_out(
        {
            "scalar": ("F32", [], numbers(1)),
            "nothing.weight": ("F32", [0, 16], b""),
            "row.weight": ("F32", [1, 64], numbers(64, 1)),
            "column.weight": ("F32", [64, 1], numbers(64, 2)),
            "conv.weight": ("F32", [16, 8, 3, 3], numbers(1152, 3)),
            "constant.weight": ("F32", [16, 16], struct.pack("<256f", *[0.5] * 256)),
            "zero.weight": ("F32", [16, 16], bytes(1024)),
        }
    )


def eight_bit(seed: int = SEED) -> tuple[str, list[int], bytes]:
    """A matrix of e4m3 numbers with standard deviation 64, far from the largest finite value of 448."""
    draw = random.Random(seed)
    values = torch.tensor([draw.gauss(0, 64) for _ in range(128 * 128)])
    return "F8_E4M3", [128, 128], tensor_bytes(values.to(torch.float8_e4m3fn))


def fp8_without_scale() -> bytes:
    """Eight-bit floats nobody can read: the scale is missing."""
    return laid_out({"fc1.weight": eight_bit(), "norm.weight": ("F32", [128], struct.pack("<128f", *[1.0] * 128))})


def fp8_with_scale() -> bytes:
    """The same with the scale of its only 128×128 block."""
    return laid_out({"fc1.weight": eight_bit(), "fc1.weight_scale_inv": ("F32", [1, 1], struct.pack("<f", 0.001))})


def integer_only() -> bytes:
    """Nothing but integers: no site for any analyzer."""
    return laid_out(
        {
            "position_ids": ("I64", [1, 64], struct.pack("<64q", *range(64))),
            "labels": ("I32", [64], struct.pack("<64i", *range(64))),
        }
    )


def missing_shard() -> dict[str, bytes]:
    """An index of two shards, of which one is there."""
    index = {
        "metadata": {"total_size": 8 * ROWS * COLUMNS},
        "weight_map": {
            "fc1.weight": "model-00001-of-00002.safetensors",
            "fc2.weight": "model-00002-of-00002.safetensors",
        },
    }
    return {
        "model.safetensors.index.json": json.dumps(index, indent=2).encode() + b"\n",
        "model-00001-of-00002.safetensors": laid_out({"fc1.weight": matrix(1)}),
    }


def escaping_shard() -> dict[str, bytes]:
    """An index that names a file outside its folder."""
    index = {
        "metadata": {"total_size": 8 * ROWS * COLUMNS},
        "weight_map": {"fc1.weight": "model-00001-of-00002.safetensors", "fc2.weight": "../../secret.safetensors"},
    }
    return {
        "model.safetensors.index.json": json.dumps(index, indent=2).encode() + b"\n",
        "model-00001-of-00002.safetensors": laid_out({"fc1.weight": matrix(1)}),
    }


FILES: dict[str, Callable[[], bytes]] = {
    "truncated.safetensors": truncated,
    "overlapping_offsets.safetensors": overlapping_offsets,
    "hole.safetensors": hole,
    "duplicate_key.safetensors": duplicate_key,
    "header_too_large.safetensors": header_too_large,
    "shape_overflow.safetensors": shape_overflow,
    "unknown_dtype.safetensors": unknown_dtype,
    "nan_inf.safetensors": nan_inf,
    "pickle_with_code.pt": pickle_with_code,
    "zip_bomb.pt": zip_bomb,
    "lfs_pointer.safetensors": lfs_pointer,
    "html_page.safetensors": html_page,
    "empty.safetensors": empty,
    "hostile_names.safetensors": hostile_names,
    "odd_shapes.safetensors": odd_shapes,
    "fp8_with_scale.safetensors": fp8_with_scale,
    "fp8_without_scale.safetensors": fp8_without_scale,
    "integer_only.safetensors": integer_only,
}
FOLDERS: dict[str, Callable[[], dict[str, bytes]]] = {"missing_shard": missing_shard, "escaping_shard": escaping_shard}


def contents() -> Iterator[tuple[str, bytes]]:
    """Every hostile file by its path inside the folder, with its bytes."""
    for name, build in FILES.items():
        yield name, build()
    for folder, build_all in FOLDERS.items():
        for name, body in build_all().items():
            yield f"{folder}/{name}", body


def main() -> None:
    """Writes every hostile file."""
    parser = argparse.ArgumentParser(description="write the hostile files")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "hostile")
    folder = parser.parse_args().out
    for name, body in contents():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        print(f"{len(body):8,}  {zlib.crc32(body):08x}  {name}")


if __name__ == "__main__":
    main()
