"""What the tool measures on a model: every applicable analyzer, kept beside it until the mathematics changes."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path

import collapse_cli
from collapse_cli.compare import diff, trend
from collapse_cli.core.order import natural_order
from collapse_cli.core.policy import Policy
from collapse_cli.core.report import Subject
from collapse_cli.runs import ScanOptions, scan
from zoo.case import View
from zoo.store import read_json, write_json

__all__ = ["measured"]

#: Packages whose code decides about a number. Limits and words do not: they are judged anew each time.
_MEASURING = ("analyzers", "core", "engine", "kernels", "sources", "capture", "analyzer.py", "compare.py", "runs.py")
_WORDS = frozenset({"Limit", "Reference", "Metric", "Cause"})


def measured(folder: Path, name: str, view: View) -> Subject:
    """The subject `name` in the folder of a model, with measurements and without evidence and findings."""
    from pydantic import TypeAdapter

    adapter = TypeAdapter(Subject)
    stored = folder / f"{name}-{_mathematics()}.json.gz"
    if stored.exists():
        return adapter.validate_python(read_json(stored))
    options = ScanOptions(
        device="cpu", threads=1, plugins=False, subject_id=f"{folder.parent.name}/{folder.name}/{name}"
    )
    policy = Policy(intent=view.intent)
    if view.how == "scan":
        report = scan([folder / name], policy, options)
    elif view.how == "trend":
        report = trend([folder / name], policy, options)
    else:
        base, *others = sorted((folder / name).iterdir(), key=natural_order)
        report = diff(base, others, policy, replace(options, subject_id=None) if len(others) > 1 else options)
    subject = report.subjects[-1]
    if subject.status == "failed":
        raise ValueError(f"{folder.name}/{name}: {subject.failures[0].message}")
    bare = tuple(replace(one, evidence={}) for one in subject.measurements)
    subject = replace(subject, measurements=bare, findings=(), diagnoses=())
    write_json(stored, adapter.dump_python(subject, mode="json"))
    return subject


@cache
def _mathematics() -> str:
    """A digest of the code that decides about numbers, without docstrings, limits and references."""
    home = Path(collapse_cli.__file__).parent
    digest = hashlib.sha256()
    for name in _MEASURING:
        place = home / name
        for file in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            if file.name == "causes.py":
                continue
            digest.update(ast.dump(_Wordless().visit(ast.parse(file.read_bytes()))).encode())
    return digest.hexdigest()[:12]


class _Wordless(ast.NodeTransformer):
    """Python without what only people and the judge read."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id in _WORDS:
            return ast.Constant(node.func.id)
        return self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            return ast.Pass()
        return self.generic_visit(node)
