"""`collapse config`: a commented configuration to begin with, and what holds here and why."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from collapse_cli.cli import options as flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from collapse_cli.configuration import Configuration

__all__ = ["init", "show"]


def init() -> int:
    """Write a commented collapse.toml into the working directory; one that is there is never touched."""
    from collapse_cli.cli.messages import say
    from collapse_cli.configuration import NAME
    from collapse_cli.configuration.template import template
    from collapse_cli.errors import BadPolicy

    try:
        with Path(NAME).open("x", encoding="utf-8", newline="\n") as stream:
            stream.write(template())
    except FileExistsError as error:
        raise BadPolicy(f"{NAME} is there already", hint="`collapse config show` says what it comes to") from error
    except OSError as error:
        raise BadPolicy(f'cannot write "{NAME}"', got=error.strerror or str(error)) from error
    say(f"wrote {NAME}; `collapse config show` says what holds")
    return 0


def show(
    context: typer.Context,
    format: Annotated[  # noqa: A002 - the flag's name
        str, typer.Option("-f", "--format", metavar="FORMAT", help="toml or json.")
    ] = "toml",
    config: flags.Config = None,
    isolated: flags.Isolated = False,
    no_plugins: flags.NoPlugins = False,
) -> int:
    """Show what holds here for `collapse gate`: every value and whether a variable, a file or the default gave it."""
    from collapse_cli.cli.output import write_text
    from collapse_cli.cli.request import choice

    del config, isolated, no_plugins  # they acted when the configuration was found
    choice("--format", format, ("toml", "json"))
    values = dict(_values(context.obj))
    if format == "json":
        write_text(json.dumps(_record(context.obj, values), indent=2, ensure_ascii=False) + "\n", is_machine=True)
    else:
        write_text("\n".join(_lines(context.obj, values)) + "\n", is_machine=False)
    return 0


def _values(given: "Configuration") -> "Iterator[tuple[str, tuple[Any, str]]]":
    """Key → effective value and its origin, as the flags of `gate` would have them."""
    from typer.main import get_command

    from collapse_cli.cli.app import app
    from collapse_cli.cli.configured import keys_of
    from collapse_cli.configuration.keys import KEYS

    root: Any = get_command(app)
    command = root.commands["gate"]
    parameters = {one.name: one for one in command.params}
    keys = keys_of(command)
    # no arguments are parsed: nothing but variables, the file and the defaults speaks here
    context = command.context_class(command, info_name="gate")
    for key in KEYS:
        parameter = parameters[keys[key.name]]
        variable = parameter.value_from_envvar(context)
        if variable is not None:
            yield key.name, (parameter.type_cast_value(context, variable), parameter.envvar)
        elif key.name in given.values:
            line = given.lines.get(key.name)
            yield key.name, (given.values[key.name], f"{given.file}, line {line}")
        else:
            yield key.name, (parameter.get_default(context), "default")


def _record(given: "Configuration", values: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "file": None if given.file is None else given.file.as_posix(),
        "digest": given.digest,
        "values": {name: {"value": value, "origin": origin} for name, (value, origin) in values.items()},
        "limits": [asdict(one) for one in given.limits],
        "accept": [asdict(one) for one in given.accepted],
        "compare": asdict(given.comparison),
    }


def _lines(given: "Configuration", values: dict[str, tuple[Any, str]]) -> "Iterator[str]":
    from dataclasses import asdict

    yield f"# {given.file} ({given.digest})" if given.file else "# no configuration file is in force"
    for name, (value, origin) in values.items():
        is_set = value not in (None, (), [])
        text = f"{name} = {_toml(value)}" if is_set else f"# {name}: none"
        yield f"{text:<40}  # {origin}"
    yield ""
    yield "[compare]"
    origin = "default" if given.file is None or "compare" not in given.lines else str(given.file)
    yield f"{f'tolerance = {given.comparison.tolerance}':<40}  # {origin}"
    entries: dict[str, tuple[Any, ...]] = {
        "compare.rules": given.comparison.rules,
        "limits": given.limits,
        "accept": given.accepted,
    }
    for table, found in entries.items():
        for entry in found:
            yield ""
            yield f"[[{table}]]  # {given.file}"
            yield from (f"{key} = {_toml(value)}" for key, value in asdict(entry).items() if value not in (None, ()))


def _toml(value: Any) -> str:
    # strings, lists, numbers and booleans of JSON are TOML
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
