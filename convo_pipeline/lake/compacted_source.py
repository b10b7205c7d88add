"""A local lake read by month where a compaction is current, by day where not: the same rows either way.

What is current, `state.db` says; that no day came or went since, the folders' names say. Both are asked again before
every query, as cheaply as can be: a counter of the database and the time of change of each account's folder. Without
a `state.db` this is a plain local lake.
"""

import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from convo_pipeline.lake.compact import COMPACT
from convo_pipeline.lake.compaction_watch import CompactionWatch
from convo_pipeline.lake.records import Compaction
from convo_pipeline.lake.sources import (
    DATA_FILE,
    LocalSource,
    own_types,
    path_columns,
    quote,
    quote_name,
    schema_map,
)
from convo_pipeline.schema import Table

SETTLED_SECONDS = 2.0
"""A folder that changed so lately may change again without its time of change showing it: it is looked at again."""
_DAY = re.compile(r"date=(\d{4}-\d{2})-\d{2}")
Stamp = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class _Plan:
    """Which files make up a table: months by month, and the days that no month covers."""

    months: Mapping[str, list[str]]
    days: list[str]
    current: Mapping[tuple[str, str], Compaction]
    stamp: Stamp | None
    """What it was made from; None where that may change unseen."""


class CompactedSource(LocalSource):
    """A lake in a local folder, with the compactions of its months."""

    def __init__(self, root: str | os.PathLike[str], state_file: Path) -> None:
        super().__init__(root)
        self._watch = CompactionWatch(state_file)
        self._version: object = None
        self._current: dict[str, dict[tuple[str, str], Compaction]] = {}
        self._plans: dict[str, _Plan] = {}
        self._is_distrusted = False

    def is_changed(self, table: Table) -> bool:
        """Say whether the SELECT over a table's files may be another one than it was."""
        self._look()
        plan = self._plans.get(table.name)
        current = self._current.get(table.name, {})
        if plan is None:
            return bool(current)
        return plan.current != current or plan.stamp is None or plan.stamp != self._stamp(table)

    def distrust(self, message: str) -> None:
        """Read no compaction any more, if this error is about one: it may be damaged, and the daily files are not."""
        self._is_distrusted |= f"/{COMPACT}/" in message
        if self._is_distrusted:
            self._version, self._current = None, {}

    def select(self, table: Table) -> str:
        """Return the SELECT over the table's files, months first."""
        self._look()
        current = self._current.get(table.name)
        self._plans.pop(table.name, None)
        if not current:
            return super().select(table)
        self._plans[table.name] = plan = self._plan(table, current)
        if not plan.months:
            return super().select(table)
        branches = [self._select_month(table, month, files) for month, files in sorted(plan.months.items())]
        if plan.days:
            branches.append(self.select_files(table, _literal(plan.days)))
        return " UNION ALL ".join(branches)

    def _look(self) -> None:
        if self._is_distrusted:
            return
        version = self._watch.version()
        if version != self._version or version is None:
            self._version = version
            self._current = self._watch.current() if version is not None else {}

    def _stamp(self, table: Table) -> Stamp | None:
        """Return what changes when a day or an account comes or goes."""
        folder = f"{self.root}/{table.name}"
        try:
            names = sorted(os.listdir(folder))
            times = tuple((name, os.stat(f"{folder}/{name}").st_mtime_ns) for name in names)
        except OSError:
            return None
        return times

    def _plan(self, table: Table, current: Mapping[tuple[str, str], Compaction]) -> _Plan:
        stamp = self._stamp(table)
        months: dict[str, list[str]] = defaultdict(list)
        days: list[str] = []
        for account, month, names in self._listed(table):
            compaction = current.get((account, month))
            path = f"{self.root}/{COMPACT}/{table.name}/account={account}/month={month}.parquet"
            if compaction and compaction.day_count == len(names) and _size(path) == compaction.byte_count:
                months[month].append(path)
            else:
                days += [f"{self.root}/{table.name}/account={account}/{name}/{DATA_FILE}" for name in names]
        held = [path for path in days if os.path.isfile(path)]
        is_certain = len(held) == len(days) and _is_settled(stamp)
        return _Plan(dict(months), held, current, stamp if is_certain else None)

    def _listed(self, table: Table) -> Iterator[tuple[str, str, list[str]]]:
        """Yield (account, month, names of the days' folders)."""
        folder = f"{self.root}/{table.name}"
        for name in sorted(_names(folder)):
            if not re.fullmatch("account=[a-z].*", name):
                continue
            by_month: dict[str, list[str]] = defaultdict(list)
            for day in sorted(_names(f"{folder}/{name}")):
                if match := _DAY.fullmatch(day):
                    by_month[match[1]].append(day)
            for month, names in by_month.items():
                yield name.removeprefix("account="), month, names

    def _select_month(self, table: Table, month: str, files: list[str]) -> str:
        """Return the SELECT over one month of many accounts; its bounds let a query on other days skip it unopened."""
        folder = f"{self.root}/{COMPACT}/{table.name}/"
        types = {"date": "DATE"} | own_types(table)
        columns = [path_columns(table, folder)[0], *map(quote_name, types)]
        bounds = f"date >= DATE '{month}-01' AND date < DATE '{month}-01' + INTERVAL 1 MONTH"
        return (
            f"SELECT {', '.join(columns)} FROM read_parquet({_literal(files)},"  # noqa: S608 - names and literals are quoted
            f" schema = {schema_map(types)}, filename = true) WHERE {bounds}"
        )


def _literal(files: list[str]) -> str:
    return f"[{', '.join(map(quote, files))}]"


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def _is_settled(stamp: Stamp | None) -> bool:
    if stamp is None:
        return False
    newest = max((when for _, when in stamp), default=0)
    return time.time() - newest / 1e9 > SETTLED_SECONDS
