"""Reports on disk: which files are one, and what is refused."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from collapse_cli.baseline import written
from collapse_cli.core.policy import Baseline
from collapse_cli.core.report import to_json
from collapse_cli.errors import InputError
from collapse_cli.stored import batch_reports, is_report, read_report
from tests.reports import REPORTS, partial, ratio, report, subject

WHOLE = to_json(partial())


@pytest.mark.parametrize("name", REPORTS)
@pytest.mark.parametrize("indent", [None, 2])
def test_every_report_is_recognised_and_read_as_it_was(tmp_path: Path, name: str, indent: int | None) -> None:
    made = REPORTS[name]()
    path = tmp_path / "r.bin"
    path.write_text(to_json(made, indent=indent), encoding="utf-8")
    assert is_report(path)
    assert read_report(path) == made


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(json.loads(WHOLE), sort_keys=True, indent=4),
        "\ufeff" + WHOLE,
        f"\n\n  {WHOLE}",
        WHOLE[: len(WHOLE) // 2],
    ],
    ids=["sorted", "marked", "blanks", "truncated"],
)
def test_content_and_not_the_name_says_that_it_is_a_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text, encoding="utf-8")
    assert is_report(tmp_path / "x")


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"metadata": {"total_size": 3}}', b"\x7b\0\0\0\0\0\0\0{", b"PK\3\4", b"[1]"]
)
def test_other_files_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "r.json").write_bytes(data)
    assert not is_report(tmp_path / "r.json")
    assert not is_report(tmp_path / "missing.json")
    assert not is_report(tmp_path)


def changed(change: Callable[[dict[str, Any]], object]) -> str:
    whole = json.loads(WHOLE)
    change(whole)
    return json.dumps(whole)


def versioned(version: object) -> str:
    return changed(lambda whole: whole.update(schema_version=version))


def first(whole: dict[str, Any]) -> Any:
    return whole["subjects"][0]["measurements"][0]


REFUSED = {
    "truncated": (WHOLE[:-200], "is not a whole report", "truncated"),
    "not json": ('{"schema_version": "1.0", nonsense', "is not a whole report", "truncated"),
    "newer": (versioned("2.0"), "schema_version should be 1.x, it is 2.0", "newer"),
    "much newer": (versioned("10.0"), "schema_version should be 1.x, it is 10.0", "newer"),
    "older": (versioned("0.9"), "schema_version should be 1.x, it is 0.9", "measure"),
    "no version": (changed(lambda whole: whole.pop("schema_version")), "schema_version should be there", ""),
    "a number": (versioned(1.0), "schema_version should be there", ""),
    "no subjects": (changed(lambda whole: whole.pop("subjects")), "is not a report of schema 1.1, subj", ""),
    "kind": (changed(lambda whole: whole["subjects"][0].update(kind="x")), "subjects.0.kind: Input should be", ""),
    "limit": (
        changed(lambda whole: whole["manuals"][0]["metrics"][0]["warn"].update(source="")),
        "a limit without a source",
        "",
    ),
    "undeclared": (changed(lambda whole: first(whole).update(metric="x")), "measures effective-rank/x, which none", ""),
    "infinite": (changed(lambda whole: first(whole).update(value=9)).replace(": 9,", ": 1e999,"), "not finite", ""),
    "nan": (changed(lambda whole: first(whole).update(value=9)).replace(": 9,", ": NaN,"), "NaN is not JSON", ""),
    "twice": (changed(lambda whole: whole["subjects"][0]["measurements"].append(first(whole))), "twice", ""),
    "deep": ('{"schema_version": ' + "[" * 100_000, "is not a whole report", ""),
    "a baseline": (written(Baseline("1.0", 0.05)), "is a baseline, not a report", "--baseline"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_says_why(tmp_path: Path, name: str) -> None:
    text, words, hint = REFUSED[name]
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(InputError) as caught:
        read_report(tmp_path / "r.json")
    assert words in str(caught.value)
    assert hint in caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_minor_version_more_is_read(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(changed(lambda whole: whole.update(schema_version="1.7", novelty=[1])))
    assert replace(read_report(tmp_path / "r.json"), schema_version="1.0") == partial()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(WHOLE)
    (tmp_path / "r.json").chmod(0)
    with pytest.raises(InputError, match="Permission denied"):
        read_report(tmp_path / "r.json")


def test_a_folder_of_a_batch_is_known_by_its_summary(tmp_path: Path) -> None:
    (tmp_path / "subjects" / "runs").mkdir(parents=True)
    for name in ("b.json", "runs/a.json", "b.html"):
        (tmp_path / "subjects" / name).write_text(to_json(report(subject(measurements=(ratio("w", 0.5),)))))
    assert batch_reports(tmp_path) is None
    (tmp_path / "summary.json").write_text("{}")
    found = batch_reports(tmp_path)
    assert found is not None
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["subjects/b.json", "subjects/runs/a.json"]
