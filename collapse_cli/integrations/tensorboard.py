"""A stored report as scalars of TensorBoard."""

import time
from collections.abc import Sequence
from os import PathLike, fspath

from collapse_cli.core.report import Report
from collapse_cli.integrations.packages import first_of, required
from collapse_cli.integrations.scalars import HEADLINES, scalars

__all__ = ["write"]

#: The first writes alone; of the second, torch has the writer.
_PACKAGES = ("tensorboardX", "tensorboard")


def write(report: Report, folder: str | PathLike[str], *, step: int, rules: Sequence[str] = HEADLINES) -> None:
    """Write the report's numbers as those of a step into a log folder, which is made where it is missing.

    Raises:
        InputError: neither tensorboardX nor tensorboard is installed.
    """
    module = first_of(_PACKAGES, extra="tensorboard")
    if module.__name__ == "tensorboard":
        module = required("torch.utils.tensorboard", extra="tensorboard")
    # tensorboardX names its files by the second: without an ending of its own, the next report would overwrite this
    with module.SummaryWriter(fspath(folder), filename_suffix=f".{time.time_ns()}") as writer:
        for key, value in scalars(report, rules).items():
            writer.add_scalar(key, value, step)
