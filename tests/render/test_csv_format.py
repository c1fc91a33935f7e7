"""The tidy table: exact columns, exact numbers."""

import csv
import io
from dataclasses import replace

import pandas

from collapse_cli.core.metric import Limit
from collapse_cli.render import RENDERERS, Look
from collapse_cli.render.csv_format import COLUMNS
from tests.reports import RANK, RATIO, empty, partial, ratio, report, subject

DOCUMENTED = (
    "subject kind site layer role shape dtype analyzer metric unit value null status severity limit_side limit_bound "
    "suppressed fingerprint message diagnosis follows_from"
)


def rows(given: object) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(RENDERERS["csv"](given, Look()))))  # type: ignore[arg-type]


def test_the_columns_are_those_of_the_contract_and_stand_even_over_nothing() -> None:
    assert " ".join(COLUMNS) == DOCUMENTED
    assert RENDERERS["csv"](empty(), Look()) == DOCUMENTED.replace(" ", ",") + "\n"


def test_one_row_a_measurement_skip_and_failure() -> None:
    found = rows(partial())
    assert [row["status"] for row in found] == ["measured"] * 3 + ["skipped", "failed"]
    assert [row["severity"] for row in found] == ["", "error", "", "", ""]
    ill = found[1]
    assert (ill["value"], ill["null"], ill["limit_side"], ill["limit_bound"]) == ("0.01663", "0.8016", "below", "0.05")
    assert (ill["site"], ill["layer"], ill["role"], ill["shape"], ill["dtype"]) == (
        *("layers.1.mlp.up_proj.weight", "1", "mlp.in", "64x64", "F32"),
    )
    assert found[4]["message"] == "NotConverged: the fit did not converge in 100 steps"


def test_numbers_come_back_to_the_bit() -> None:
    values = [0.1 + 0.2, 1e-300, -1 / 3, 123456789.123456789]
    text = RENDERERS["csv"](report(subject(measurements=tuple(ratio(f"s{v}", v) for v in values))), Look())
    assert [float(row["value"]) for row in csv.DictReader(io.StringIO(text))] == values
    assert pandas.read_csv(io.StringIO(text), dtype={"value": str})["value"].map(float).tolist() == values
    assert text.isascii()
    assert "\r" not in text


def test_the_bound_of_a_limit_on_the_null_is_the_bound_on_the_value() -> None:
    metric = replace(RATIO, warn=None, error=Limit("below", 0.4, "s", of="null"))
    whole = report(subject(measurements=(ratio("a", 0.01, 0.5),)), manuals=(replace(RANK, metrics=(metric,)),))
    assert float(rows(whole)[0]["limit_bound"]) == 0.2
