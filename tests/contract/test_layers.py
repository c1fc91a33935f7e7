"""The layer rule is kept, and the test of it fails when the rule is broken."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: A line added to a file, and the contract it breaks.
BREAKS = {
    "upwards": ("core/site.py", "import collapse_cli.judge", "layers"),
    "sideways": ("judge.py", "import collapse_cli.sources", "layers"),
    "torch in a renderer": ("render/md_format.py", "import torch", "torch-free"),
    "torch behind another module": ("judge.py", "import collapse_cli.kernels.spectrum", "torch-free"),
    "analyzer to analyzer": (
        "analyzers/spectrum/stable_rank.py",
        "import collapse_cli.analyzers.spectrum.effective_rank",
        "independence",
    ),
}


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.fail("import-linter is not installed: pip install -e '.[check]'")
    command = [str(program), "--config", str(folder / "pyproject.toml"), "--no-cache"]
    environment = {"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "collapse_cli", tmp_path / "collapse_cli", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_every_contract_is_kept(copy: Path) -> None:
    result = linted(copy)
    assert result.returncode == 0, result.stdout
    assert "3 kept, 0 broken" in result.stdout


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_rule_is_seen(copy: Path, name: str) -> None:
    file, line, contract = BREAKS[name]
    place = copy / "collapse_cli" / file
    place.write_text(place.read_text(encoding="utf-8") + f"\n{line}\n", encoding="utf-8")
    result = linted(copy)
    assert result.returncode == 1, result.stdout
    assert any(row.startswith(contract) and row.endswith("BROKEN") for row in result.stdout.splitlines()), result.stdout
