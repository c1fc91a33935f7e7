"""`collapse doctor`: what this installation is made of, and whether it works."""

import platform
import sys

from collapse_cli._version import __version__
from collapse_cli.cli import options as flags

__all__ = ["doctor"]

_PACKAGES = ("torch", "numpy", "scipy", "pandas", "safetensors", "pydantic", "rich", "typer", "jaxtyping", "xxhash")


def doctor(no_plugins: flags.NoPlugins = False) -> int:
    """Show versions, devices, analyzers, plugins and configuration, and why one failed. Exit 2 if a part is broken."""
    from collapse_cli.cli.output import write_text

    lines = [f"collapse     {__version__}", f"python       {platform.python_version()} ({sys.executable})"]
    lines.append(f"platform     {platform.platform()}")
    broken = 0
    for package in _PACKAGES:
        version = _version(package)
        broken += version is None
        lines.append(f"{package:<12} {version or 'missing: pip install ' + package}")
    device_lines, devices_failed = _devices()
    lines += device_lines
    broken += devices_failed
    analyzer_lines, analyzers_failed = _analyzers(plugins=not no_plugins)
    lines += analyzer_lines
    broken += analyzers_failed
    said, is_wrong = _configuration()
    lines.append(said)
    broken += is_wrong
    write_text("\n".join(lines) + "\n", is_machine=False)
    return 2 if broken else 0


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _devices() -> tuple[list[str], int]:
    try:
        import torch
    except Exception as error:  # noqa: BLE001 - a broken installation is what a doctor is for
        return [f"devices      torch does not import: {type(error).__name__}: {error}"], 1
    lines = [f"device       cpu, {torch.get_num_threads()} threads"]
    if not torch.cuda.is_available():
        return [*lines, "device       no CUDA device"], 0
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        lines.append(f"device       cuda:{index} {properties.name}, {properties.total_memory / 2**30:.1f} GiB")
    return lines, 0


def _analyzers(*, plugins: bool) -> tuple[list[str], int]:
    from collapse_cli.analyzers import catalogue
    from collapse_cli.cli.messages import plain

    available = catalogue(plugins=plugins)
    families = {analyzer.manual.family for analyzer in available.analyzers}
    lines = [f"analyzers    {len(available.analyzers)} in {len(families)} families"]
    lines += [f"plugin       {plain(origin)}" for origin in available.plugins]
    lines += [f"plugin       {plain(name)}: failed: {plain(why)}" for name, why in available.broken.items()]
    return lines, len(available.broken)


def _configuration() -> tuple[str, bool]:
    from collapse_cli.cli.configured import configuration
    from collapse_cli.cli.messages import plain
    from collapse_cli.errors import BadPolicy

    try:
        given = configuration(None)
    except BadPolicy as error:
        return f"configured   {plain(str(error))}", True
    return f"configured   by {plain(str(given.file)) if given.file else 'no file: flags and variables only'}", False
