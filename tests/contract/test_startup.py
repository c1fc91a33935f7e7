"""What starts without torch starts without torch: help without anything heavy, manuals and headers without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "sample_checkpoints"
BLOCKED_RUN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocker())
from collapse_cli.cli.app import run
code = run({arguments!r})
sys.stdout.flush()
sys.exit(code)
"""


def run_without(blocked: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    script = BLOCKED_RUN.format(blocked=blocked, arguments=list(arguments))
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["scan", "--help"], ["list", "-h"]], ids=" ".join)
def test_help_needs_nothing_heavy(arguments: list[str]) -> None:
    done = run_without(("torch", "numpy", "scipy", "pandas", "pydantic", "rich", "safetensors"), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "collapse" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["list"],
        ["list", "-f", "json", "--select", "spectrum"],
        ["explain", "effective-rank"],
        ["explain", "effective-rank/numerical_rank", "-f", "md"],
        ["schema"],
        ["inspect", str(SAMPLES / "rank_collapse.safetensors")],
        ["inspect", str(SAMPLES / "lightning.ckpt")],
        ["inspect", str(SAMPLES / "sharded"), "-f", "json"],
        ["inspect", str(SAMPLES / "lora_adapter"), "-f", "csv"],
    ],
    ids=lambda arguments: " ".join(Path(one).name for one in arguments),
)
def test_manuals_and_headers_need_no_torch(arguments: list[str]) -> None:
    done = run_without(("torch",), *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_a_selection_is_checked_before_torch_is_loaded() -> None:
    done = run_without(("torch",), "scan", "--select", "efective-rank", "x.safetensors")
    assert done.returncode == 2
    assert 'did you mean "effective-rank"?' in done.stderr


def test_importing_the_package_imports_nothing() -> None:
    script = "import collapse_cli, sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert not loaded & {"torch", "numpy", "pydantic", "rich", "typer", "pandas", "scipy"}
    ours = {name for name in json.loads(done.stdout) if name.startswith("collapse_cli")}
    assert ours == {"collapse_cli"}
