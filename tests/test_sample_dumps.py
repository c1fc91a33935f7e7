"""The sample dumps: table and folder agree, dumps are well-formed, and each illness is there by plain numpy."""

import json
from pathlib import Path

import numpy as np
import pytest

from collapse_cli.core.policy import INTENTS
from collapse_cli.sources.dump import open_dump
from tests.test_sample_checkpoints import RULE, SAMPLES, table, tensors

ROWS = table("Dumps")
NAMES = sorted({row["file"].strip("`") for row in ROWS})


def array(name: str, site: str, role: str) -> np.ndarray:
    return open_dump(SAMPLES / "dumps" / name).read(site, role).double().numpy()


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def effective_rank(rows: np.ndarray) -> float:
    values = np.linalg.svd(rows - rows.mean(0), compute_uv=False) ** 2
    share = values[values > 0] / values.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def variance_quotient(rows: np.ndarray, labels: np.ndarray) -> float:
    """Variance within the classes over variance between their means."""
    means = np.array([rows[labels == label].mean(0) for label in np.unique(labels)])
    within = np.mean([rows[labels == label].var(0).sum() for label in np.unique(labels)])
    return float(within / means.var(0).sum())


def share_of_neighbours(rows: np.ndarray, marks: np.ndarray) -> float:
    """Share of the ten nearest rows that have the mark of their row."""
    distances = ((rows[:, None] - rows[None]) ** 2).sum(2) + np.diag(np.full(len(rows), np.inf))
    return float((marks[distances.argsort(1)[:, :10]] == marks[:, None]).mean())


def test_the_table_names_what_is_there_and_nothing_else() -> None:
    assert {f"dumps/{path.name}" for path in (SAMPLES / "dumps").iterdir()} == set(NAMES)


@pytest.mark.parametrize("row", ROWS, ids=[f"{row['file'].strip('`')} {row['intent']}" for row in ROWS])
def test_every_expectation_can_be_read(row: dict[str, str]) -> None:
    found, missing = (set(row[column].split(", ")) - {"-"} for column in ("must find", "must not find"))
    assert all(RULE.fullmatch(rule) for rule in found | missing)
    assert not found & missing
    assert row["intent"] in {"-", *INTENTS}
    assert row["exit"] in {"0", "1"}
    assert found or row["exit"] == "0"


def test_every_dump_has_a_row_without_intent_and_one_with() -> None:
    assert len({(row["file"], row["intent"]) for row in ROWS}) == len(ROWS)
    for name in NAMES:
        intents = {row["intent"] for row in ROWS if row["file"] == f"`{name}`"}
        assert "-" in intents
        assert len(intents) > 1


@pytest.mark.parametrize("name", NAMES)
def test_a_dump_is_small_finite_and_carries_the_figure_of_its_rows(name: str) -> None:
    folder = SAMPLES / name
    assert sum(path.stat().st_size for path in folder.iterdir()) < 300_000
    facts = json.loads((folder / "dump.index.json").read_text(encoding="utf-8"))["metadata"]
    assert {row["held-out"] for row in ROWS if row["file"] == f"`{name}`"} == {facts["held_out"]}
    assert facts["model"] == Path(name).name
    assert int(facts["seed"]) > 0
    for values in tensors(folder / "shard-00000.safetensors").values():
        assert values.double().isfinite().all()


def test_features_of_a_class_fall_onto_their_mean_only_far_into_training() -> None:
    quotients = {
        name: [
            variance_quotient(array(name, f"layers.{n}", "features"), array(name, f"layers.{n}", "labels"))
            for n in range(4)
        ]
        for name in ("nc_terminal", "nc_early_stopped")
    }
    assert quotients["nc_terminal"][-1] < 0.01
    assert 0.05 < quotients["nc_early_stopped"][-1] < 0.5
    assert all(np.diff(values).max() < 0 for values in quotients.values())


def test_rare_classes_share_a_row_of_the_head() -> None:
    for name, site, low, high in (("minority_collapse", "layers.0", 0.95, 1), ("nc_terminal", "layers.3", -0.2, 0)):
        rows = unit(array(name, site, "head_weight"))[5:]
        cosines = (rows @ rows.T)[np.triu_indices(5, 1)]
        assert low < cosines.mean() < high
    assert array("minority_collapse", "layers.0", "class_counts").tolist() == [130] * 5 + [3] * 5


def test_self_supervised_rank() -> None:
    assert effective_rank(array("ssl_healthy", "output", "features")) > 10
    assert effective_rank(array("ssl_dimensional_collapse", "output", "features")) < 3
    for role in ("features", "view_a", "view_b"):
        assert np.ptp(array("ssl_complete_collapse", "output", role), axis=0).max() == 0


def test_the_gap_between_the_modalities() -> None:
    gaps = {}
    for name in ("modality_gap", "modality_healthy"):
        first, second = (unit(array(name, "output", f"modality_{side}")) for side in "ab")
        gaps[name] = np.linalg.norm(first.mean(0) - second.mean(0))
    assert gaps["modality_gap"] > 0.8
    assert gaps["modality_healthy"] < 0.1


def test_neighbours_share_the_scanner_and_not_the_digit() -> None:
    rows = array("group_collapse", "encoder", "features")
    assert share_of_neighbours(rows, array("group_collapse", "encoder", "groups")) > 0.99
    assert share_of_neighbours(rows, array("group_collapse", "encoder", "labels")) < 0.75


def test_the_first_quarter_of_a_nested_embedding_finds_the_neighbours_of_the_whole() -> None:
    rows, labels = (array("matryoshka", "encoder", role) for role in ("features", "labels"))
    whole = share_of_neighbours(unit(rows), labels)
    assert share_of_neighbours(unit(rows[:, :8]), labels) > 0.95 * whole


def test_dead_and_constant_layers() -> None:
    assert not array("constant_rows", "layers.1", "features").any()
    bias = array("constant_rows", "head", "features")
    assert bias.any()
    assert np.ptp(bias, axis=0).max() == 0


def test_two_clusters_are_all_that_is_left() -> None:
    rows, labels = (array("two_clusters", "layers.2", role) for role in ("features", "labels"))
    assert effective_rank(rows) < 1.2
    assert variance_quotient(rows, labels % 2) < 0.02
