"""A scan at a terminal: the table in colour, as wide as the terminal, progress gone from it when it ends."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
from rich.cells import cell_len  # noqa: E402


def at_a_terminal(columns: int, *arguments: str, where: Path) -> str:
    """What `collapse` writes to a pseudo-terminal of that width."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"COLUMNS": str(columns), "TERM": "xterm", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "collapse_cli", *arguments]
    running = subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE, cwd=where, env=environment)
    os.close(theirs)
    chunks = []
    try:
        while chunk := os.read(ours, 65_536):
            chunks.append(chunk)
    except OSError:  # Linux: the other end is closed
        pass
    os.close(ours)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (1, b""), err
    return b"".join(chunks).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [40, 120])
def test_the_table_is_as_wide_as_the_terminal_and_coloured(tmp_path: Path, columns: int) -> None:
    save_file({"layers.0.mlp.up_proj.weight": torch.ones(32, 24)}, tmp_path / "bad.safetensors")
    text = at_a_terminal(columns, "scan", "bad.safetensors", "--select", "effective-rank", "-q", where=tmp_path)
    assert "\x1b[1;31m" in text
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()
    assert max(cell_len(line) for line in lines) <= columns
    assert lines[0] == "bad.safetensors"
    assert lines[-1].endswith("Exit 1.")
