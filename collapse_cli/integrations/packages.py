"""The packages that integrations are for, imported when they are used."""

from importlib import import_module
from types import ModuleType

from collapse_cli.errors import InputError

__all__ = ["first_of", "required"]


def required(name: str, *, extra: str) -> ModuleType:
    """The module.

    Raises:
        InputError: its package is not installed; one that is installed and broken keeps its own error.
    """
    return first_of((name,), extra=extra)


def first_of(names: tuple[str, ...], *, extra: str) -> ModuleType:
    """The first of several modules that is installed.

    Raises:
        InputError: none is.
    """
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            # what an installed package misses is its own affair
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise
    packages = list(dict.fromkeys(name.partition(".")[0] for name in names))
    raise InputError(f"{' or '.join(packages)} is not installed", hint=f'pip install "collapse-cli[{extra}]"')
