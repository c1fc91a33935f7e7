"""Reports written to trackers and read back with the trackers' own readers."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from collapse_cli.errors import InputError
from collapse_cli.integrations.scalars import scalars
from tests.reports import partial

# the trackers' own warnings are not ours
pytestmark = pytest.mark.filterwarnings("ignore")

RULES = ["effective-rank/*"]
WANTED = scalars(partial(), RULES)


def read_back(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = accumulators.EventAccumulator(str(folder))
    accumulator.Reload()
    return {tag: [(one.step, one.value) for one in accumulator.Scalars(tag)] for tag in accumulator.Tags()["scalars"]}


@pytest.mark.parametrize("package", ["tensorboardX", "tensorboard"])
def test_tensorboard(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    pytest.importorskip(package, reason=f"{package} is not installed")
    from collapse_cli.integrations import tensorboard

    monkeypatch.setattr(tensorboard, "_PACKAGES", (package,))
    for step in (100, 200):
        tensorboard.write(partial(), tmp_path, step=step, rules=RULES)
    found = read_back(tmp_path)
    assert set(found) == set(WANTED)
    for key, value in WANTED.items():
        # event files hold float32
        assert found[key] == [(step, pytest.approx(value, rel=1e-6)) for step in (100, 200)]


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    from collapse_cli.integrations.mlflow import write

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")  # the store without a database, of which new versions warn
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with pytest.raises(InputError, match="no run of mlflow is active"):
        write(partial(), step=100, rules=RULES)
    with mlflow.start_run() as run:
        write(partial(), step=100, rules=RULES)
    write(partial(), run.info.run_id, step=200, rules=RULES)
    client = mlflow.MlflowClient()
    assert client.get_run(run.info.run_id).data.metrics == pytest.approx(WANTED)
    for key in WANTED:
        assert [one.step for one in client.get_metric_history(run.info.run_id, key)] == [100, 200]


def test_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    from collapse_cli.integrations.wandb import write

    monkeypatch.setenv("WANDB_MODE", "offline")
    with pytest.raises(InputError, match="no run of wandb is active"):
        write(partial(), step=100, rules=RULES)
    with wandb.init(mode="offline", dir=tmp_path, project="collapse") as run:
        write(partial(), step=200, rules=RULES)
        # an older report after a newer one: the run's own step could not go back
        write(partial(), run, step=100, rules=RULES)
        assert {key: run.summary[key] for key in WANTED} == pytest.approx(WANTED)
        assert (run.summary["collapse/step"], run.step) == (100, 2)
    (stored,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    assert stored.stat().st_size > 0


def test_wandb_is_told_the_axis_and_every_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package: a run is anything with its two methods."""
    from collapse_cli.integrations import wandb

    said: list[object] = []
    run = SimpleNamespace(define_metric=lambda *words, **more: said.append((words, more)), log=said.append)
    monkeypatch.setattr(wandb, "required", lambda *_, **__: SimpleNamespace(run=None))
    wandb.write(partial(), run, step=7, rules=RULES)
    assert said == [
        (("collapse/step",), {}),
        (("collapse/*",), {"step_metric": "collapse/step"}),
        {**WANTED, "collapse/step": 7},
    ]
