"""The commands, and what happens to whatever they raise."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from collapse_cli._version import __version__
from collapse_cli.cli import (
    baseline,
    batch,
    config,
    diff,
    doctor,
    explain,
    gate,
    history,
    inspect,
    listing,
    report,
    scan,
    schema,
    trend,
)
from collapse_cli.cli.configured import ConfiguredCommand
from collapse_cli.cli.messages import plain, say_error
from collapse_cli.errors import CollapseError

__all__ = ["app", "run"]

#: 128 + SIGINT and 128 + SIGPIPE, as a shell reports them.
_INTERRUPTED, _CLOSED_PIPE = 130, 141
_CONTEXT = {"help_option_names": ["-h", "--help"]}


class _Commands(TyperGroup):
    """The group; a path where a command should stand gets the command that was probably meant."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0] if args else ""
        if word and word not in self.commands and (Path(word).exists() or os.sep in word):
            message = f'"{plain(word)}" is a path, not a command; did you mean: collapse scan {plain(word)}'
            say_error(message)
            raise typer.Exit(2)
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=_Commands,
    name="collapse",
    help="Has this saved model collapsed: where, how badly, why do you believe it, and what should I do?",
    context_settings=_CONTEXT,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_baseline = typer.Typer(
    help="Findings that are known and accepted as they are; from then on only worse ones count.",
    context_settings=_CONTEXT,
    rich_markup_mode=None,
)
_baseline.command("create", cls=ConfiguredCommand, context_settings=_CONTEXT)(baseline.create)
_baseline.command("prune", cls=ConfiguredCommand, context_settings=_CONTEXT)(baseline.prune)
_baseline.command("show", cls=ConfiguredCommand, context_settings=_CONTEXT)(baseline.show)

_config = typer.Typer(
    help="The configuration file: one to begin with, and what holds here.",
    context_settings=_CONTEXT,
    rich_markup_mode=None,
)
_config.command("init", context_settings=_CONTEXT)(config.init)
_config.command("show", cls=ConfiguredCommand, context_settings=_CONTEXT)(config.show)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"collapse {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - acts in its callback
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(2)


app.command("scan", cls=ConfiguredCommand, context_settings=_CONTEXT)(scan.scan)
app.command("diff", cls=ConfiguredCommand, context_settings=_CONTEXT)(diff.diff)
app.command("trend", cls=ConfiguredCommand, context_settings=_CONTEXT)(trend.trend)
app.command("batch", cls=ConfiguredCommand, context_settings=_CONTEXT)(batch.batch)
app.command("gate", cls=ConfiguredCommand, context_settings=_CONTEXT)(gate.gate)
app.add_typer(_baseline, name="baseline")
app.command("report", context_settings=_CONTEXT)(report.report)
app.command("inspect", context_settings=_CONTEXT)(inspect.inspect)
app.command("list", context_settings=_CONTEXT)(listing.list_analyzers)
app.command("explain", context_settings=_CONTEXT)(explain.explain)
app.command("history", context_settings=_CONTEXT)(history.history)
app.command("schema", context_settings=_CONTEXT)(schema.schema)
app.add_typer(_config, name="config")
app.command("doctor", context_settings=_CONTEXT)(doctor.doctor)


def _say_usage(error: Exception, message: str) -> None:
    """A usage error of the parser, in the form of all errors."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "collapse"
    say_error(message[:1].lower() + message[1:].rstrip("."), hint=f"`{command} --help` lists arguments and options")


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; never raises.

    130 is Ctrl-C, with every file already written whole. A closed pipe (`collapse scan … | head`) ends in silence.
    """
    try:
        code = app(list(arguments), prog_name="collapse", standalone_mode=False)
        sys.stdout.flush()
    except typer.Exit as stop:
        return int(stop.exit_code)
    except CollapseError as error:
        say_error(str(error), hint=error.hint)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except (BrokenPipeError, SystemExit) as gone:
        # Typer makes an exit with 1 of a closed pipe, which would mean "findings"
        if isinstance(gone, SystemExit) and not isinstance(gone.__context__, BrokenPipeError):
            return _exit_code(gone.code)
        # the reader has gone: what Python flushes at exit must go nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _CLOSED_PIPE
    except Exception as error:  # noqa: BLE001 - the last line of defence: exit 1 would mean "findings"
        wrong = getattr(error, "format_message", None)
        if callable(wrong):
            _say_usage(error, " ".join(str(wrong()).split()))
            return 2
        traceback.print_exc()
        say_error("this is a bug in collapse, not in your file; please report it with the lines above")
        return 2
    if code == _INTERRUPTED:
        say_error("interrupted")
    return code if isinstance(code, int) else 0


def _exit_code(given: object) -> int:
    """Whoever ends the process early says so with 0 or with an error; 1 is kept for findings."""
    return 0 if given in (None, 0) else 2
