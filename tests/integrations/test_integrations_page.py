"""The examples of `docs/integrations.md` run as printed, each where its package is installed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from collapse_cli.core.report import to_json
from tests.reports import partial

pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### ([^\n]+)\n(?:(?!^#).)*?```python\n(.*?)```", PAGE, re.DOTALL | re.MULTILINE))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with three stored reports, which is where the examples are executed."""
    monkeypatch.chdir(tmp_path)
    for step in (2, 4, 6):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "collapse.json").write_text(to_json(partial()))
    return tmp_path / "run"


def execute(name: str, **given: Any) -> dict[str, Any]:
    names = {"__name__": "__main__", **given}
    exec(compile(EXAMPLES[name], f"docs/integrations.md: {name}", "exec"), names)
    return names


def test_every_example_is_known_and_has_ten_lines_at_most() -> None:
    assert list(EXAMPLES) == ["transformers", "Lightning", "TensorBoard", "Weights & Biases", "MLflow"]
    for code in EXAMPLES.values():
        assert len([line for line in code.splitlines() if line.strip()]) <= 10


def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    data = [{"input_ids": torch.arange(8) + index, "labels": torch.tensor(index % 2)} for index in range(16)]
    execute("transformers", model=transformers.BertForSequenceClassification(config), data=data)
    assert capsys.readouterr().out.rstrip().endswith("[0.0, 0.0, 0.0]")
    assert len(list(tmp_path.glob("run/checkpoint-*/collapse.json"))) == 3


def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    monkeypatch.chdir(tmp_path)
    if torch.cuda.is_available():
        pytest.skip("the example takes the accelerator there is")

    class Model(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(32, 32)

        def training_step(self, batch, _):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 1e-3)

    execute("Lightning", model=Model(), data=torch.utils.data.DataLoader(torch.randn(24, 32), batch_size=4))
    assert len(list(tmp_path.glob("run/*.collapse.json"))) == 3


def test_tensorboard(run: Path) -> None:
    pytest.importorskip("tensorboard")
    execute("TensorBoard")
    assert list((run / "tensorboard").glob("events.out.*"))


def test_wandb(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    execute("Weights & Biases")
    assert list(run.parent.glob("wandb/offline-run-*/*.wandb"))


def test_mlflow(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((run / "mlruns").as_uri())
    execute("MLflow")
    assert list(run.glob("mlruns/**/effective_rank_ratio*"))
