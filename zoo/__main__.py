"""`python -m zoo build | verdicts | report`."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.build import build
from zoo.case import Case
from zoo.kinds import kinds

_ROOT = Path(__file__).parent.parent
#: Models and measurements; never committed.
STORE = _ROOT / ".zoo"


def main() -> int:
    """Builds, judges or reports; 1 if a model could not be made or measured."""
    given = _parser().parse_args()
    if given.command == "report":
        return _report(given.store, given.workers)
    cases = [case for name in given.kind or kinds() for case in kinds()[name].cases(given.seed)]
    cases = [case for case in cases if given.split in (None, case.split)]
    found = build(given.store, cases, workers=given.workers, is_told=given.command == "build")
    if given.command == "verdicts":
        from zoo.tables import print_verdicts
        from zoo.verdicts import rows

        print_verdicts(rows(found), given.metric)
    return int(any(one.error for one in found))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="train and scan what is not there yet")
    says = commands.add_parser("verdicts", help="what the limits as they stand say of the models, kind by kind")
    reports = commands.add_parser("report", help="the whole zoo, zoo/evidence.json and docs/accuracy.md")
    for command in (builds, says):
        command.add_argument("--kind", action="append", choices=list(kinds()), help="only these; repeatable")
        command.add_argument("--seed", type=int, action="append", help="only these, at two corners of every kind")
        command.add_argument("--split", choices=("calibration", "held-out"), help="only this half")
    says.add_argument("--metric", action="append", default=[], help="print the values of this rule for each model")
    for command in (builds, says, reports):
        command.add_argument("--store", type=Path, default=STORE)
        command.add_argument("--workers", type=int, default=2)
    return parser


def _report(store: Path, workers: int) -> int:
    from zoo.dependence import dependence
    from zoo.evidence import collected, written
    from zoo.page import page

    cases: list[Case] = [case for kind in kinds().values() for case in kind.cases()]
    found = build(store, cases, workers=workers)
    evidence = collected(found, dependence(store))
    written(evidence)
    (_ROOT / "docs" / "accuracy.md").write_text(page(evidence), encoding="utf-8")
    return int(bool(evidence.failures))


if __name__ == "__main__":
    raise SystemExit(main())
