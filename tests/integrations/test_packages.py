"""Packages are imported when they are used, and named with the pip command where they are missing."""

import subprocess
import sys
import textwrap

import pytest

from collapse_cli.errors import InputError
from collapse_cli.integrations.packages import first_of, required

FOREIGN = ("transformers", "lightning", "pytorch_lightning", "wandb", "mlflow", "tensorboard", "tensorboardX")


def run_blocked(blocked: tuple[str, ...], program: str) -> str:
    """What a program prints in a process that cannot import certain packages."""
    blocker = f"import sys\nfor name in {blocked!r}: sys.modules[name] = None\n"
    done = subprocess.run(
        [sys.executable, "-c", blocker + textwrap.dedent(program)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_is_imported_without_the_programs_it_is_for() -> None:
    program = """
        import importlib, pkgutil, collapse_cli.integrations as package
        for found in pkgutil.iter_modules(package.__path__):
            print(importlib.import_module(f"collapse_cli.integrations.{found.name}").__name__)
    """
    assert len(run_blocked((*FOREIGN, "torch"), program).split()) >= 9


@pytest.mark.parametrize(
    ("use", "packages", "extra"),
    [
        ("from collapse_cli.integrations.huggingface import CollapseCallback", "transformers", "huggingface"),
        ("from collapse_cli.integrations.lightning import CollapseCallback",
         "lightning or pytorch_lightning", "lightning"),
        ("from collapse_cli.integrations.tensorboard import write; write(None, 'x', step=0)",
         "tensorboardX or tensorboard", "tensorboard"),
        ("from collapse_cli.integrations.wandb import write; write(None, step=0)", "wandb", "wandb"),
        ("from collapse_cli.integrations.mlflow import write; write(None, step=0)", "mlflow", "mlflow"),
    ],
)  # fmt: skip
def test_a_missing_package_is_named_with_what_to_install(use: str, packages: str, extra: str) -> None:
    program = f"""
        from collapse_cli.errors import InputError
        try:
            {use.replace("; ", chr(10) + " " * 12)}
        except InputError as error:
            print(error, error.hint, sep="|")
    """
    said = run_blocked((*FOREIGN, "torch"), program).strip()
    assert said == f'{packages} is not installed|pip install "collapse-cli[{extra}]"'


def test_the_first_that_is_installed_is_taken() -> None:
    assert first_of(("no_such_package.inner", "json"), extra="x").__name__ == "json"
    with pytest.raises(InputError, match="no_such_package is not installed"):
        required("no_such_package.inner", extra="x")


def test_a_broken_package_keeps_its_own_error(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_installed.py").write_text("import what_it_needs_is_missing")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="what_it_needs"):
        required("half_installed", extra="x")
