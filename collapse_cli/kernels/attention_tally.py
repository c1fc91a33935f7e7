"""What became of the rows of attention that went by: counted, and refused where too many are no distributions."""

from dataclasses import dataclass
from typing import final

from collapse_cli.errors import BadValues
from collapse_cli.kernels.attention_maps import LEAST_ROWS, AttentionMaps

__all__ = ["AttentionTally"]

#: Share of rows that may fail to sum to one before nothing is said of the others: convention of this tool.
_MOST_WRONG = 0.01


@final
@dataclass(slots=True)
class AttentionTally:
    """Counts of rows (one of every sequence, head and query) and of sequences.

    `rows` are used. Left out are `empty` ones (zeros, NaN, infinity, or all on leading tokens), `wrong` ones (negative
    or not summing to one) and, where entropies are meant, `single` ones that see one key. `short` sequences have fewer
    than eight queries that are real.
    """

    sequences: int = 0
    short: int = 0
    rows: int = 0
    empty: int = 0
    wrong: int = 0
    single: int = 0
    most_keys: int = 0

    def add(self, maps: AttentionMaps) -> None:
        """Counts one pass."""
        self.sequences += maps.entropy.shape[0]
        self.short += int(((maps.visible > 0).sum(1) < LEAST_ROWS).sum())
        self.rows += int(maps.is_valid.sum())
        self.empty += maps.empty
        self.wrong += maps.wrong
        self.single += int((maps.is_valid & (maps.visible == 1)[:, None]).sum())
        self.most_keys = max(self.most_keys, int(maps.visible.max()) if maps.visible.numel() else 0)

    def merge(self, other: "AttentionTally") -> None:
        """Adds the counts of other sequences."""
        for name in ("sequences", "short", "rows", "empty", "wrong", "single"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.most_keys = max(self.most_keys, other.most_keys)

    def check(self) -> None:
        """Nothing, where the rows are what attention is.

        Raises:
            BadValues: more than 1 % of the rows do not sum to one, or have negative entries.
        """
        judged = self.rows + self.wrong
        if self.wrong > _MOST_WRONG * judged:
            raise BadValues(
                "the weights of every query should not be negative and sum to one over the keys that it may see",
                got=f"{self.wrong:,} of {judged:,} rows are not",
                hint="store the attention after its softmax, and say in the metadata whether it is causal",
            )

    def evidence(self) -> dict[str, int]:
        """The counts that are not zero, for a reader."""
        named = {"short_sequences": self.short, "empty_rows": self.empty, "wrong_rows": self.wrong}
        return {"rows": self.rows, **{name: count for name, count in named.items() if count}}
