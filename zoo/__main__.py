"""`python -m zoo build | verdicts`."""

from __future__ import annotations

import argparse
from pathlib import Path

from zoo.build import build
from zoo.kinds import kinds
from zoo.tables import print_verdicts
from zoo.verdicts import rows

#: Models and measurements; never committed.
STORE = Path(__file__).parent.parent / ".zoo"


def main() -> int:
    """Builds or reports; 1 if a model could not be made or measured."""
    parser = argparse.ArgumentParser(prog="python -m zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    builds = commands.add_parser("build", help="train and scan what is not there yet")
    builds.add_argument("--kind", action="append", choices=list(kinds()), help="only these; repeatable")
    builds.add_argument("--seed", type=int, action="append", help="only these, at two corners of every kind")
    says = commands.add_parser("verdicts", help="what the limits as they stand say of the models, a line a kind")
    says.add_argument("--kind", action="append", choices=list(kinds()), help="only these; repeatable")
    says.add_argument("--seed", type=int, action="append", help="only these, at two corners of every kind")
    says.add_argument("--metric", action="append", default=[], help="print the worst value of this rule for each model")
    for command in (builds, says):
        command.add_argument("--split", choices=("calibration", "held-out"), help="only this half")
        command.add_argument("--store", type=Path, default=STORE)
        command.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    is_building = given.command == "build"
    found = build(
        given.store,
        [
            case
            for name in given.kind or kinds()
            for case in kinds()[name].cases(given.seed)
            if given.split in (None, case.split)
        ],
        workers=given.workers,
        is_told=is_building,
    )
    if not is_building:
        print_verdicts(rows(found), given.metric)
    return int(any(one.error for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
