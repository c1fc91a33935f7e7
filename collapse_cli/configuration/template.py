"""The file that `collapse config init` writes: every key, commented out, with what it means."""

from collapse_cli.configuration.keys import KEYS, TABLES
from collapse_cli.core.policy import RATCHET

__all__ = ["template"]

_EXAMPLES = {
    "limits": (
        'rule = "effective-rank/effective_rank_sigma"',
        'sites = ["*.embed_tokens.weight"]    # absent: every site',
        "warn = 0.20",
        "error = false                        # never an error here",
        'source = "vocabulary of 2,000 in 4,096 dimensions, run 7"',
    ),
    "accept": (
        'rule = "dead-units/*"',
        'subjects = ["models/tts-*"]          # absent: every subject',
        'sites = ["*.embed_tokens.weight"]    # absent: every site',
        'reason = "padding row is zero by design"',
        "until = 2027-01-01                   # afterwards the finding is back, with a warning",
    ),
    "compare.rules": (
        'rule = "power-law/*"',
        "tolerance = false",
    ),
}


def template() -> str:
    """A configuration that changes nothing; with the `#` before a key gone it is an example."""
    lines = [
        "# What `collapse` asks of your models. The nearest collapse.toml upwards from the working directory holds.",
        "# Paths are relative to this file. A flag beats its variable (COLLAPSE_…), which beats this file.",
        "# `collapse config show` says what holds and why, `collapse schema config` is for your editor.",
        "",
    ]
    for key in KEYS:
        allowed = f" One of {', '.join(key.choices)}." if key.choices else ""
        lines += [f"# {key.says}{allowed}", f"# {key.name} = {key.example}", ""]
    for table in TABLES:
        if table.name == "compare.rules":
            lines += [
                "# `collapse gate --compare OLD.json`: by what share a metric may get worse from release to release."
            ]
            lines += ["# [compare]", f"# tolerance = {RATCHET}", ""]
        lines += [f"# {table.says[:1].upper()}{table.says[1:]}.", f"# [[{table.name}]]"]
        lines += [f"# {line}" for line in _EXAMPLES[table.name]]
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"
