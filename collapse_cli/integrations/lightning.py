"""`CollapseCallback` for the Trainer of Lightning: every checkpoint it saves is scanned beside the training.

```python
trainer = Trainer(callbacks=[ModelCheckpoint(every_n_train_steps=500), CollapseCallback(stop_on="error")])
```

For `lightning` and for `pytorch_lightning`. Importing this module imports neither; the class is made when it is first
asked for (PEP 562), for the one that the program has imported.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_cli.core.policy import Policy
from collapse_cli.integrations.background import BESIDE, WAIT, Watch, quietly
from collapse_cli.integrations.packages import first_of
from collapse_cli.integrations.scalars import HEADLINES, PREFIX
from collapse_cli.integrations.scan_process import Scanned
from collapse_cli.runs import ScanOptions

__all__ = ["CollapseCallback"]

_PACKAGES = ("lightning.pytorch", "pytorch_lightning")
#: State of callbacks beside the model: before its first score, that of `ModelCheckpoint` is an infinity by design.
_NOT_OF_THE_MODEL = ("callbacks.*",)


class _Events:
    """Scans each checkpoint that a `ModelCheckpoint` saves in the background and logs headline numbers.

    The report lies beside the checkpoint as `<name>.collapse.json`, or in it as `collapse.json` where it is a folder.
    The numbers go to every logger of the Trainer under the checkpoint's step. `rules` are globs over
    `<analyzer>/<metric>`. `stop_on` is the severity from which on a finding ends the training; with several processes
    they agree on that after each epoch. `wait` bounds the seconds that the end of the training waits for scans.

    Raises:
        InputError: Lightning is not installed, or something is asked for that does not exist.
    """

    def __init__(
        self,
        policy: Policy = Policy(),
        *,
        rules: Sequence[str] = HEADLINES,
        stop_on: str | None = None,
        options: ScanOptions = BESIDE,
        wait: float = WAIT,
    ) -> None:
        options = replace(options, ignore_sites=(*options.ignore_sites, *_NOT_OF_THE_MODEL))
        self._watch = Watch(policy, rules=rules, stop_on=stop_on, options=options)
        self._wait = wait
        self._step: int | None = None
        self._known: dict[Path, int] = {}

    def on_save_checkpoint(self, trainer: Any, _module: Any, _checkpoint: Any) -> None:
        """A checkpoint is about to be written; where to, its `ModelCheckpoint` says afterwards."""
        self._step = int(trainer.global_step)

    def on_train_batch_start(self, trainer: Any, _module: Any, _batch: Any, _index: int, *_: Any) -> None:
        """What was saved is handed over, what was scanned meanwhile is logged."""
        self._look(trainer)
        self._tell(trainer)
        if self._watch.is_over and trainer.world_size == 1:
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Any, _module: Any) -> None:
        """All processes agree whether to go on."""
        if self._watch.may_stop and trainer.strategy.reduce_boolean_decision(self._watch.is_over, all=False):
            trainer.should_stop = True

    def on_fit_end(self, trainer: Any, _module: Any) -> None:
        """The last checkpoint is written and loggers are still open: the scans that still run are waited for."""
        self._look(trainer)
        self._finish(trainer)

    @quietly
    def _look(self, trainer: Any) -> None:
        step, self._step = self._step, None
        if step is None or not trainer.is_global_zero:
            return
        for path in self._saved(trainer):
            self._watch.begin(path, step)

    def _saved(self, trainer: Any) -> list[Path]:
        """Checkpoints that are new since the last look; a copy of one under the name of the last is not one."""
        named, last = set[Path](), set[Path]()
        for callback in trainer.checkpoint_callbacks:
            best = (getattr(callback, "best_model_path", ""), *getattr(callback, "best_k_models", ()))
            named |= {Path(path).resolve() for path in best if path}
            last |= {Path(path).resolve() for path in (getattr(callback, "last_model_path", ""),) if path}
        new, copies = self._new(named), self._new(last)
        return new or copies

    def _new(self, paths: set[Path]) -> list[Path]:
        found = {path: path.stat().st_mtime_ns for path in paths if path.exists()}
        new = sorted(path for path, written in found.items() if self._known.get(path) != written)
        self._known |= found
        return new

    @quietly
    def _tell(self, trainer: Any) -> None:
        self._log(trainer, self._watch.news())

    @quietly
    def _finish(self, trainer: Any) -> None:
        self._log(trainer, self._watch.end(self._wait))

    @staticmethod
    def _log(trainer: Any, found: Sequence[Scanned]) -> None:
        for one in found:
            for logger in trainer.loggers:
                logger.log_metrics({**(one.scalars or {}), f"{PREFIX}/step": float(one.step)}, step=one.step)


@cache
def _callback() -> type:
    imported = tuple(name for name in _PACKAGES if sys.modules.get(name) is not None)
    base = first_of(imported or _PACKAGES, extra="lightning").Callback
    return type("CollapseCallback", (_Events, base), {"__doc__": _Events.__doc__, "__module__": __name__})


if TYPE_CHECKING:
    CollapseCallback = _Events
else:

    def __getattr__(name: str) -> Any:
        if name != "CollapseCallback":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _callback()
