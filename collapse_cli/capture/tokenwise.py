"""Rows per token instead of per sample: logits of routers, and of language models for the next token."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from torch import Tensor

from collapse_cli.capture.batches import Inputs
from collapse_cli.capture.watching import Pass
from collapse_cli.core.roles import join_name

__all__ = ["REPEATED", "TokenRows", "next_tokens", "routed_tokens"]

#: Annotations of a sample that hold for each of its tokens.
REPEATED = ("labels", "groups")


@final
@dataclass(frozen=True, slots=True)
class TokenRows:
    """Arrays of one site, samples × tokens × anything, of which every real token becomes a row."""

    site: str
    arrays: Mapping[str, Tensor]
    mask: Tensor | None

    def rows(self, notes: Mapping[str, Tensor], samples: int | None) -> dict[str, Tensor]:
        """The rows of the first `samples` samples by the name of their array, with the notes of their samples."""
        first = next(iter(self.arrays.values()))
        repeated = {
            role: notes[role][:, None].expand(-1, first.shape[1])
            for role in REPEATED
            if role in notes and role not in self.arrays and notes[role].dim() == 1
        }
        return {
            join_name(self.site, role): self._real(array[:samples], samples)
            for role, array in {**self.arrays, **repeated}.items()
        }

    def _real(self, array: Tensor, samples: int | None) -> Tensor:
        if self.mask is None:
            return array.flatten(0, 1)
        return array[self.mask[:samples].to(array.device)]


def routed_tokens(current: Pass) -> Iterable[TokenRows]:
    """What the routers gave in a pass; one that runs several times gives sites by the number of the call."""
    mask = None if current.inputs is None else current.inputs.mask
    for name, calls in current.routed.items():
        for number, taken in enumerate(calls):
            is_per_token = mask is not None and taken["router_logits"].shape[1] == mask.shape[1]
            site = name if len(calls) == 1 else f"{name}#call={number}"
            yield TokenRows(site, taken, mask if is_per_token else None)


def next_tokens(logits: Any, inputs: Inputs) -> TokenRows | None:
    """The logits of a language model for each next token that is known, labelled with it; None if it gives no such."""
    ids = inputs.named.get("input_ids", next(iter(inputs.args), None))
    if not isinstance(logits, Tensor) or not isinstance(ids, Tensor) or ids.is_floating_point():
        return None
    if logits.dim() != 3 or logits.shape[:2] != ids.shape or ids.shape[1] < 2:
        return None
    mask = None if inputs.mask is None else inputs.mask[:, 1:] & inputs.mask[:, :-1]
    return TokenRows("next_token", {"logits": logits[:, :-1], "labels": ids[:, 1:]}, mask)
