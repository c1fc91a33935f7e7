"""Real runs of the Trainer of transformers with a tiny BERT on random data."""

import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from collapse_cli.core.policy import Policy
from collapse_cli.integrations.scalars import scalars
from collapse_cli.runs import scan
from collapse_cli.stored import read_report

transformers = pytest.importorskip("transformers", reason="transformers is not installed")
pytest.importorskip("accelerate", reason="accelerate, which the Trainer needs, is not installed")

# the trainer's own warnings are not ours
pytestmark = pytest.mark.filterwarnings("ignore")

RANK = Policy(select=("effective-rank",))
KEY = "collapse/effective-rank/effective_rank_lambda"
Changes = dict[str, Any]


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Any]:
    def made(**changes: Any) -> Any:
        torch.manual_seed(0)
        config = transformers.BertConfig(
            vocab_size=64, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=16,
        )  # fmt: skip
        model = transformers.BertForSequenceClassification(config)
        drawn = torch.randint(0, 64, (32, 8), generator=torch.Generator().manual_seed(0))
        data = [{"input_ids": row, "labels": torch.tensor(index % 2)} for index, row in enumerate(drawn)]
        settings = {"max_steps": 6, "save_steps": 2, "logging_steps": 2} | changes
        arguments = transformers.TrainingArguments(
            output_dir=str(tmp_path / "run"), per_device_train_batch_size=4, report_to="none", use_cpu=True,
            disable_tqdm=True, **settings,
        )  # fmt: skip
        return transformers.Trainer(model, arguments, train_dataset=data)

    return made


def test_each_checkpoint_has_its_report_and_its_numbers_are_in_the_log(trainer, tmp_path: Path) -> None:
    from collapse_cli.integrations.huggingface import CollapseCallback

    one = trainer()
    seen: list[dict[str, float]] = []

    class Reporter(transformers.TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            seen.append(dict(logs))

    one.add_callback(Reporter)
    one.add_callback(CollapseCallback(RANK, rules=["effective-rank/*"], log=one.log))
    one.train()
    logged = [entry for entry in one.state.log_history if "collapse/step" in entry]
    assert [entry["collapse/step"] for entry in logged] == [2.0, 4.0, 6.0]
    for entry in logged:
        folder = tmp_path / "run" / f"checkpoint-{entry['collapse/step']:.0f}"
        report = read_report(folder / "collapse.json")
        assert report.subjects[0].status == "complete"
        # the same checkpoint scanned here, in this process
        again = scalars(scan([folder], RANK), ["effective-rank/*"])
        assert {key: entry[key] for key in again} == pytest.approx(again, rel=1e-6)
        assert 1 < entry[KEY] <= 32
    assert [entry["step"] for entry in one.state.log_history if "loss" in entry] == [2, 4, 6]
    assert [entry["collapse/step"] for entry in seen if "collapse/step" in entry] == [2.0, 4.0, 6.0]


def test_without_a_log_the_numbers_are_in_the_state(trainer) -> None:
    from collapse_cli.integrations.huggingface import CollapseCallback

    one = trainer(max_steps=2)
    one.add_callback(CollapseCallback(RANK, rules=["effective-rank/effective_rank_lambda"]))
    one.train()
    assert [entry["step"] for entry in one.state.log_history if KEY in entry] == [2]


def test_a_finding_stops_the_training_when_asked(trainer, caplog: pytest.LogCaptureFixture) -> None:
    from collapse_cli.integrations.huggingface import CollapseCallback

    class Slow(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            time.sleep(0.1)  # the scan, of low priority, has a processor

    one = trainer(max_steps=1_000_000, save_steps=20, logging_steps=1)
    one.add_callback(Slow)
    frozen = one.model.bert.encoder.layer[0].intermediate.dense.weight.requires_grad_(False)
    frozen.fill_(0.02)  # one direction
    one.add_callback(CollapseCallback(RANK, stop_on="error", log=one.log))
    begun = time.monotonic()
    one.train()
    assert 20 <= one.state.global_step < 1_000_000
    assert time.monotonic() - begun < 300
    assert "the training is stopped" in caplog.text
    logged = [entry for entry in one.state.log_history if "collapse/step" in entry]
    assert logged[0]["collapse/errors"] >= 1
    # logging our numbers amid the training costs none of the Trainer's own entries
    losses = [entry["step"] for entry in one.state.log_history if "loss" in entry]
    assert losses == list(range(1, one.state.global_step + 1))


def test_without_stop_on_the_training_goes_on(trainer) -> None:
    from collapse_cli.integrations.huggingface import CollapseCallback

    one = trainer(max_steps=2)
    one.model.bert.encoder.layer[0].intermediate.dense.weight.requires_grad_(False).fill_(0.02)
    callback = CollapseCallback(RANK, log=one.log)
    one.add_callback(callback)
    one.train()
    assert one.state.global_step == 2
    assert [entry["collapse/errors"] >= 1 for entry in one.state.log_history if "collapse/step" in entry] == [True]


def test_a_failing_logger_and_a_removed_checkpoint_do_not_touch_the_training(
    trainer, caplog: pytest.LogCaptureFixture
) -> None:
    from collapse_cli.integrations.huggingface import CollapseCallback

    def full(_: dict[str, float]) -> None:
        raise OSError("no space left on device")

    one = trainer(save_total_limit=1)
    one.add_callback(CollapseCallback(RANK, log=full))
    with caplog.at_level(logging.INFO, "collapse"):
        one.train()
    assert one.state.global_step == 6
    assert "no space left on device" in caplog.text
    assert "removed before its turn" in caplog.text or "cannot write" in caplog.text or "cannot read" in caplog.text


def test_two_processes_stop_together(tmp_path: Path) -> None:
    program = f"""
import sys, torch
from types import SimpleNamespace
from collapse_cli.integrations.huggingface import _is_agreed
rank = int(sys.argv[1])
torch.distributed.init_process_group("gloo", init_method="file://{tmp_path}/meeting", rank=rank, world_size=2)
args = SimpleNamespace(world_size=2, device="cpu")
# the first process scans: its word counts, that of the second does not
print([_is_agreed(rank == 0 and is_over, args) or _is_agreed(rank == 1, args) for is_over in (False, True)])
torch.distributed.destroy_process_group()
"""
    begun = [
        subprocess.Popen([sys.executable, "-c", program, rank], stdout=subprocess.PIPE, text=True) for rank in "01"
    ]
    assert [process.communicate(timeout=120)[0].strip() for process in begun] == ["[False, True]"] * 2


def test_the_class_is_one_and_is_pickled() -> None:
    import collapse_cli.integrations.huggingface as module

    assert issubclass(module.CollapseCallback, transformers.TrainerCallback)
    assert module.CollapseCallback is module.CollapseCallback
    assert isinstance(pickle.loads(pickle.dumps(module.CollapseCallback(RANK))), module.CollapseCallback)
    with pytest.raises(AttributeError, match="no attribute"):
        _ = module.Collapse
