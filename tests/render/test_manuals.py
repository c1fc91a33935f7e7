"""Manuals as text, Markdown and JSON."""

import json
import re
from dataclasses import replace

from collapse_cli.core.metric import Limit
from collapse_cli.render.manuals import explained, listed
from tests.reports import LAW, RANK, RATIO


def test_text_says_what_is_judged_how_and_where_the_limits_come_from() -> None:
    text = explained([RANK], "text")
    assert text.startswith("effective-rank: Effective rank\n==============================\n")
    for said in ("warning  < 0.3; sample_checkpoints/healthy", "error    < 0.05; fewer than one direction in twenty"):
        assert said in text
    assert "(higher is better)" in text
    assert "## " not in text
    assert "reported, not judged" in explained([LAW], "text")
    assert max(map(len, text.splitlines())) <= 120


def test_a_limit_that_needs_an_intent_names_the_flag() -> None:
    bound = Limit("below", 0.05, "s", intent=frozenset({"classifier", "generative"}))
    text = explained([replace(RANK, metrics=(replace(RATIO, error=bound),))], "text")
    assert "(judged with --intent classifier or generative)" in " ".join(text.split())


def test_a_bar_in_a_cell_adds_no_column_to_markdown() -> None:
    metric = replace(RATIO, says="Largest |cos|.")
    rows = [line for line in explained([replace(RANK, metrics=(metric,))], "md").splitlines() if line.startswith("|")]
    assert {len(re.split(r"(?<!\\)\|", row)) for row in rows} == {7}


def test_the_list_is_the_same_in_every_format() -> None:
    assert [entry["name"] for entry in json.loads(listed([RANK, LAW], "json"))] == ["effective-rank", "power-law"]
    assert [line.split(",")[0] for line in listed([RANK, LAW], "csv").splitlines()[1:]] == [
        "effective-rank",
        "power-law",
    ]
    assert re.findall(r"^\| `(\S+)`", listed([RANK, LAW], "md"), re.M) == ["effective-rank", "power-law"]
    assert re.findall(r"^  (\S+)", listed([RANK, LAW], "table"), re.M) == ["effective-rank", "power-law"]
    assert "(experimental)" in listed([LAW], "table")


def test_json_holds_no_sets_and_comes_back() -> None:
    bound = Limit("below", 0.05, "s", intent=frozenset({"generative", "classifier"}))
    (manual,) = json.loads(explained([replace(RANK, metrics=(replace(RATIO, error=bound),))], "json"))
    assert manual["metrics"][0]["error"]["intent"] == ["classifier", "generative"]
