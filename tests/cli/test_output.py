"""Where a report goes, and when it is coloured."""

import json
import os
from pathlib import Path

import pytest

from collapse_cli.cli.asked import Reporting
from collapse_cli.cli.output import Destinations, deliver, has_color, write_whole
from collapse_cli.errors import BadPolicy
from tests.reports import partial


@pytest.mark.parametrize(
    ("when", "environment", "is_terminal", "expected"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"FORCE_COLOR": "1"}, False, True),
        ("auto", {"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {"FORCE_COLOR": "1"}, True, False),
    ],
)
def test_the_flag_beats_no_color_beats_force_color_beats_the_terminal(
    monkeypatch: pytest.MonkeyPatch, when: str, environment: dict[str, str], is_terminal: bool, expected: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert has_color(when, is_terminal=is_terminal) is expected


def parsed(*output: str) -> tuple[tuple[str, Path], ...]:
    return Destinations.parsed("table", output, color="auto", show_all=False, quiet=False).files


def test_the_format_of_a_file_is_its_suffix_unless_named(tmp_path: Path) -> None:
    inside = tmp_path.as_posix()
    assert parsed(f"{inside}/a.JSON", f"md={inside}/b.json", f"{inside}/c=d.csv") == (
        ("json", tmp_path / "a.JSON"),
        ("md", tmp_path / "b.json"),
        ("csv", tmp_path / "c=d.csv"),
    )


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    write_whole(target, "first\n")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "second" * 10_000 + "\udc80")
    assert target.read_text() == "first\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_a_file_has_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_gone_is_an_error_of_the_tree(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="cannot write"):
        write_whole(tmp_path / "gone" / "a.json", "x")


@pytest.mark.parametrize("given", ["/etc/passwd", "../README.md", "a/../../b.md"])
def test_results_are_placed_inside_of_the_repository_only(given: str) -> None:
    with pytest.raises(BadPolicy, match="--sarif-anchor"):
        Destinations.asked(Reporting(sarif_anchor=given), quiet=False)


def test_anchor_and_category_reach_the_destinations() -> None:
    found = Destinations.asked(Reporting(sarif_anchor="./models/README.md", category="nightly"), quiet=False)
    assert (found.sarif_anchor, found.category) == ("models/README.md", "nightly")
    assert Destinations.asked(Reporting(), quiet=False).sarif_anchor is None


def test_every_format_of_a_ci_system_is_written_and_looks_as_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("a.sarif", "a.xml", "github=a.txt", "gitlab=a.json", "card=a.md")
    output = [f"{form}={tmp_path / name}" if form else f"{tmp_path / name}" for form, _, name in map(named, words)]
    reporting = Reporting(format="sarif", output=output, category="nightly", sarif_anchor="models/README.md")
    deliver(partial(), Destinations.asked(reporting, quiet=False))
    shown = capsys.readouterr().out
    assert (tmp_path / "a.sarif").read_text(encoding="utf-8") == shown
    (run,) = json.loads(shown)["runs"]
    assert run["automationDetails"]["id"] == "collapse/nightly/"
    place = run["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place == {"uri": "models/README.md"}
    openings = {"a.xml": "<?xml", "a.txt": "::error ", "a.json": "[\n", "a.md": "## Collapse check"}
    assert all((tmp_path / name).read_text(encoding="utf-8").startswith(words) for name, words in openings.items())


def named(word: str) -> tuple[str, str, str]:
    form, equals, name = word.rpartition("=")
    return form, equals, name
