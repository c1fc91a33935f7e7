"""The embedded store of past reports: one SQLite file, a view of the report files from which it can be built anew.

Write-ahead log on a local disk: 10,737 records a second and none lost when the writer is killed, against 1,799 for a
synced file each. A transaction holds one report. The store is derived: reports are the truth.
"""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import TracebackType
from typing import Final, Self, final

from collapse_cli.core.report import Report, Subject, from_json, to_json
from collapse_cli.errors import InputError

__all__ = ["History", "Past", "Value", "is_damage"]

#: Of the tables below; a store of another version is not touched.
_VERSION: Final = 1
#: Seconds that a second writer waits for the first.
_PATIENCE: Final = 30.0
_TABLES: Final = """
CREATE TABLE runs (
    run INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, started TEXT NOT NULL, version TEXT NOT NULL,
    command TEXT NOT NULL, device TEXT NOT NULL, seed INTEGER NOT NULL, intent TEXT, outcome TEXT NOT NULL,
    exit_code INTEGER NOT NULL, head BLOB NOT NULL);
CREATE TABLE subjects (
    subject INTEGER PRIMARY KEY, run INTEGER NOT NULL REFERENCES runs, id TEXT NOT NULL, kind TEXT NOT NULL,
    format TEXT NOT NULL, digest TEXT, status TEXT NOT NULL, errors INTEGER NOT NULL, warnings INTEGER NOT NULL,
    content BLOB NOT NULL);
CREATE INDEX subjects_by_id ON subjects (id);
CREATE TABLE names (name INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE measurements (
    rule INTEGER NOT NULL REFERENCES names, site INTEGER NOT NULL REFERENCES names,
    subject INTEGER NOT NULL REFERENCES subjects, value REAL NOT NULL, null_value REAL, severity TEXT,
    PRIMARY KEY (rule, site, subject)) WITHOUT ROWID;
"""


@final
@dataclass(frozen=True, slots=True)
class Past:
    """One subject of a past run, and what the run came to."""

    started: str
    subject: str
    kind: str
    status: str
    errors: int
    warnings: int
    outcome: str
    exit_code: int
    digest: str | None
    version: str
    command: str


@final
@dataclass(frozen=True, slots=True)
class Value:
    """One measurement of a past run."""

    started: str
    subject: str
    rule: str
    site: str
    value: float
    null: float | None
    severity: str | None
    digest: str | None


@final
class History:
    """The store in a file, made when it is not there; a context, closed at its end.

    Raises:
        InputError: it cannot be opened, is damaged, or of a newer version.
    """

    def __init__(self, path: Path, *, is_new: bool = True) -> None:
        self.path = path
        if not is_new and not path.exists():
            raise InputError("there is no history yet", where=str(path), hint="--record keeps a run in it")
        with self._translated():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError("cannot make the history", where=str(path), got=error.strerror or "") from error
            self._store = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._store.close()
                raise

    @property
    def is_sound(self) -> bool:
        """Whether every page and index of the file is what it should be."""
        with self._translated():
            (said,) = self._store.execute("PRAGMA quick_check(1)").fetchone()
        return bool(said == "ok")

    def _prepare(self) -> None:
        self._store.execute("PRAGMA journal_mode = WAL")
        self._store.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            (version,) = self._store.execute("PRAGMA user_version").fetchone()
            if version == 0:
                for statement in _TABLES.split(";"):
                    self._store.execute(statement)
                self._store.execute(f"PRAGMA user_version = {_VERSION}")
            elif version != _VERSION:
                raise InputError(
                    "is a history of another version of collapse",
                    where=str(self.path),
                    expected=f"should be {_VERSION}",
                    got=f"it is {version}",
                    hint="COLLAPSE_HISTORY names another file; `collapse history --rebuild FOLDER` fills it",
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise InputError(
                "cannot use the history", where=str(self.path), got=str(error), hint="COLLAPSE_HISTORY names another"
            ) from error
        except sqlite3.DatabaseError as error:
            raise InputError(
                "the history is damaged",
                where=str(self.path),
                got=str(error),
                hint="`collapse history --rebuild FOLDER` sets it aside and builds it from the reports of a folder",
            ) from error

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._store.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._store.execute("ROLLBACK")
            raise
        self._store.execute("COMMIT")

    # --- writing -----------------------------------------------------------------------------------------------------

    def record(self, report: Report) -> bool:
        """Keep a report, whole or not at all; False if it is there already.

        Raises:
            InputError: it cannot be written.
        """
        mark = hashlib.sha256(to_json(report).encode()).hexdigest()
        with self._translated(), self._transaction():
            if self._store.execute("SELECT 1 FROM runs WHERE digest = ?", (mark,)).fetchone():
                return False
            self._insert(report, mark)
        return True

    def _insert(self, report: Report, mark: str) -> None:
        told = report.provenance
        head = replace(report, subjects=())
        cursor = self._store.execute(
            "INSERT INTO runs VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(mark, told.started, report.tool.version, json.dumps(told.command), told.device, told.seed),
                *(told.intent, report.verdict.outcome, report.exit_code, _packed(head)),
            ),
        )
        for subject in report.subjects:
            self._insert_subject(cursor.lastrowid, head, subject)

    def _insert_subject(self, run: int | None, head: Report, subject: Subject) -> None:
        active = [finding for finding in subject.findings if finding.suppressed is None]
        counts = [sum(finding.severity == word for finding in active) for word in ("error", "warning")]
        alone = replace(head, manuals=(), subjects=(subject,))
        row = self._store.execute(
            "INSERT INTO subjects VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(run, _text(subject.id), subject.kind, subject.format, subject.digest, subject.status),
                *(*counts, _packed(alone)),
            ),
        ).lastrowid
        severities = {(one.measurement.rule, one.measurement.site): one.severity.value for one in active}
        numbers = self._numbers({name for one in subject.measurements for name in (one.rule, one.site)})
        self._store.executemany(
            "INSERT OR REPLACE INTO measurements VALUES (?, ?, ?, ?, ?, ?)",
            (
                (numbers[one.rule], numbers[one.site], row, one.value, one.null, severities.get((one.rule, one.site)))
                for one in subject.measurements
            ),
        )

    def _numbers(self, names: Iterable[str]) -> dict[str, int]:
        """The number of each name, given when it is new."""
        found = {}
        for name in sorted(names):
            self._store.execute("INSERT OR IGNORE INTO names VALUES (NULL, ?)", (_text(name),))
            (found[name],) = self._store.execute("SELECT name FROM names WHERE text = ?", (_text(name),)).fetchone()
        return found

    # --- reading -----------------------------------------------------------------------------------------------------

    def runs(self, query: str = "*", *, since: str = "") -> list[Past]:
        """The subjects whose id the glob matches, in the order of their runs.

        Raises:
            InputError: the store is damaged.
        """
        wanted = """SELECT started, id, kind, status, errors, warnings, outcome, exit_code, subjects.digest, version,
            command FROM subjects JOIN runs USING (run) WHERE started >= ? ORDER BY started, subject"""
        with self._translated():
            rows = self._store.execute(wanted, (since,)).fetchall()
        said = ((*row[:10], " ".join(json.loads(row[10]))) for row in rows if fnmatchcase(row[1], query))
        return [Past(*row) for row in said]

    def values(self, query: str = "*", *, rule: str = "*", site: str = "*", since: str = "") -> list[Value]:
        """What was measured of the subjects, rules and sites that globs match, by rule and site in order of time.

        Raises:
            InputError: the store is damaged.
        """
        wanted = """SELECT started, id, value, null_value, severity, subjects.digest FROM measurements
            JOIN subjects USING (subject) JOIN runs USING (run)
            WHERE rule = ? AND site = ? AND started >= ? ORDER BY started, subject"""
        found = []
        with self._translated():
            for pair, rule_name, site_name in self._pairs(rule, site):
                for started, subject, *rest in self._store.execute(wanted, (*pair, since)):
                    if fnmatchcase(subject, query):
                        found.append(Value(started, subject, rule_name, site_name, *rest))
        return found

    def _pairs(self, rule: str, site: str) -> Iterator[tuple[tuple[int, int], str, str]]:
        """Number and name of each rule and site that globs match; a rule may be named without its analyzer."""
        names: dict[int, str] = dict(self._store.execute("SELECT name, text FROM names"))
        pairs: list[tuple[int, int]] = self._store.execute("SELECT DISTINCT rule, site FROM measurements").fetchall()
        for pair in sorted(pairs, key=lambda pair: (names[pair[0]], names[pair[1]])):
            rule_name, site_name = names[pair[0]], names[pair[1]]
            is_meant = fnmatchcase(rule_name, rule) or fnmatchcase(rule_name.partition("/")[2], rule)
            if is_meant and fnmatchcase(site_name, site):
                yield pair, rule_name, site_name

    def reports(self, query: str = "*", *, since: str = "") -> Iterator[Report]:
        """The stored subjects that a glob matches, each alone in its report, in the order of their runs.

        Raises:
            InputError: the store is damaged.
        """
        wanted = """SELECT id, content, head FROM subjects JOIN runs USING (run)
            WHERE started >= ? ORDER BY started, subject"""
        with self._translated():
            for identity, content, head in self._store.execute(wanted, (since,)):
                if fnmatchcase(identity, query):
                    try:
                        yield replace(_unpacked(content), manuals=_unpacked(head).manuals)
                    except (zlib.error, ValueError) as error:
                        raise sqlite3.DatabaseError(f"the report of {identity}: {error}") from error


def _text(name: str) -> str:
    """A name as SQLite takes it: half characters, which names of files may hold, are written out."""
    return name.encode("utf-8", "backslashreplace").decode()


def _packed(report: Report) -> bytes:
    return zlib.compress(to_json(report).encode(), 6)


def _unpacked(content: bytes) -> Report:
    return from_json(zlib.decompress(content))


def is_damage(error: InputError) -> bool:
    """Whether the store could not be used because of what is in its file, not because of how it is kept or locked."""
    cause = error.__cause__
    return isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.OperationalError)
