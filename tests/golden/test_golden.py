"""What the commands say of the sample checkpoints, to the letter; `pytest tests/golden --update-golden` rewrites it.

Two things are made stable, by name: provenance is dropped, and numbers keep six digits, because another processor may
move the last ones.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Report, to_json
from collapse_cli.render import RENDERERS, Look
from collapse_cli.runs import ScanOptions, scan

HERE = Path(__file__).parent
SAMPLES = HERE.parents[1] / "sample_checkpoints"
#: More would say nothing new, and the diff of a golden file is to be read.
CASES = {
    "healthy_mlp.safetensors": ("concise", "md", "json"),
    "rank_collapse.safetensors": ("concise", "md", "csv", "sarif", "github", "gitlab", "junit", "card"),
    "attention_collapse": ("concise", "md"),
    "moe_collapse.safetensors": ("concise", "md"),
    "vq_collapse.safetensors": ("concise", "md"),
    "lora_adapter": ("concise",),
    "hostile/odd_shapes.safetensors": ("concise", "md"),
    "hostile/nan_inf.safetensors": ("concise", "table", "json"),
    "hostile/hostile_names.safetensors": ("concise",),
    "hostile/pickle_with_code.pt": ("concise", "json", "sarif", "github", "gitlab", "junit"),
}
LARGEST = 60_000


@cache
def report(sample: str) -> Report:
    return scan([SAMPLES / sample], Policy(), ScanOptions(device="cpu", plugins=False, base=SAMPLES))


def rounded(value: object) -> object:
    if isinstance(value, float):
        return float(f"{value:.6g}") if abs(value) > 1e-9 else math.copysign(0.0, 1.0)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def stable_json(given: Report) -> str:
    """Without provenance, without the manuals (which have a test of their own), and without curves."""
    whole = json.loads(to_json(given))
    del whole["provenance"], whole["manuals"], whole["tool"]
    for subject in whole["subjects"]:
        subject["path"] = subject["id"]
        for measured in (*subject["measurements"], *(finding["measurement"] for finding in subject["findings"])):
            measured["evidence"] = {k: v for k, v in measured["evidence"].items() if not isinstance(v, dict | list)}
    return json.dumps(rounded(whole), indent=1, ensure_ascii=False) + "\n"


def stable_csv(given: Report) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in csv.reader(io.StringIO(RENDERERS["csv"](given, Look()))):
        writer.writerow([_short(cell) for cell in row])
    return stream.getvalue()


def _short(cell: str) -> str:
    try:
        return f"{rounded(float(cell)):.6g}" if "." in cell or "e" in cell else cell
    except ValueError:
        return cell


def stable_text(form: str) -> Callable[[Report], str]:
    def text(given: Report) -> str:
        seconds = f" · {given.provenance.seconds:.1f} s"
        lines = RENDERERS[form](given, Look(width=120)).replace(seconds, "")
        # names of 64 kB are shown whole on these lines
        return "".join(line if len(line) < 2_000 else f"{line[:200]}…{line[-200:]}" for line in lines.splitlines(True))

    return text


def stable_sarif(given: Report) -> str:
    """Without the version of the tool and the help of the rules, which is the manual."""
    whole = json.loads(RENDERERS["sarif"](given, Look()))
    driver = whole["runs"][0]["tool"]["driver"]
    del driver["version"]
    for rule in driver.get("rules", ()):
        del rule["help"]
    return json.dumps(rounded(whole), indent=1, ensure_ascii=False) + "\n"


def stable_junit(given: Report) -> str:
    return re.sub(r' time="[\d.]+"', "", RENDERERS["junit"](given, Look()))


def stable_card(given: Report) -> str:
    return re.sub(r"^Measured on .*\n\n", "", RENDERERS["card"](given, Look()), flags=re.MULTILINE)


STABLE: dict[str, Callable[[Report], str]] = {
    "json": stable_json,
    "csv": stable_csv,
    "sarif": stable_sarif,
    "junit": stable_junit,
    "card": stable_card,
}


@pytest.mark.parametrize(("sample", "form"), [(sample, form) for sample, forms in CASES.items() for form in forms])
def test_the_output_is_what_it_was(sample: str, form: str, update_golden: bool) -> None:
    text = STABLE.get(form, stable_text(form))(report(sample)).replace(f"{SAMPLES.as_posix()}/", "")
    assert str(SAMPLES.parent) not in text, "a golden file is the same wherever the repository lies"
    path = HERE / f"{Path(sample).stem}.{form}"
    if update_golden:
        path.write_text(text, encoding="utf-8")
    assert len(text.encode()) <= LARGEST
    assert text == path.read_text(encoding="utf-8"), "run `make golden`, then read the diff"


def test_every_golden_file_has_its_case() -> None:
    there = {path.name for path in HERE.iterdir() if path.suffix != ".py" and path.is_file()}
    assert there == {f"{Path(sample).stem}.{form}" for sample, forms in CASES.items() for form in forms}
