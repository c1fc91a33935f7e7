"""A command whose flags take from the configuration file what neither the command line nor a variable says."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from collapse_cli.configuration import Configuration

__all__ = ["ConfiguredCommand", "choices", "configuration", "keys_of"]


class ConfiguredCommand(TyperCommand):
    """Finds the configuration before anything else is understood, and makes its values the defaults of the flags."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse twice, the first time to see which file is meant; help and completion need none."""
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        if not ctx.resilient_parsing and not any(parameter.name == "help" for parameter in order):
            ctx.obj = self._configuration(ctx, given)
            keys = keys_of(self)
            ctx.default_map = {keys[key]: value for key, value in ctx.obj.values.items() if key in keys}
        rest: list[str] = super().parse_args(ctx, args)
        return rest

    def _configuration(self, ctx: Any, given: dict[str, Any]) -> "Configuration":
        def asked(name: str, *, by_flag: bool = False) -> Any:
            parameter = next(one for one in self.params if one.name == name)
            value = given.get(name)
            if value is None and not by_flag:
                value = parameter.value_from_envvar(ctx)
            return parameter.type_cast_value(ctx, value)

        by_flag = asked("config", by_flag=True), asked("isolated", by_flag=True)
        if all(by_flag):
            from collapse_cli.errors import BadPolicy

            raise BadPolicy("--config and --isolated contradict each other", hint="leave one of them out")
        file, is_isolated = by_flag if any(by_flag) else (asked("config"), asked("isolated"))
        return configuration(file, is_isolated=bool(is_isolated), plugins=not asked("no_plugins"))


def keys_of(command: Any) -> dict[str, str]:
    """Key of the configuration file → name of the parameter, for every option that has a variable of that name.

    Without one it is an option of another meaning: the `-o` of `baseline create` is no report.
    """
    longs = ((one, word.removeprefix("--")) for one in command.params for word in one.opts if word.startswith("--"))
    return {key: one.name for one, key in longs if one.envvar == "COLLAPSE_" + key.upper().replace("-", "_")}


def configuration(file: str | None, *, is_isolated: bool = False, plugins: bool = True) -> "Configuration":
    """The configuration in force: the file named, or the nearest one upwards from here; none when isolated.

    Raises:
        BadPolicy: it cannot be read, or has mistakes; all of them are named.
    """
    from collapse_cli.configuration import Configuration, Known, document, nearest, understood

    if is_isolated:
        return Configuration()
    found = nearest(Path.cwd()) if file is None else document(Path(file))
    if found is None:
        return Configuration()
    # only now: a file names rules, and the manuals say which there are
    from collapse_cli.analyzers import catalogue

    available = catalogue(plugins=plugins and found.table.get("no-plugins") is not True)
    manuals = tuple(analyzer.manual for analyzer in available.analyzers)
    return understood(found, Known(manuals, tuple(available.broken), choices()))


def choices() -> "Mapping[str, Sequence[str]]":
    """Words that keys may have and that the configuration does not know itself."""
    from collapse_cli.render import FORMATS

    return {"format": FORMATS}
