"""Real runs of the Trainers of `lightning` and of `pytorch_lightning`."""

import csv
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from collapse_cli.core.policy import Policy
from collapse_cli.integrations.scalars import scalars
from collapse_cli.runs import scan
from collapse_cli.stored import read_report

pytestmark = pytest.mark.filterwarnings("ignore")

RANK = Policy(select=("effective-rank", "non-finite"))
#: Seconds that a test lets the scans of a run take.
PATIENCE = 300.0


@pytest.fixture(params=["lightning.pytorch", "pytorch_lightning"])
def package(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param, reason=f"{request.param} is not installed")


@pytest.fixture
def callback(package: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The class as a program sees it that has imported this package and not the other."""
    import collapse_cli.integrations.lightning as module

    monkeypatch.setattr(module, "_PACKAGES", (package.__name__,))
    module._callback.cache_clear()
    made = module.CollapseCallback
    assert issubclass(made, package.Callback)
    module._callback.cache_clear()
    return made


def module_of(package: Any) -> Any:
    class Tiny(package.LightningModule):
        pause = 0.0

        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.Linear(64, 8))

        def training_step(self, batch, _):
            time.sleep(self.pause)
            return self.net(batch[0]).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD([one for one in self.parameters() if one.requires_grad], 1e-3)

    torch.manual_seed(0)
    return Tiny()


def fitted(package: Any, folder: Path, module: Any, *callbacks: Any, steps: int = 6, every: int = 2) -> Any:
    loggers = import_module(f"{package.__name__}.loggers")
    checkpoints = import_module(f"{package.__name__}.callbacks").ModelCheckpoint(
        dirpath=folder, filename="{step}", save_top_k=-1, every_n_train_steps=every, save_last=True
    )
    drawn = torch.randn(24, 32, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(drawn), batch_size=4)
    trainer = package.Trainer(
        default_root_dir=folder, max_steps=steps, accelerator="cpu", logger=loggers.CSVLogger(folder),
        enable_progress_bar=False, enable_model_summary=False, callbacks=[checkpoints, *callbacks],
    )  # fmt: skip
    trainer.fit(module, data)
    return trainer


def test_each_checkpoint_has_its_report_and_its_numbers_are_in_the_log(package, callback, tmp_path: Path) -> None:
    watching = callback(RANK, rules=["effective-rank/*"], wait=PATIENCE)
    trainer = fitted(package, tmp_path, module_of(package), watching)
    assert sorted(path.name for path in tmp_path.glob("*.collapse.json")) == [
        "step=2.collapse.json",
        "step=4.collapse.json",
        "step=6.collapse.json",
    ]
    with Path(trainer.logger.experiment.metrics_file_path).open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["collapse/step"]]
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    for row in rows:
        checkpoint = tmp_path / f"step={row['step']}.ckpt"
        report = read_report(checkpoint.with_name(f"step={row['step']}.collapse.json"))
        assert (report.subjects[0].status, report.verdict.findings["error"]) == ("complete", 0)
        again = scalars(scan([checkpoint], Policy(select=("effective-rank",))), ["effective-rank/*"])
        assert {key: float(row[key]) for key in again} == pytest.approx(again, rel=1e-6)


def test_a_finding_stops_the_training_when_asked(package, callback, tmp_path: Path) -> None:
    module = module_of(package)
    module.pause = 0.1  # the scan, of low priority, has a processor
    module.net[0].weight.requires_grad_(False).fill_(0.02)
    watching = callback(RANK, stop_on="error", wait=PATIENCE)
    trainer = fitted(package, tmp_path, module, watching, steps=1_000_000, every=20)
    assert 20 <= trainer.global_step < 1_000_000
