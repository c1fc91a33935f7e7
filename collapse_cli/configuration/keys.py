"""The keys of a configuration file: one a flag, under the flag's name."""

from dataclasses import dataclass
from typing import Final, Literal, final

from collapse_cli.core.finding import Severity
from collapse_cli.core.policy import INTENTS

__all__ = ["KEYS", "TABLES", "Key", "Kind", "Table"]

Kind = Literal["text", "words", "switch", "integer", "seconds", "size", "file", "files", "analyzers"]


@final
@dataclass(frozen=True, slots=True)
class Key:
    """A key that stands for the flag of the same name: what its value is, and which values there are.

    `analyzers` are words that name analyzers, families or globs; `file` and `files` are paths relative to the
    configuration file; `choices` names a list of words where another part of the program knows them.
    """

    name: str
    kind: Kind
    says: str
    example: str
    choices: tuple[str, ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Table:
    """A table that is repeated, the keys it may have, and those it must have."""

    name: str
    keys: tuple[str, ...]
    required: tuple[str, ...]
    says: str


KEYS: Final = (
    Key(
        "intent",
        "text",
        "What the models are for; limits bound to an intent are judged only then.",
        '"language-model"',
        INTENTS,
    ),
    Key("select", "analyzers", "Analyzers, families, globs, or all.", '["spectrum", "non-finite", "attention-*"]'),
    Key("ignore", "analyzers", "The same, left out; wins over select.", '["power-law"]'),
    Key("fail-on", "text", "Findings from this severity on exit with 1.", '"error"', tuple(Severity)),
    Key("baseline", "file", "The accepted present state, see `collapse baseline`.", '"collapse-baseline.json"'),
    Key("exit-zero", "switch", "Exit 0 instead of 1.", "false"),
    Key("allow-partial", "switch", "A partial analysis does not exit with 2.", "false"),
    Key("sites", "words", "Only tensors and hook points of these names.", '["layers.*"]'),
    Key("ignore-sites", "words", "No tensors and hook points of these names.", '["*.lm_head.weight"]'),
    Key("include", "words", "Only these files of a folder.", '["*.safetensors"]'),
    Key("exclude", "words", "Not these files of a folder; wins over include.", '["*optimizer*"]'),
    Key("as", "text", "What the paths hold, where the content is not to decide.", '"dump"', ("checkpoint", "dump")),
    Key("map", "words", "Roles of tensors or arrays with foreign names.", '["codebook=vq.table"]'),
    Key("format", "text", "What stdout carries.", '"table"'),
    Key("output", "files", "Files that are written as well, format by suffix unless named.", '["collapse.json"]'),
    Key("all", "switch", "The table shows every measurement.", "false"),
    Key("show-suppressed", "switch", "Accepted and known findings are shown as well.", "false"),
    Key("detail", "text", "The table shows all that is known of these sites.", '"*.embed_tokens.weight"'),
    Key("sarif-anchor", "text", "Text file of the repository that SARIF results are placed on.", '"models/README.md"'),
    Key("category", "text", "Tells several SARIF uploads of one commit apart.", '"default"'),
    Key("color", "text", "When to colour.", '"auto"', ("auto", "always", "never")),
    Key("progress", "switch", "Progress on stderr.", "true"),
    Key("device", "text", "Where to measure: auto, cpu or cuda[:N].", '"auto"'),
    Key("max-memory", "size", "Most bytes of tensors held at once for one block.", '"4GiB"'),
    Key("timeout", "seconds", "Most seconds for one subject.", "600.0"),
    Key("seed", "integer", "Of everything random; recorded.", "0"),
    Key("no-plugins", "switch", "No third-party analyzers.", "false"),
)

TABLES: Final = (
    Table(
        "limits",
        ("rule", "sites", "warn", "error", "source"),
        ("rule", "source"),
        "limits of your own; later entries win, the side is the metric's and cannot be turned",
    ),
    Table(
        "accept",
        ("rule", "subjects", "sites", "reason", "until"),
        ("rule", "reason", "until"),
        "findings that are known and accepted, up to a day",
    ),
    Table(
        "compare.rules",
        ("rule", "sites", "tolerance"),
        ("rule", "tolerance"),
        "rules that may get worse by another share from release to release, or are not compared (false)",
    ),
)
