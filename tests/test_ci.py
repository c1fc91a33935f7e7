"""What CI systems run, run: the step of the Action, the hooks, the job of GitLab; and what a container is built of."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import junitparser
import pytest
import yaml

from collapse_cli.cli.app import app
from collapse_cli.core.report import from_json
from tests.sarif import violations

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "sample_checkpoints"
GUIDE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
MANIFEST = ROOT / ".pre-commit-hooks.yaml"
Run = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="runners have bash")


def installed(folder: Path) -> dict[str, str]:
    """An environment as a runner gives it, with a `pip install` that only notes what it was asked for."""
    programs = folder / "programs"
    programs.mkdir()
    scripts = {
        "collapse": f'exec "{sys.executable}" -m collapse_cli "$@"',
        "python": f'printf "%s\\n" "$*" >> "{folder}/installed"',
        "pip": f'printf "%s\\n" "$*" >> "{folder}/installed"',
    }
    for name, body in scripts.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("COLLAPSE_", "GITHUB_"))}
    return kept | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": path_of_the_package(kept)}


def path_of_the_package(environment: dict[str, str]) -> str:
    return os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH", ""))))


@pytest.fixture
def action(tmp_path: Path) -> Run:
    """The run step of the Action, as GitHub calls it: bash -eo pipefail on a file, inputs and summary in variables."""
    work, commands = tmp_path / "repository", tmp_path / "_runner_file_commands"
    work.mkdir()
    commands.mkdir()
    summary = commands / "step_summary_1"
    summary.touch()
    (step,) = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
    script = tmp_path / "step.sh"
    script.write_text(step["run"])
    environment = installed(tmp_path) | {"GITHUB_ACTIONS": "true", "CI": "true", "GITHUB_STEP_SUMMARY": str(summary)}

    def run(paths: str, command: str = "scan", version: str = "") -> subprocess.CompletedProcess[str]:
        inputs = {"CMD": command, "PATHS": paths, "VERSION": version}
        assert set(step["env"]) == set(inputs)
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=work, env=environment | inputs, capture_output=True, encoding="utf-8", timeout=120, check=False,
        )  # fmt: skip

    return run


def sample(name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(SAMPLES / name, target)


def test_the_action_annotates_the_run_writes_its_summary_and_fails_it(action: Run, tmp_path: Path) -> None:
    work = tmp_path / "repository"
    sample("rank_collapse.safetensors", work / "models" / "a.safetensors")
    done = action("models --select effective-rank", version="==0.3.0")
    assert done.returncode == 1, done.stderr
    assert (tmp_path / "installed").read_text() == "-m pip install collapse-cli==0.3.0\n"
    assert done.stdout
    assert all(line.startswith(("::error title=", "::warning title=")) for line in done.stdout.splitlines())
    assert ",file=models/a.safetensors,line=1::" in done.stdout
    log = json.loads((work / "collapse.sarif").read_text(encoding="utf-8"))
    assert violations(log) == []
    places = [one["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for one in log["runs"][0]["results"]]
    assert set(places) == {"models/a.safetensors"}
    assert from_json((work / "collapse.json").read_text(encoding="utf-8")).exit_code == 1
    summary = (tmp_path / "_runner_file_commands" / "step_summary_1").read_text(encoding="utf-8")
    assert summary.startswith("## collapse: Fail: ")
    judged = action("collapse.json --fail-on error", command="gate")
    assert (judged.returncode, judged.stdout) == (1, done.stdout)


def test_a_healthy_model_passes_the_action_in_silence(action: Run, tmp_path: Path) -> None:
    sample("healthy_mlp.safetensors", tmp_path / "repository" / "a.safetensors")
    done = action("*.safetensors --select effective-rank")
    assert (done.returncode, done.stdout) == (0, "")
    assert (tmp_path / "installed").read_text() == "-m pip install collapse-cli\n"


def test_inputs_of_the_action_are_words_and_never_script(action: Run, tmp_path: Path) -> None:
    assert "${{" not in (tmp_path / "step.sh").read_text()
    done = action("x.safetensors; touch stolen $(touch stolen) `touch stolen`", version="; touch stolen")
    assert done.returncode == 2
    assert not list(tmp_path.rglob("stolen"))


def test_the_environment_of_a_runner_changes_no_format(tmp_path: Path) -> None:
    sample("healthy_mlp.safetensors", tmp_path / "a.safetensors")
    summary = tmp_path / "summary"
    summary.touch()
    outputs = []
    for runner in (
        {},
        {"GITHUB_ACTIONS": "true", "CI": "true", "GITLAB_CI": "true", "GITHUB_STEP_SUMMARY": str(summary)},
    ):
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("COLLAPSE_", "GIT", "CI"))}
        done = subprocess.run(
            [sys.executable, "-m", "collapse_cli", "scan", "a.safetensors", "--select", "effective-rank"],
            cwd=tmp_path, env=clean | runner | {"PYTHONPATH": path_of_the_package(clean)}, capture_output=True,
            encoding="utf-8", timeout=120, check=True,
        )  # fmt: skip
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert summary.read_text() == ""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def yaml_with(word: str) -> Any:
    (found,) = [block for block in map(yaml.safe_load, blocks("yaml")) if isinstance(block, dict) and word in block]
    return found


def test_the_job_of_gitlab_makes_the_reports_that_it_hands_over(tmp_path: Path) -> None:
    job = yaml_with("collapse")["collapse"]
    work = tmp_path / "repository"
    sample("rank_collapse.safetensors", work / "models" / "a.safetensors")
    lines = "\n".join(job["script"])
    done = subprocess.run(
        ["bash", "-eo", "pipefail", "-c", lines], cwd=work, env=installed(tmp_path) | {"GITLAB_CI": "true"},
        capture_output=True, encoding="utf-8", timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    reports = job["artifacts"]["reports"]
    issues = json.loads((work / reports["codequality"]).read_text(encoding="utf-8"))
    assert {one["location"]["path"] for one in issues} == {"models/a.safetensors"}
    assert junitparser.JUnitXml.fromfile(str(work / reports["junit"])).failures > 0
    for path in job["artifacts"]["paths"]:
        assert from_json((work / path).read_text(encoding="utf-8")).exit_code == 1


def test_the_example_of_a_workflow_uses_the_inputs_that_the_action_has() -> None:
    inputs = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]
    steps = yaml_with("jobs")["jobs"]["collapse"]["steps"]
    (ours,) = [step for step in steps if step["uses"].startswith("OWNER/collapse@")]
    assert set(ours["with"]) <= set(inputs)
    required = {name for name, one in inputs.items() if one.get("required")}
    assert required <= set(ours["with"])
    assert set(inputs) == set(
        re.findall(r"\$\{\{ inputs\.(\w+) \}\}", (ROOT / "action.yml").read_text(encoding="utf-8"))
    )


def test_every_example_of_the_guide_parses_and_names_flags_that_exist() -> None:
    assert all(yaml.safe_load(block) for block in blocks("yaml"))
    from typer.main import get_command

    group: Any = get_command(app)
    words = {word for name in ("scan", "gate", "report") for one in group.commands[name].params for word in one.opts}
    for line in re.findall(r"collapse (?:scan|gate|report) [^\n`|]*", GUIDE):
        assert set(re.findall(r"(?<=\s)--?[a-z][a-z-]*", line)) <= words, line
    for flag in ("--category", "--sarif-anchor", "--baseline", "--compare", "--fail-on"):
        assert flag in words


@pytest.fixture
def hooked(tmp_path: Path) -> Run:
    """`pre-commit run` in a repository of its own.

    The hooks as their manifest declares them, but with the `collapse` that is installed here (`language: system`): the
    environment that `language: python` builds would install torch from the network.
    """
    work = tmp_path / "repository"
    work.mkdir()
    hooks = yaml.safe_load(MANIFEST.read_text(encoding="utf-8"))
    local = [{**hook, "language": "system"} for hook in hooks]
    (work / ".pre-commit-config.yaml").write_text(yaml.safe_dump({"repos": [{"repo": "local", "hooks": local}]}))
    environment = installed(tmp_path) | {"PRE_COMMIT_HOME": str(tmp_path / "home"), "GIT_CONFIG_GLOBAL": os.devnull}
    environment = {name: value for name, value in environment.items() if name not in ("GIT_DIR", "GIT_INDEX_FILE")}

    # pre-commit itself needs the real python
    (tmp_path / "programs" / "python").unlink()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        def call(command: list[str]) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                command, cwd=work, env=environment, capture_output=True, encoding="utf-8", timeout=180, check=False
            )

        assert call(["git", "init", "-q"]).returncode == 0
        assert call(["git", "add", "-A"]).returncode == 0
        return call([sys.executable, "-m", "pre_commit", "run", *arguments])

    return run


def test_the_manifest_is_what_pre_commit_takes() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pre_commit", "validate-manifest", str(MANIFEST)], capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_a_hook_sees_checkpoints_and_nothing_else(hooked: Run, tmp_path: Path) -> None:
    (tmp_path / "repository" / "notes.txt").write_text("no model")
    done = hooked("collapse")
    assert done.returncode == 0, done.stdout
    assert "no files to check" in done.stdout


@pytest.mark.parametrize(
    ("hook", "name", "code", "said"),
    [
        ("collapse", "healthy_mlp.safetensors", 0, "Passed"),
        ("collapse", "rank_collapse.safetensors", 1, "error: effective-rank/effective_rank_sigma"),
        ("collapse-inspect", "rank_collapse.safetensors", 0, "Passed"),
        ("collapse-inspect", "hostile/pickle_with_code.pt", 1, "Nothing was executed"),
    ],
)
def test_a_hook_stops_a_commit_of_what_is_ill(
    hooked: Run, tmp_path: Path, hook: str, name: str, code: int, said: str
) -> None:
    sample(name, tmp_path / "repository" / "models" / Path(name).name)
    done = hooked(hook)
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout


def test_the_container_is_built_from_files_that_are_there_at_the_versions_that_were_tested() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    allowed = [
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    ]
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert copied
    assert set(copied) == set(allowed)
    assert all((ROOT / name).exists() for name in copied)
    versions = {
        tuple(map(int, one.split("."))) for one in re.findall(r"^FROM python:([\d.]+)-slim", text, re.MULTILINE)
    }
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    floor = re.search(r'requires-python = ">=([\d.]+)"', project)
    assert floor is not None
    assert versions == {tuple(map(int, floor[1].split(".")))}, "one version, the oldest that is supported"
    assert re.search(r"^torch==[\d.]+$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert "pip install --no-cache-dir -c constraints.txt ." in text
    assert re.search(r'^ENTRYPOINT \["collapse"\]$', text, re.MULTILINE)
    assert re.search(r"^USER (?!root)\w+$", text, re.MULTILINE)
