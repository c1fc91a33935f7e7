"""Every error that `collapse` raises on purpose, in one place.

```
CollapseError
├── InputError              exit 2: nothing (more) of this input can be analysed
│   ├── UnreadableCheckpoint    the bytes are not the checkpoint they claim to be
│   ├── UnsafeCheckpoint        reading it would mean executing it
│   ├── UnreadableDump          the arrays are not a dump
│   ├── UnknownAnalyzer         a selection names nothing
│   ├── UnknownTensor           a pattern names no site
│   └── BadPolicy               a configuration file or flag contradicts itself
└── AnalysisError           the run goes on; the subject becomes partial
    ├── NotFinite               a quantity overflowed
    ├── BadValues               numbers that cannot be what they are said to be
    ├── NotConverged            an iteration did not end
    ├── OutOfMemory             the device and the CPU were both too small
    ├── TimedOut                the time given to a subject ran out
    └── WorkerDied              the process that measured a subject was killed
```

A message has five parts: where, what, expected, got, and a hint that says what to do. They are joined as

    cannot read runs/7/model.safetensors: tensor "layers.3.w" should end at byte 4,194,304, the file ends at 4,100,000
      hint: the file is truncated; copy it again

Anything that is not a `CollapseError` is a bug and keeps its traceback.
"""

from typing import ClassVar, final

__all__ = [
    "AnalysisError",
    "BadPolicy",
    "BadValues",
    "CollapseError",
    "InputError",
    "NotConverged",
    "NotFinite",
    "OutOfMemory",
    "TimedOut",
    "UnknownAnalyzer",
    "UnknownTensor",
    "UnreadableCheckpoint",
    "UnreadableDump",
    "UnsafeCheckpoint",
    "WorkerDied",
]


class CollapseError(Exception):
    """Anything `collapse` raises on purpose; `str()` is one sentence, `hint` is what to do about it."""

    exit_code: ClassVar[int] = 2
    opening: ClassVar[str] = "{where}: "

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        expected: str = "",
        got: str = "",
        hint: str = "",
    ) -> None:
        self.what, self.where, self.expected, self.got, self.hint = what, where, expected, got, hint
        super().__init__(what)

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuilt, (type(self), self.what, self.where, self.expected, self.got, self.hint))

    def __str__(self) -> str:
        opening = self.opening.format(where=self.where) if self.where else ""
        sentence = " ".join(part for part in (self.what, self.expected) if part)
        return opening + ", ".join(part for part in (sentence, self.got) if part)


def _rebuilt(kind: type[CollapseError], what: str, where: str, expected: str, got: str, hint: str) -> CollapseError:
    return kind(what, where=where, expected=expected, got=got, hint=hint)


class InputError(CollapseError):
    """Nothing (more) of this input can be analysed."""


@final
class UnreadableCheckpoint(InputError):
    """The bytes are not the checkpoint they claim to be."""

    opening = "cannot read {where}: "


@final
class UnsafeCheckpoint(InputError):
    """Reading it would mean executing it; nothing was executed."""

    opening = "{where}: unsafe pickle: "


@final
class UnreadableDump(InputError):
    """The arrays are not a dump."""

    opening = "cannot read {where}: "


@final
class UnknownAnalyzer(InputError):
    """A selection names no analyzer, family or pattern."""


@final
class UnknownTensor(InputError):
    """A pattern names no site."""


@final
class BadPolicy(InputError):
    """A configuration file or a flag is wrong; all mistakes are reported together."""


class AnalysisError(CollapseError):
    """Tried, could not; the run goes on and the subject becomes partial."""


@final
class NotFinite(AnalysisError):
    """A quantity that must be finite is not."""


@final
class BadValues(AnalysisError):
    """Numbers that cannot be what their role says: a code beyond the codebook, attention that does not sum to one."""


@final
class NotConverged(AnalysisError):
    """An iteration did not end within its steps."""


@final
class OutOfMemory(AnalysisError):
    """The device and the CPU were both too small for one site."""


@final
class TimedOut(AnalysisError):
    """The time given to a subject ran out."""


@final
class WorkerDied(AnalysisError):
    """The process that measured a subject was killed, or ended by itself, more often than it is begun again."""
