"""Everything known beside the rows: partitions, accounts, conversations and runs.

It can be rebuilt from the lake, except that the next run lists every conversation again. Many
threads can use one `State`, many processes one database. All SQL on it is here, apart from the
schema. The SQL runs in SQLite and PostgreSQL.
"""

# ruff: noqa: S608 - table and column names are literals here, values are bound
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import astuple
from datetime import date, datetime
from pathlib import Path
from typing import Any

from convo_pipeline.base.times import day_start_us, from_us, to_us
from convo_pipeline.state.database import (
    COMPACTIONS_SQL,
    Database,
    SqliteDatabase,
    Transaction,
)
from convo_pipeline.state.records import (
    WHOLE_DAYS,
    AccountIdentity,
    Compaction,
    ConversationState,
    Partition,
    Run,
    SuspectFile,
    check_identity,
    read_json,
    read_partition,
    read_run,
    run_values,
    write_json,
)
from convo_pipeline.state.state_schema import ACCOUNT_TABLES, STATE_TABLES
from convo_pipeline.tables.complete_range import CompleteRange

_PARTITIONS = STATE_TABLES["partitions"].select
_ROW_COUNTS = "SELECT table_name, sum(row_count) FROM partitions GROUP BY table_name"
_REMOVE_PARTITION = "DELETE FROM partitions WHERE account = ? AND date = ? AND table_name = ?"
_IDENTITIES = STATE_TABLES["identities"].select
_RUNS = STATE_TABLES["runs"].select
_CONVERSATIONS = """
SELECT conversation_id, updated_us, newest_message_id, complete_since_us, due_reason
FROM conversations WHERE account = ?
"""
_LAST_FULL_RUN = """
SELECT started_us, missed_count FROM runs INDEXED BY runs_by_kind
WHERE account = ? AND kind = 'full' AND missed_count IS NOT NULL ORDER BY started_us DESC LIMIT 1
"""
IS_SETTLED = """
(outcome = 'complete' OR (outcome = 'incomplete' AND reasons = '["conversation_refused"]'))
"""
"""The condition of `reasons.is_settled`."""
_FROM_WHOLE_DAYS = f"""
FROM runs INDEXED BY runs_by_kind
WHERE account = ? AND kind IN ({", ".join(map(repr, WHOLE_DAYS))}) AND {IS_SETTLED}
    AND since IS NOT NULL AND until IS NOT NULL
"""
_COMPLETE_SPANS = f"""
SELECT DISTINCT since, CASE WHEN until < started_on THEN until ELSE started_on END
{_FROM_WHOLE_DAYS} AND started_us >= ?
"""
_REQUESTED_SPANS = f"SELECT DISTINCT since, until {_FROM_WHOLE_DAYS}"
_COMPLETE_RANGE = f"""
WITH listings AS (
    SELECT since, started_us, run_id, max(started_on) OVER earlier AS reached_on
    FROM runs INDEXED BY runs_by_kind
    WHERE account = ? AND {IS_SETTLED} AND kind IN ('window', 'nightly', 'full', 'capture')
        AND since IS NOT NULL
    WINDOW earlier AS (ORDER BY started_us, run_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
breaks AS (
    SELECT started_us FROM listings
    WHERE since > reached_on
        AND coalesce((SELECT is_incremental FROM runs
            WHERE runs.run_id = listings.run_id AND account = ?), 0) = 0
)
SELECT min(since), max(started_us), (
    SELECT complete_from FROM runs
    WHERE account = ? AND run_id = (
        SELECT run_id FROM listings ORDER BY started_us DESC, run_id DESC LIMIT 1
    )
) FROM listings
WHERE started_us >= coalesce((SELECT max(started_us) FROM breaks), 0)
"""
"""A run leaves a gap if it begins on a later day than earlier runs reached and does not continue
them. Only runs after the last gap count. Days before `complete_from` may lack messages of a
conversation whose older pages are refused. `query/response_times.py` does the same with the ledger.
"""

TOKEN_ENDS = "token_ends"  # noqa: S105
"""The task under which `days_done` holds the days on which tokens end."""


class State:
    """The database; the first use opens it."""

    def __init__(self, database: Database | str | os.PathLike[str]) -> None:
        """`database` can be the path of a SQLite file."""
        if isinstance(database, str | os.PathLike):
            database = SqliteDatabase(database)
        self.database = database

    @property
    def path(self) -> Path:
        """The path of the SQLite file."""
        return Path(self.database.location)

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self.database.close()

    # partitions

    def partition(self, table: str, account: str, day: date) -> Partition | None:
        """Return the record of a partition."""
        where = " WHERE account = ? AND date = ? AND table_name = ?"
        rows = self.database.select(_PARTITIONS + where, account, str(day), table)
        return read_partition(rows[0]) if rows else None

    def partitions(
        self, account: str | None = None, day: date | None = None, table: str | None = None
    ) -> list[Partition]:
        """Return the records of partitions, sorted by account, date and table."""
        where, values = _where(account=account, date=day and str(day), table_name=table)
        rows = self.database.select(f"{_PARTITIONS}{where} ORDER BY 2, 3, 1", *values)
        return [read_partition(row) for row in rows]

    def row_counts(self) -> dict[str, int]:
        """Return the number of stored rows of each table that has partitions."""
        return {table: int(count) for table, count in self.database.select(_ROW_COUNTS)}

    def save_intent(self, partition: Partition, next_sha256: str) -> None:
        """Save durably which file a commit will write, so that it never counts as damaged."""
        self._save("partitions", (*_key(partition), *astuple(partition)[3:7], next_sha256))

    def save_partition(self, partition: Partition) -> None:
        """Save the record of a partition. Not durable: a power loss leaves the intent."""
        self._save("partitions", (*_key(partition), *astuple(partition)[3:]), is_durable=False)

    def remove_partition(self, table: str, account: str, day: date) -> None:
        """Remove the record of a partition whose file was removed.

        Durable: with the old record, a new file would count as damaged.
        """
        with self.database.transaction() as connection:
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))

    def etag(self, partition: Partition) -> str | None:
        """Return the ETag of a partition's file in a bucket; None if it is unknown."""
        rows = self.database.select(
            "SELECT tag FROM tags WHERE table_name = ? AND account = ? AND date = ? AND sha256 = ?",
            *_key(partition),
            partition.sha256,
        )
        return str(rows[0][0]) if rows else None

    def save_etag(self, partition: Partition, etag: str) -> None:
        """Save the ETag of a partition's file in a bucket."""
        self._save("tags", (*_key(partition), partition.sha256, etag), is_durable=False)

    # suspect files

    def mark_suspect(self, table: str, account: str, day: date, path: str) -> None:
        """Save that a file was set aside or lost rows, and remove its partition's record.

        For a raw table the next run lists and reads the whole account again.
        """
        with self.database.transaction() as connection:
            row = (path, table, account, str(day))
            connection.execute(STATE_TABLES["quarantines"].insert(), row)
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))
            if table.startswith("raw_"):
                _reset_progress(connection, account)

    def reset_progress(self, account: str) -> None:
        """Forget how far the account was read: the next run lists and reads all of it again."""
        with self.database.transaction() as connection:
            _reset_progress(connection, account)

    def suspect_files(self, account: str | None = None) -> list[SuspectFile]:
        """Return the suspect files, sorted by path."""
        where, values = _where(account=account)
        rows = self.database.select(
            f"SELECT table_name, account, date, path FROM quarantines{where} ORDER BY path", *values
        )
        return [SuspectFile(row[0], row[1], date.fromisoformat(row[2]), row[3]) for row in rows]

    def remove_suspect(self, path: str) -> None:
        """Remove one suspect file from the list."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM quarantines WHERE path = ?", (path,))

    def clear_suspects(self, account: str, tables: Iterable[str], day: date) -> None:
        """Remove the suspect files of a day from the list, as their rows are there again."""
        with self.database.transaction() as connection:
            connection.executemany(
                "DELETE FROM quarantines WHERE account = ? AND date = ? AND table_name = ?",
                [(account, str(day), table) for table in tables],
            )

    # identities

    def identity(self, account: str) -> AccountIdentity | None:
        """Return the inbox that an account stands for; None if no run read it."""
        return next(iter(self.identities(account)), None)

    def identities(self, account: str | None = None) -> list[AccountIdentity]:
        """Return the identity of every account, removed ones too, sorted by name."""
        where, values = _where(account=account)
        rows = self.database.select(f"{_IDENTITIES}{where} ORDER BY account", *values)
        return [AccountIdentity(*row) for row in rows]

    def set_identity(
        self, identity: AccountIdentity, *, is_decided: bool = False
    ) -> AccountIdentity:
        """Check and save an account's identity; return what is known of it.

        Raise StoreError as `check_identity` does.
        """
        with self.database.transaction() as connection:
            stored = [AccountIdentity(*row) for row in connection.execute(_IDENTITIES).fetchall()]
            merged = check_identity(identity, stored, is_decided=is_decided)
            connection.execute(STATE_TABLES["identities"].insert(), astuple(merged))
        return merged

    # conversations, memory, census, placements

    def conversations(self, account: str) -> dict[str, ConversationState]:
        """Return the state of every conversation of the account, by id."""
        rows = self.database.select(_CONVERSATIONS, account)
        return {row[0]: ConversationState(*row) for row in rows}

    def save_conversations(self, account: str, conversations: Iterable[ConversationState]) -> None:
        """Insert or replace the state of conversations, all or none."""
        rows = ((account, *vars(state).values()) for state in conversations)  # `astuple` is slow
        self._save("conversations", *rows)

    def memory(self, account: str) -> dict[str, object]:
        """Return what earlier runs learned about the account's API, as JSON."""
        rows = self.database.select("SELECT memory FROM memories WHERE account = ?", account)
        return read_json(rows[0][0]) if rows else {}

    def save_memory(self, account: str, memory: Mapping[str, object]) -> None:
        """Replace what runs learned about the account's API."""
        self._save("memories", (account, write_json(memory)))

    def census(self, account: str) -> dict[str, Any]:
        """Return the census of response shapes of an account's runs, as JSON."""
        rows = self.database.select("SELECT census FROM censuses WHERE account = ?", account)
        return read_json(rows[0][0]) if rows else {}

    def save_census(self, account: str, census: Mapping[str, object]) -> None:
        """Replace the census of an account. It is not durable: it can be lost without harm."""
        self._save("censuses", (account, write_json(census)), is_durable=False)

    def placements(self, account: str) -> dict[tuple[str, str], date]:
        """Return the dates of messages with an estimated time, by (conversation_id, message_id).

        A message keeps its first date, so that it is never stored twice.
        """
        rows = self.database.select(
            "SELECT conversation_id, message_id, date FROM placements WHERE account = ?", account
        )
        return {(row[0], row[1]): date.fromisoformat(row[2]) for row in rows}

    def save_placements(self, account: str, placements: Mapping[tuple[str, str], date]) -> None:
        """Add dates of messages with an estimated time; a date that is stored stays."""
        rows = ((account, *key, str(day)) for key, day in placements.items())
        self._save("placements", *rows, replaces=False)

    # receipts

    def receipts(self, account: str) -> set[str]:
        """Return the file names of the account's erasure receipts that this machine wrote."""
        rows = self.database.select("SELECT name FROM receipts WHERE account = ?", account)
        return {row[0] for row in rows}

    def save_receipt(self, account: str, name: str) -> None:
        """Save the file name of a receipt: a bucket may not list a new file at once."""
        self._save("receipts", (account, name))

    # finished days of a task

    def days_done(self, task: str, account: str) -> dict[date, str]:
        """Return the days that a task finished, with the digest of its input."""
        rows = self.database.select(
            "SELECT date, digest FROM days_done WHERE task = ? AND account = ?", task, account
        )
        return {date.fromisoformat(day): digest for day, digest in rows}

    def save_days_done(self, task: str, account: str, digests: Mapping[date, str]) -> None:
        """Save days that a task finished. Not durable: after a power loss it does them again."""
        rows = ((task, account, str(day), digest) for day, digest in digests.items())
        self._save("days_done", *rows, is_durable=False)

    def remove_days_done(self, task: str, account: str, days: Iterable[date]) -> None:
        """Remove days from those that a task finished."""
        with self.database.transaction() as connection:
            connection.executemany(
                "DELETE FROM days_done WHERE task = ? AND account = ? AND date = ?",
                [(task, account, str(day)) for day in days],
            )

    def token_ends(self, account: str) -> dict[date, str]:
        """Return the UTC days on which the account's token or its access to data ends.

        The value is the reason's name. `check` and the nightly upkeep store them.
        """
        return self.days_done(TOKEN_ENDS, account)

    def save_token_ends(self, account: str, ends: Mapping[date, str]) -> None:
        """Replace the days on which the account's token ends."""
        self.remove_days_done(TOKEN_ENDS, account, self.token_ends(account).keys() - ends.keys())
        self.save_days_done(TOKEN_ENDS, account, ends)

    # runs

    def save_run(self, run: Run) -> None:
        """Insert or replace one account's part of a run."""
        self._save("runs", run_values(run))

    def runs(
        self, account: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Return runs, newest first."""
        where, values = _where(account=account, run_id=run_id)
        order = "ORDER BY started_us DESC, run_id" + (f" LIMIT {int(limit)}" if limit else "")
        rows = self.database.select(f"{_RUNS}{where} {order}", *values)
        return [read_run(row) for row in rows]

    def runs_since(self, account: str, since: datetime) -> list[Run]:
        """Return the account's runs that started at this time or later."""
        sql = f"{_RUNS} WHERE account = ? AND started_us >= ? ORDER BY started_us"
        return [read_run(row) for row in self.database.select(sql, account, to_us(since))]

    def last_complete(self, account: str, kind: str | None = None) -> Run | None:
        """Return the account's newest run that stored what the API returns, of one kind or any."""
        where, values = _where(account=account, kind=kind)
        order = f"AND {IS_SETTLED} ORDER BY started_us DESC LIMIT 1"
        rows = self.database.select(f"{_RUNS}{where} {order}", *values)
        return read_run(rows[0]) if rows else None

    def last_ended(self, account: str, *kinds: str) -> Run | None:
        """Return the account's newest run, of these kinds or any, that was not killed."""
        of_kind = f" AND kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = self.database.select(
            f"{_RUNS} WHERE account = ? AND outcome <> 'running'{of_kind}"
            " ORDER BY started_us DESC, run_id LIMIT 1",
            account,
            *kinds,
        )
        return read_run(rows[0]) if rows else None

    def last_full_run(self, account: str) -> tuple[datetime, int] | None:
        """Return when the newest full run began, and how many messages earlier runs had missed."""
        rows = self.database.select(_LAST_FULL_RUN, account)
        return (from_us(rows[0][0]), int(rows[0][1])) if rows else None

    def first_run_at(self, account: str) -> datetime | None:
        """Return when the account's oldest run in the state began."""
        sql = "SELECT min(started_us) FROM runs WHERE account = ?"
        ((first_us,),) = self.database.select(sql, account)
        return None if first_us is None else from_us(first_us)

    def complete_spans(self, account: str, after: date) -> list[tuple[date, date]]:
        """Return the days [since, until) of complete runs that started on a day or later.

        A run that started before `until` read only the days before its start. Captures and `find`
        read no whole days.
        """
        return self._spans(_COMPLETE_SPANS, account, day_start_us(after))

    def requested_spans(self, account: str) -> list[tuple[date, date]]:
        """Return the days [since, until) that complete runs requested, also if not over then.

        Captures and `find` read no whole days.
        """
        return self._spans(_REQUESTED_SPANS, account)

    def _spans(self, sql: str, *values: object) -> list[tuple[date, date]]:
        rows = self.database.select(sql, *values)
        return [(date.fromisoformat(since), date.fromisoformat(until)) for since, until in rows]

    def complete_range(self, account: str) -> CompleteRange | None:
        """Return the days that the account's complete runs read without a gap; None if none did."""
        ((since, until_us, complete_from),) = self.database.select(
            _COMPLETE_RANGE, account, account, account
        )
        if since is None:
            return None
        first_day = date.fromisoformat(max(since, complete_from or since))
        return CompleteRange(first_day, from_us(until_us))

    def prune_runs(self, before: datetime) -> int:
        """Remove runs that started earlier; return their number. The exported ledger keeps them."""
        with self.database.transaction() as connection:
            sql = "DELETE FROM runs WHERE started_us < ?"
            return connection.execute(sql, (to_us(before),)).rowcount

    def rename_account(self, old: str, new: str) -> None:
        """Rename an account in all tables, or in none. Rows of the old name replace the new one's.

        The new name has rows if the state was rebuilt while a rename was unfinished.
        """
        with self.database.transaction() as connection:
            for table in ACCOUNT_TABLES:
                same_key = "".join(
                    f" AND other.{name} = {table.name}.{name}"
                    for name in table.key
                    if name != "account"
                )
                connection.execute(
                    f"DELETE FROM {table.name} WHERE account = ? AND EXISTS"
                    f" (SELECT 1 FROM {table.name} AS other WHERE other.account = ?{same_key})",
                    (new, old),
                )
                connection.execute(
                    f"UPDATE {table.name} SET account = ? WHERE account = ?", (new, old)
                )
            suspects = connection.execute(
                f"{STATE_TABLES['quarantines'].select} WHERE account = ?", (old,)
            ).fetchall()
            connection.execute("DELETE FROM quarantines WHERE account = ?", (old,))
            connection.executemany(
                STATE_TABLES["quarantines"].insert(),
                [
                    (path.replace(f"/account={old}/", f"/account={new}/"), table_name, new, day)
                    for path, table_name, _, day in suspects
                ],
            )
            connection.execute("DELETE FROM days_done WHERE account IN (?, ?)", (old, new))

    # compactions

    def compactions(self, account: str | None = None) -> list[Compaction]:
        """Return the compactions that agree with their daily files, sorted."""
        where, values = _where(account=account)
        rows = self.database.select(f"{COMPACTIONS_SQL}{where} ORDER BY 1, 2, 3", *values)
        return [Compaction(*row) for row in rows]

    def save_compaction(self, compaction: Compaction, sha256s: Mapping[date, str]) -> bool:
        """Save a compaction if the month's files have these hashes; return whether they do."""
        with self.database.transaction(is_durable=False) as connection:
            stored = connection.execute(
                "SELECT date, sha256, next_sha256 FROM partitions"
                " WHERE table_name = ? AND account = ? AND substr(date, 1, 7) = ?",
                (compaction.table, compaction.account, compaction.month),
            ).fetchall()
            expected = [(str(day), sha256, None) for day, sha256 in sha256s.items()]
            is_current = sorted(stored) == sorted(expected)
            if is_current:
                connection.execute(STATE_TABLES["compactions"].insert(), astuple(compaction))
        return is_current

    # erasure, retention

    def forget(
        self,
        account: str,
        own: Iterable[str],
        shared: Iterable[str],
        sent: Container[str],
        redact: Callable[[str], str],
    ) -> None:
        """Remove a person's conversations and messages, and redact the texts of runs.

        `own` conversations are the person's alone, `shared` ones have other people too. `sent` are
        the ids of messages to remove in these. The next run reads shared conversations again.
        """
        own_keys = [(account, conversation_id) for conversation_id in own]
        shared_keys = [(account, conversation_id) for conversation_id in shared]
        of_conversation = "WHERE account = ? AND conversation_id = ?"
        with self.database.transaction() as connection:
            connection.executemany(
                f"DELETE FROM conversations {of_conversation}", own_keys + shared_keys
            )
            connection.executemany(f"DELETE FROM placements {of_conversation}", own_keys)
            for key in shared_keys:
                rows = connection.execute(
                    f"SELECT message_id FROM placements {of_conversation}", key
                ).fetchall()
                connection.executemany(
                    f"DELETE FROM placements {of_conversation} AND message_id = ?",
                    [(*key, message_id) for (message_id,) in rows if message_id in sent],
                )
            runs = connection.execute(
                "SELECT run_id, error, report FROM runs WHERE account = ?", (account,)
            ).fetchall()
            for run_id, *texts in runs:
                redacted = [text and redact(text) for text in texts]
                if redacted != texts:
                    connection.execute(
                        "UPDATE runs SET error = ?, report = ? WHERE run_id = ? AND account = ?",
                        (*redacted, run_id, account),
                    )
            memories = connection.execute(
                "SELECT memory FROM memories WHERE account = ?", (account,)
            ).fetchall()
            connection.executemany(
                "UPDATE memories SET memory = ? WHERE account = ?",
                [(redact(memory), account) for (memory,) in memories],
            )

    def forget_before(self, day: date) -> None:
        """Remove messages and conversations whose last activity was before a day."""
        with self.database.transaction() as connection:
            for table in ("placements", "days_done"):
                connection.execute(f"DELETE FROM {table} WHERE date < ?", (str(day),))
            connection.execute(
                "DELETE FROM conversations WHERE updated_us < ?", (day_start_us(day),)
            )

    def _save(
        self,
        table: str,
        *rows: tuple[object, ...],
        is_durable: bool = True,
        replaces: bool = True,
    ) -> None:
        """Insert rows in one transaction."""
        with self.database.transaction(is_durable) as connection:
            if rows:
                connection.executemany(STATE_TABLES[table].insert(replaces=replaces), rows)


def _reset_progress(connection: Transaction, account: str) -> None:
    connection.execute(
        "UPDATE conversations SET complete_since_us = NULL WHERE account = ?", (account,)
    )
    sql = "SELECT memory FROM memories WHERE account = ?"
    for (memory,) in connection.execute(sql, (account,)).fetchall():
        values = read_json(memory)
        values.pop("coverage", None)
        connection.execute(
            "UPDATE memories SET memory = ? WHERE account = ?", (write_json(values), account)
        )


def _key(partition: Partition) -> tuple[str, str, str]:
    return partition.table, partition.account, str(partition.date)


def _where(**wanted: object) -> tuple[str, list[object]]:
    """Return a WHERE clause of the given columns, and its values."""
    given = {name: value for name, value in wanted.items() if value is not None}
    clause = " AND ".join(f"{name} = ?" for name in given)
    return (f" WHERE {clause}" if clause else ""), list(given.values())
