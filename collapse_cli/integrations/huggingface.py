"""`CollapseCallback` for the Trainer of transformers: every checkpoint it saves is scanned beside the training.

```python
trainer = Trainer(model, arguments, train_dataset=data)
trainer.add_callback(CollapseCallback(log=trainer.log, stop_on="error"))
```

Importing this module does not import transformers; the class is made when it is first asked for (PEP 562).
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapse_cli.core.policy import Policy
from collapse_cli.integrations.background import BESIDE, WAIT, Watch, quietly
from collapse_cli.integrations.packages import required
from collapse_cli.integrations.scalars import HEADLINES, PREFIX
from collapse_cli.runs import ScanOptions

__all__ = ["CollapseCallback"]

#: What only the last entry of the Trainer's log has.
_SUMMARY = "train_runtime"


class _Events:
    """Scans each saved checkpoint in the background, writes `collapse.json` into its folder, logs headline numbers.

    `log` is where they go, besides into `state.log_history`: `trainer.log` gives them to every logger of the Trainer,
    under the step at which they are known, with that of the checkpoint as `collapse/step`. `rules` are globs over
    `<analyzer>/<metric>`. `stop_on` is the severity from which on a finding ends the training; with several processes
    they agree on that at the next checkpoint. `wait` bounds the seconds that the end of the training waits for scans.

    Raises:
        InputError: transformers is not installed, or something is asked for that does not exist.
    """

    def __init__(
        self,
        policy: Policy = Policy(),
        *,
        rules: Sequence[str] = HEADLINES,
        stop_on: str | None = None,
        log: Callable[[dict[str, float]], None] | None = None,
        options: ScanOptions = BESIDE,
        wait: float = WAIT,
    ) -> None:
        self._watch = Watch(policy, rules=rules, stop_on=stop_on, options=options)
        self._log, self._wait = log, wait

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """A checkpoint lies in its folder: it is handed over, and all processes agree whether to go on."""
        self._hand_over(args, state)
        if self._watch.may_stop and _is_agreed(self._watch.is_over, args):
            control.should_training_stop = True
        return control

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        """What was scanned meanwhile is logged.

        Here, not at the end of a step: logging takes back the Trainer's own wish to log, which it has there.
        """
        self._tell(state, 0.0)
        if self._watch.is_over and args.world_size == 1:
            control.should_training_stop = True
        return control

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """The summary is the last that loggers are sure to be open for: the scans that still run are waited for."""
        if logs is not None and _SUMMARY in logs:
            self._tell(state, self._wait)

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """For trainers without a summary."""
        self._tell(state, self._wait)

    @quietly
    def _hand_over(self, args: Any, state: Any) -> None:
        if not state.is_world_process_zero:
            return
        folders = [Path(args.output_dir), Path(args.output_dir) / (getattr(state, "trial_name", None) or "")]
        name = f"checkpoint-{state.global_step}"
        found = next((folder / name for folder in folders if (folder / name).is_dir()), folders[0] / name)
        self._watch.begin(found, state.global_step)

    @quietly
    def _tell(self, state: Any, wait: float) -> None:
        for one in self._watch.end(wait) if wait else self._watch.news():
            logged = {**(one.scalars or {}), f"{PREFIX}/step": float(one.step)}
            if self._log is None:
                state.log_history.append({**logged, "step": state.global_step})
            else:
                self._log(logged)


def _is_agreed(is_over: bool, args: Any) -> bool:
    """Whether the first process, which is the one that scans, says that the training is over; all stop together."""
    if args.world_size == 1:
        return is_over
    import torch

    said = torch.tensor([int(is_over)], device=args.device)
    torch.distributed.broadcast(said, src=0)
    return bool(said.item())


@cache
def _callback() -> type:
    base = required("transformers", extra="huggingface").TrainerCallback
    return type("CollapseCallback", (_Events, base), {"__doc__": _Events.__doc__, "__module__": __name__})


if TYPE_CHECKING:
    CollapseCallback = _Events
else:

    def __getattr__(name: str) -> Any:
        if name != "CollapseCallback":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _callback()
