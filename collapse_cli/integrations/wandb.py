"""A stored report as metrics of a Weights & Biases run."""

from collections.abc import Sequence
from typing import Any

from collapse_cli.core.report import Report
from collapse_cli.errors import InputError
from collapse_cli.integrations.packages import required
from collapse_cli.integrations.scalars import HEADLINES, PREFIX, scalars

__all__ = ["write"]


def write(report: Report, run: Any = None, *, step: int, rules: Sequence[str] = HEADLINES) -> None:
    """Log the report's numbers into a run, by default the active one, over `collapse/step`.

    That is an axis of its own: the run's own step cannot go back, and a stored report is often older.

    Raises:
        InputError: wandb is not installed, or no run is active.
    """
    wandb = required("wandb", extra="wandb")
    run = wandb.run if run is None else run
    if run is None:
        raise InputError("no run of wandb is active", hint="call wandb.init() first, or give the run")
    axis = f"{PREFIX}/step"
    run.define_metric(axis)
    run.define_metric(f"{PREFIX}/*", step_metric=axis)
    run.log({**scalars(report, rules), axis: step})
