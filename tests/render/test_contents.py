"""The inventory of a checkpoint."""

import csv
import io
import json

from collapse_cli.core.contents import Contents
from collapse_cli.core.report import Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.render.contents import rendered
from tests.reports import HOSTILE

SITES = (
    Site("layers.0.q.weight", (8, 4), "F16", 0, Role.ATTENTION_Q),
    Site("steps", (), "I64", None, Role.BUFFER),
)
FOUND = Contents("a.safetensors", "a.safetensors", "safetensors", 72, SITES, (Skip(None, "lost", "F4"),), ("odd",))


def test_the_table_lists_every_tensor_and_what_cannot_be_read() -> None:
    assert rendered([FOUND], "table", has_color=False, width=None).splitlines() == [
        "a.safetensors   safetensors · 2 tensors · 32 parameters · 1 layer · 72 bytes",
        "tensor             shape   dtype  layer  role",
        "layers.0.q.weight  8×4     F16        0  attention.q",
        "steps              scalar  I64           buffer",
        "not readable: lost: F4",
        "notice: odd",
    ]


def test_json_and_csv_hold_the_same() -> None:
    (item,) = json.loads(rendered([FOUND], "json", has_color=False, width=None))
    assert item["sites"][0] == {
        "name": "layers.0.q.weight", "shape": [8, 4], "dtype": "F16", "layer": 0, "role": "attention.q"
    }  # fmt: skip
    assert item["unreadable"] == [{"site": "lost", "reason": "F4"}]
    rows = list(csv.DictReader(io.StringIO(rendered([FOUND], "csv", has_color=False, width=None))))
    assert [(row["site"], row["shape"], row["status"]) for row in rows] == [
        ("layers.0.q.weight", "8x4", "readable"),
        ("steps", "", "readable"),
        ("lost", "", "unreadable"),
    ]


def test_hostile_names_are_harmless_and_a_long_one_is_whole_unless_a_terminal_bounds_it() -> None:
    found = Contents("x", "x", "safetensors", 0, tuple(Site(name, (1,), "F32") for name in HOSTILE))
    for form in ("table", "json", "csv"):
        text = rendered([found], form, has_color=False, width=None)
        assert len(text) > len(HOSTILE[-1])
        assert all(one == "\n" or one.isprintable() for one in text)
    narrow = rendered([found], "table", has_color=False, width=60)
    assert max(map(len, narrow.splitlines()[1:])) <= 60
    assert narrow.splitlines()[-1].startswith("…")
