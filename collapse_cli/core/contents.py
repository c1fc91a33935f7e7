"""What headers say is in a checkpoint, without a single number read."""

from dataclasses import dataclass
from typing import final

from collapse_cli.core.report import Skip
from collapse_cli.core.site import Site

__all__ = ["Contents"]


@final
@dataclass(frozen=True, slots=True)
class Contents:
    """The inventory of one subject: its stored tensors with layer and role, and what cannot be read and why."""

    id: str
    path: str
    format: str
    bytes: int
    sites: tuple[Site, ...]
    unreadable: tuple[Skip, ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Entries of all floating tensors."""
        return sum(site.numel for site in self.sites if site.is_floating)

    @property
    def layers(self) -> int:
        """How many layers the names count."""
        return len({site.layer for site in self.sites if site.layer is not None})
