"""A stored report as metrics of an MLflow run."""

from collections.abc import Sequence

from collapse_cli.core.report import Report
from collapse_cli.errors import InputError
from collapse_cli.integrations.packages import required
from collapse_cli.integrations.scalars import HEADLINES, scalars

__all__ = ["write"]


def write(report: Report, run_id: str | None = None, *, step: int, rules: Sequence[str] = HEADLINES) -> None:
    """Log the report's numbers at a step into a run, by default the active one.

    Raises:
        InputError: mlflow is not installed, or no run is active.
    """
    mlflow = required("mlflow", extra="mlflow")
    if run_id is None and mlflow.active_run() is None:
        raise InputError("no run of mlflow is active", hint="with mlflow.start_run(): …, or give run_id")
    mlflow.log_metrics(scalars(report, rules), step=step, run_id=run_id)
