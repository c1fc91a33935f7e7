"""The configuration file: where it is looked for, what it may say, and all that is wrong with it at once."""

import hashlib
import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from collapse_cli.configuration import Configuration, Known, document, nearest, understood
from collapse_cli.configuration.keys import KEYS, TABLES
from collapse_cli.configuration.schema import json_schema
from collapse_cli.configuration.template import template
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Limit, Metric
from collapse_cli.core.policy import Accept, Allowance, Comparison, Override
from collapse_cli.errors import BadPolicy

LOW = Metric("ratio", "1", "The ratio.", "higher", Limit("below", 0.3, "x"), Limit("below", 0.1, "x"))
HIGH = Metric("share", "1", "The share.", "lower", Limit("above", 0.3, "x"))
MANUALS = (
    Manual("effective-rank", "spectrum", "t", "established", "x", (LOW,), "r", ()),
    Manual("dead-units", "units", "t", "established", "x", (HIGH,), "r", ()),
)
KNOWN = Known(MANUALS, ("broken-plugin",), {"format": ("table", "json")})


def said(text: str, folder: Path) -> str:
    """The mistakes of a configuration, as they are told."""
    (folder / "collapse.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadPolicy) as caught:
        understood(document(folder / "collapse.toml"), KNOWN)
    return str(caught.value).partition("collapse.toml: ")[2]


def read(text: str, folder: Path) -> Configuration:
    (folder / "collapse.toml").write_text(text, encoding="utf-8")
    return understood(document(folder / "collapse.toml"), KNOWN)


LIMIT = '[[limits]]\nrule = "dead-units/share"\nsource = "s"\n'
ACCEPT = '[[accept]]\nrule = "dead-units/*"\nreason = "r"\nuntil = 2027-01-01\n'
MISTAKES = {
    'fail_on = "error"': 'line 1: unknown key "fail_on"; did you mean "fail-on"?',
    "\n\nx = 1": 'line 3: unknown key "x"',
    'intent = "clasifier"': 'line 1: intent "clasifier" should be one of classifier, representation, language-model, '
    'generative; did you mean "classifier"?',
    "intent = 3": 'line 1: intent should be a word, e.g. "language-model"',
    'fail-on = "warn"': 'line 1: fail-on "warn" should be one of info, warning, error; did you mean "warning"?',
    'format = "jsn"': 'line 1: format "jsn" should be one of table, json; did you mean "json"?',
    'select = "spectrum"': 'line 1: select should be a list of words, e.g. ["spectrum", "non-finite", "attention-*"]',
    'select = ["spectrun"]': 'line 1: no analyzer, family or pattern "spectrun"; did you mean "spectrum"?',
    'ignore = ["zzz"]': 'line 1: no analyzer, family or pattern "zzz"; `collapse list` shows them all',
    "sites = [1]": 'line 1: sites should be a list of words, e.g. ["layers.*"]',
    'exit-zero = "yes"': "line 1: exit-zero should be true or false, e.g. false",
    "seed = 1.5": "line 1: seed should be a whole number, e.g. 0",
    "seed = true": "line 1: seed should be a whole number, e.g. 0",
    "timeout = -1": "line 1: timeout should be seconds, e.g. 600.0",
    "timeout = nan": "line 1: timeout should be seconds, e.g. 600.0",
    "max-memory = 0": 'line 1: max-memory should be a size, e.g. "4GiB"',
    "baseline = true": 'line 1: baseline should be a path, e.g. "collapse-baseline.json"',
    LIMIT: 'line 1: limits need "warn" or "error"',
    LIMIT.replace("source", "# source") + "warn = 1": 'line 1: limits need a "source"',
    LIMIT.replace('"s"', '" "') + "warn = 1": "line 3: source should say something",
    LIMIT + "warn = true": "line 4: warn should be a number, or false for no such limit",
    LIMIT + "warn = inf": "line 4: warn should be a number, or false for no such limit",
    LIMIT + "side = 1\nwarn = 1": 'line 4: unknown key "side"',
    LIMIT + "warn = 0.5\nerror = 0.2": "line 1: error 0.2 is milder than warn 0.5: findings lie above the limit",
    LIMIT.replace("dead-units/share", "effective-rank/ratio") + "warn = 0.2\nerror = 0.5": "line 1: error 0.5 is "
    "milder than warn 0.2: findings lie below the limit",
    LIMIT.replace("share", "shar") + "warn = 1": 'line 2: no rule "dead-units/shar"; did you mean "dead-units/share"?',
    LIMIT.replace("dead-units/share", "no/*") + "warn = 1": 'line 2: no rule "no/*"; `collapse list` names them all',
    LIMIT.replace("/share", "") + "warn = 1": 'line 2: no rule "dead-units"; did you mean "dead-units/*"?',
    LIMIT.replace('"dead-units/share"', "3") + "warn = 1": 'line 2: rule should be a rule or a glob over rules, '
    'e.g. "dead-units/*"',
    "limits = 3": "line 1: limits should be tables: [[limits]]",
    ACCEPT.replace("2027-01-01", '"soon"'): "line 4: until should be a day, e.g. 2027-01-01",
    ACCEPT.replace("2027-01-01", "2027-01-01T10:00:00"): "line 4: until should be a day, e.g. 2027-01-01",
    ACCEPT.replace("until", "# until"): 'line 1: accept needs a "until"',
    ACCEPT + 'sites = "fc"': 'line 5: sites should be a list of names or globs, e.g. ["*.weight"]',
    "compare = 3": "line 1: compare should be a table: [compare]",
    "[compare]\ntolerance = -0.1": "line 2: tolerance should be a number from 0 on, e.g. 0.05",
    "[compare]\ntolerances = 1": 'line 2: unknown key "tolerances"; did you mean "tolerance"?',
    '[[compare.rules]]\nrule = "dead-units/*"': 'line 1: compare.rules need a "tolerance"',
    '[[compare.rules]]\nrule = "dead-units/*"\ntolerance = true': "line 3: tolerance should be a number from 0 on, "
    "or false for no comparison",
}  # fmt: skip


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str) -> None:
    assert said(text, tmp_path) == MISTAKES[text]


def test_all_mistakes_are_told_at_once_in_the_order_of_their_lines(tmp_path: Path) -> None:
    text = 'select = [\n  "spectrun",\n]\nfail_on = "warning"\nseed = 0\n' + LIMIT.replace("source", "sauce")
    assert said(text, tmp_path) == (
        '5 mistakes. line 1: no analyzer, family or pattern "spectrun"; did you mean "spectrum"? '
        'line 4: unknown key "fail_on"; did you mean "fail-on"? line 6: limits need a "source". '
        'line 6: limits need "warn" or "error". line 8: unknown key "sauce"; did you mean "source"?'
    )


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"seed = ", "is not TOML, Invalid value"),
        (b"a = 1\na = 2", "is not TOML, Cannot overwrite a value"),
        (b"\xff\xfe", "is not TOML, 'utf-8' codec"),
        (b"a = " + b"[" * 5_000, "is not TOML"),
        (b"#" * 1_000_001, "the file should be a configuration written by hand, it has 1,000,001 bytes"),
    ],
    ids=["syntax", "twice", "bytes", "nesting", "size"],
)
def test_what_is_no_toml_is_an_error_with_its_reason(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "collapse.toml").write_bytes(data)
    with pytest.raises(BadPolicy) as caught:
        document(tmp_path / "collapse.toml")
    assert words in str(caught.value)


def test_a_file_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match="cannot read the configuration, No such file"):
        document(tmp_path / "mine.toml")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(BadPolicy, match=r"has no table \[tool.collapse\]"):
        document(tmp_path / "pyproject.toml")


def test_everything_is_understood(tmp_path: Path) -> None:
    found = read(
        'intent = "classifier"\nselect = ["spectrum", "dead-*", "all", "broken-plugin"]\nfail-on = "warning"\n'
        'max-memory = 1000\nbaseline = "b.json"\n'
        + LIMIT + 'sites = ["fc*"]\nwarn = 0.2\nerror = false\n' + ACCEPT + 'subjects = ["a"]\n'
        '[compare]\ntolerance = 0\n[[compare.rules]]\nrule = "dead-units/*"\ntolerance = false\n',
        tmp_path,
    )  # fmt: skip
    assert found.values["select"] == ["spectrum", "dead-*", "all", "broken-plugin"]
    assert found.values["max-memory"] == "1000"
    assert found.limits == (Override("dead-units/share", "s", ("fc*",), 0.2, False),)
    assert found.accepted == (Accept("dead-units/*", "r", "2027-01-01", ("a",)),)
    assert found.comparison == Comparison(0, (Allowance("dead-units/*", False),))
    assert (found.lines["intent"], found.lines["baseline"]) == (1, 5)


def test_a_day_may_be_text(tmp_path: Path) -> None:
    assert read(ACCEPT.replace("2027-01-01", '"2027-01-01"'), tmp_path).accepted[0].until == "2027-01-01"


def test_the_digest_is_of_what_is_said_and_not_of_how(tmp_path: Path) -> None:
    first = read('seed = 1\nintent = "classifier"\n', tmp_path)
    expected = hashlib.sha256(b'{"intent":"classifier","seed":1}').hexdigest()
    assert first.digest == f"sha256:{expected}"
    assert read('# why\nintent = "classifier"\nseed = 1', tmp_path).digest == first.digest
    assert read('intent = "classifier"\nseed = 2', tmp_path).digest != first.digest
    (tmp_path / "pyproject.toml").write_text('[project]\n[tool.collapse]\nseed = 1\nintent = "classifier"\n')
    assert understood(document(tmp_path / "pyproject.toml"), KNOWN).digest == first.digest


def test_mistakes_in_a_pyproject_have_the_lines_of_that_file(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.collapse]\nseeds = 1\n[[tool.collapse.accept]]\nrule = "dead-units/*"\n'
    )
    with pytest.raises(BadPolicy) as caught:
        understood(document(tmp_path / "pyproject.toml"), KNOWN)
    assert 'line 2: unknown key "seeds"; did you mean "seed"? line 3: accept needs a "reason". line 3: accept' in str(
        caught.value
    )


def test_the_nearest_file_upwards_wins_and_nothing_is_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "collapse.toml").write_text('seed = 1\nintent = "classifier"\n')
    monkeypatch.chdir(inner)
    above = understood(nearest(inner), KNOWN)
    assert above.file is not None
    assert (above.file.as_posix(), above.values["seed"]) == ("../../collapse.toml", 1)
    (tmp_path / "a" / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert understood(nearest(inner), KNOWN).values["seed"] == 1, "a pyproject.toml without the table is passed over"
    (tmp_path / "a" / "pyproject.toml").write_text("[tool.collapse]\nseed = 2\n")
    assert understood(nearest(inner), KNOWN).values == {"seed": 2}
    (tmp_path / "a" / "collapse.toml").write_text("seed = 3\n")
    assert understood(nearest(inner), KNOWN).values == {"seed": 3}
    (inner / "collapse.toml").mkdir()
    assert understood(nearest(inner), KNOWN).values == {"seed": 3}, "a folder of that name is no file"


def test_a_broken_pyproject_counts_only_if_it_speaks_of_collapse(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.black\n")
    assert nearest(tmp_path) is None or nearest(tmp_path).path.name != "pyproject.toml"
    (tmp_path / "pyproject.toml").write_text("[tool.collapse]\nseed = \n")
    with pytest.raises(BadPolicy, match="is not TOML"):
        nearest(tmp_path)


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    values = read('baseline = "b.json"\noutput = ["c.json", "md=out/d.txt", "/abs/e.csv"]', tmp_path).values
    assert values["baseline"] == "../b.json"
    assert values["output"] == ["../c.json", "md=../out/d.txt", "/abs/e.csv"]


def uncommented() -> str:
    lines = (line[2:] if re.match(r"# (?:[a-z-]+ = |\[)", line) else line for line in template().split("\n"))
    return "\n".join(lines)


def test_the_template_says_nothing_and_uncommented_it_says_everything(tmp_path: Path) -> None:
    assert tomllib.loads(template()) == {}
    whole = tomllib.loads(uncommented())
    assert set(whole) == {key.name for key in KEYS} | {"limits", "accept", "compare"}
    for table in TABLES:
        entries = whole["compare"]["rules"] if table.name == "compare.rules" else whole[table.name]
        assert set(entries[0]) == set(table.keys) - ({"sites"} if table.name == "compare.rules" else set())


def test_the_template_holds_for_the_analyzers_there_are(tmp_path: Path) -> None:
    from collapse_cli.analyzers import catalogue

    (tmp_path / "collapse.toml").write_text(uncommented(), encoding="utf-8")
    manuals = tuple(analyzer.manual for analyzer in catalogue(plugins=False).analyzers)
    assert understood(document(tmp_path / "collapse.toml"), Known(manuals)).limits


def plain(table: object) -> object:
    """A document as an editor checks it: days are text."""
    return json.loads(json.dumps(table, default=str))


def test_the_schema_takes_the_template_and_refuses_mistakes() -> None:
    schema = json_schema({"format": ("table", "json")})
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(plain(tomllib.loads(uncommented())))
    for text, told in MISTAKES.items():
        # which rules and analyzers there are, that an error is the stricter one, and days are not in a schema
        if not re.search(r"^line \d+: (?:no |error |until)|source should", told):
            table = tomllib.loads(text)
            if "nan" not in text and "inf" not in text:
                assert not validator.is_valid(plain(table)), text
