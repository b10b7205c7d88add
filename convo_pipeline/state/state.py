"""What is known about the lake and its accounts besides the rows: a cache of truth in `state.db`.

Everything here can be rebuilt from the lake, at the price of listing more once. Times are whole microseconds
since 1970 inside; it knows no Parquet and no API. One `State` may be used by many threads, one file by many processes.
"""

# ruff: noqa: S608 - table and column names are literals here, values are bound
import os
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import astuple
from datetime import date, datetime

from convo_pipeline.base.times import day_start_us, from_us, to_us
from convo_pipeline.state.database import COMPACTIONS_SQL, Database
from convo_pipeline.state.identity import AccountIdentity, check_identity
from convo_pipeline.state.records import (
    Compaction,
    ConversationState,
    Partition,
    Run,
    partition_key,
    read_json,
    read_partition,
    read_run,
    run_values,
    write_json,
)
from convo_pipeline.tables.complete_range import CompleteRange

ACCOUNT_TABLES = (
    "partitions", "identities", "conversations", "memories", "placements", "runs", "tags", "quarantines", "receipts",
)  # fmt: skip
"""Everything that knows an account: `rename` and `forget` walk these; of `days_done` a new name begins anew."""
_MONTH = "SELECT date, sha256, next_sha256 FROM partitions WHERE table_name = ? AND account = ? AND substr(date, 1, 7) = ?"
_PARTITIONS = "SELECT table_name, account, date, sha256, row_count, byte_count, source, next_sha256 FROM partitions"
_SAVE_PARTITION = "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_REMOVE_PARTITION = "DELETE FROM partitions WHERE account = ? AND date = ? AND table_name = ?"
_REOPEN = (
    "UPDATE conversations SET complete_since_us = NULL WHERE account = ?",
    "UPDATE memories SET memory = json_remove(memory, '$.coverage') WHERE account = ?",
)
"""What the account is believed to hold, down to which time, is no longer true."""
_REMOVE_CONVERSATION = "DELETE FROM conversations WHERE account = ? AND conversation_id = ?"
_PLACED = "SELECT message_id FROM placements WHERE account = ? AND conversation_id = ?"
_REMOVE_PLACEMENT = (
    "DELETE FROM placements WHERE account = ? AND conversation_id = ? AND message_id = ?"
)
_RUN_TEXTS = "SELECT run_id, error, report FROM runs WHERE account = ?"
_SAVE_RUN_TEXTS = "UPDATE runs SET error = ?, report = ? WHERE run_id = ? AND account = ?"
_RENAME_PATHS = "UPDATE quarantines SET path = replace(path, ?, ?) WHERE account = ?"
_COMPLETE_RANGE = """
WITH listings AS (
    SELECT since, started_us, report, max(started_us) OVER earlier AS reached_us
    FROM runs WHERE account = ? AND outcome = 'complete' AND kind <> 'find' AND since IS NOT NULL
    WINDOW earlier AS (ORDER BY started_us, run_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
),
breaks AS (
    SELECT started_us FROM listings
    WHERE since > date(reached_us / 1000000, 'unixepoch') AND NOT coalesce(json_extract(report, '$.is_incremental'), 0)
)
SELECT min(since), max(started_us) FROM listings WHERE started_us >= coalesce((SELECT max(started_us) FROM breaks), 0)
"""
"""A run that does not go on from an earlier one, and begins on a later day than that one reached, leaves a hole:
what was promised before it counts no longer. `query/response_times.py` asks the exported ledger the same."""
_IDENTITIES = (
    "SELECT account, page_id, platform, own_id, own_username, own_id_source FROM identities"
)


class State:
    """The database; opened at first use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.database = Database(path)
        self.path = self.database.path

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        self.database.close()

    # partitions

    def partition(self, table: str, account: str, day: date) -> Partition | None:
        """Return what is recorded of a partition."""
        rows = self.database.select(
            _PARTITIONS + " WHERE account = ? AND date = ? AND table_name = ?",
            account,
            str(day),
            table,
        )
        return next(map(read_partition, rows), None)

    def partitions(
        self, account: str | None = None, day: date | None = None, table: str | None = None
    ) -> list[Partition]:
        """Return what is recorded, sorted by account, date and table."""
        wanted = {
            "account": account,
            "date": None if day is None else str(day),
            "table_name": table,
        }
        where, values = _where(wanted)
        return [
            read_partition(row)
            for row in self.database.select(f"{_PARTITIONS}{where} ORDER BY 2, 3, 1", *values)
        ]

    def save_intent(self, held: Partition, next_sha256: str) -> None:
        """Note durably what a partition is about to become, so that a killed commit is no damage."""
        with self.database.transaction() as connection:
            connection.execute(
                _SAVE_PARTITION, (*partition_key(held), *astuple(held)[3:7], next_sha256)
            )

    def record(self, partition: Partition) -> None:
        """Note what a partition is. Losing this in a power loss is harmless: the intent is still there."""
        with self.database.transaction(is_durable=False) as connection:
            connection.execute(
                _SAVE_PARTITION, (*partition_key(partition), *astuple(partition)[3:])
            )

    def remove_partition(self, table: str, account: str, day: date) -> None:
        """Forget a partition whose file is gone.

        Durably: were this lost after the partition was made anew, the new file would be taken for damage.
        """
        with self.database.transaction() as connection:
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))

    def etag(self, partition: Partition) -> str | None:
        """Return which version in a shared place the partition is, None if that is not known."""
        key = (partition.account, str(partition.date), partition.table, partition.sha256)
        rows = self.database.select(
            "SELECT tag FROM tags WHERE account = ? AND date = ? AND table_name = ? AND sha256 = ?",
            *key,
        )
        return str(rows[0][0]) if rows else None

    def save_etag(self, partition: Partition, tag: str) -> None:
        """Note which version in a shared place the partition is."""
        with self.database.transaction(is_durable=False) as connection:
            row = (*partition_key(partition), partition.sha256, tag)
            connection.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", row)

    def mark_suspect(self, table: str, account: str, day: date, path: str) -> None:
        """Note a damaged file that was set aside, or by its own path one that lost rows; its account is asked again."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO quarantines VALUES (?, ?, ?, ?)",
                (path, table, account, str(day)),
            )
            connection.execute(_REMOVE_PARTITION, (account, str(day), table))
            for statement in _REOPEN if table.startswith("raw_") else ():
                connection.execute(statement, (account,))

    def reset_progress(self, account: str) -> None:
        """Believe no longer that anything of the account is held to its end: the next run lists and walks it all."""
        with self.database.transaction() as connection:
            for statement in _REOPEN:
                connection.execute(statement, (account,))

    def suspect_files(self, account: str | None = None) -> list[tuple[str, str, date, str]]:
        """Return (table, account, date, path) of every file that was set aside or lost rows, and its day is not whole."""
        where, values = _where({"account": account})
        rows = self.database.select(
            f"SELECT table_name, account, date, path FROM quarantines{where} ORDER BY path", *values
        )
        return [
            (str(row[0]), str(row[1]), date.fromisoformat(str(row[2])), str(row[3])) for row in rows
        ]

    def remove_suspect(self, path: str) -> None:
        """Forget a damaged file that is no longer there."""
        with self.database.transaction() as connection:
            connection.execute("DELETE FROM quarantines WHERE path = ?", (path,))

    def clear_suspects(self, account: str, tables: Iterable[str], day: date) -> None:
        """Call a day of these tables whole again; the damaged files are kept, but no longer waited for."""
        with self.database.transaction() as connection:
            keys = [(account, str(day), table) for table in tables]
            connection.executemany(
                "DELETE FROM quarantines WHERE account = ? AND date = ? AND table_name = ?", keys
            )

    # identities

    def identity(self, account: str) -> AccountIdentity | None:
        """Return whose inbox the account is, None if it was never seen."""
        return next(iter(self.identities(account)), None)

    def identities(self, account: str | None = None) -> list[AccountIdentity]:
        """Return every account that was ever seen, sorted by name; removed ones too."""
        where, values = _where({"account": account})
        rows = self.database.select(f"{_IDENTITIES}{where} ORDER BY account", *values)
        return [AccountIdentity(*row) for row in rows]

    def set_identity(self, identity: AccountIdentity) -> AccountIdentity:
        """Check and keep whose inbox an account is; return what is known now. A StoreError names both on a mismatch."""
        with self.database.transaction() as connection:
            held = [AccountIdentity(*row) for row in connection.execute(_IDENTITIES).fetchall()]
            known = check_identity(identity, held)
            connection.execute(
                "INSERT OR REPLACE INTO identities VALUES (?, ?, ?, ?, ?, ?)", astuple(known)
            )
        return known

    # conversations, memory, placements

    def conversations(self, account: str) -> dict[str, ConversationState]:
        """Return what is known of every conversation of the account, by id."""
        rows = self.database.select(
            "SELECT conversation_id, updated_us, newest_message_id, complete_since_us, due_reason"
            " FROM conversations WHERE account = ?",
            account,
        )
        return {str(row[0]): ConversationState(*row) for row in rows}

    def save_conversations(self, account: str, conversations: Iterable[ConversationState]) -> None:
        """Insert or replace what is known of these conversations, all or none."""
        rows = [(account, *vars(conversation).values()) for conversation in conversations]
        with self.database.transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO conversations VALUES (?, ?, ?, ?, ?, ?)", rows
            )

    def memory(self, account: str) -> dict[str, object]:
        """Return what the account's ladder remembered."""
        rows = self.database.select("SELECT memory FROM memories WHERE account = ?", account)
        return read_json(rows[0][0]) if rows else {}

    def save_memory(self, account: str, memory: Mapping[str, object]) -> None:
        """Replace what the account's ladder remembers."""
        with self.database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO memories VALUES (?, ?)", (account, write_json(memory))
            )

    def placements(self, account: str) -> dict[tuple[str, str], date]:
        """Return the date of every row whose date is a guess, by (conversation_id, message_id): a row never moves."""
        rows = self.database.select(
            "SELECT conversation_id, message_id, date FROM placements WHERE account = ?", account
        )
        return {(str(row[0]), str(row[1])): date.fromisoformat(str(row[2])) for row in rows}

    def save_placements(self, account: str, placements: Mapping[tuple[str, str], date]) -> None:
        """Add placements; one that is known stays as it is."""
        rows = [(account, *key, str(day)) for key, day in placements.items()]
        with self.database.transaction() as connection:
            connection.executemany("INSERT OR IGNORE INTO placements VALUES (?, ?, ?, ?)", rows)

    # receipts

    def receipts(self, account: str) -> set[str]:
        """Return the names of the receipts that were written here."""
        return {
            str(name)
            for (name,) in self.database.select(
                "SELECT name FROM receipts WHERE account = ?", account
            )
        }

    def save_receipt(self, account: str, name: str) -> None:
        """Note a receipt, so that no listing is needed to find it."""
        with self.database.transaction() as connection:
            connection.execute("INSERT OR IGNORE INTO receipts VALUES (?, ?)", (account, name))

    # work by days

    def days_done(self, task: str, account: str) -> dict[date, str]:
        """Return the days for which a task over many was done, each with the digest of what it was done with."""
        rows = self.database.select(
            "SELECT date, digest FROM days_done WHERE task = ? AND account = ?", task, account
        )
        return {date.fromisoformat(str(day)): str(digest) for day, digest in rows}

    def save_days_done(self, task: str, account: str, digests: Mapping[date, str]) -> None:
        """Note a task as done for these days. Losing this in a power loss is harmless: they are done again."""
        with self.database.transaction(is_durable=False) as connection:
            rows = [(task, account, str(day), digest) for day, digest in digests.items()]
            connection.executemany("INSERT OR REPLACE INTO days_done VALUES (?, ?, ?, ?)", rows)

    def remove_days_done(self, task: str, account: str, days: Iterable[date]) -> None:
        """Let the task begin anew for these days."""
        with self.database.transaction() as connection:
            rows = [(task, account, str(day)) for day in days]
            connection.executemany(
                "DELETE FROM days_done WHERE task = ? AND account = ? AND date = ?", rows
            )

    # runs

    def save_run(self, run: Run) -> None:
        """Insert or replace one account's part of a run."""
        with self.database.transaction() as connection:
            connection.execute(
                f"INSERT OR REPLACE INTO runs VALUES ({', '.join('?' * 13)})", run_values(run)
            )

    def runs(
        self, account: str | None = None, run_id: str | None = None, limit: int | None = None
    ) -> list[Run]:
        """Return runs, newest first."""
        where, values = _where({"account": account, "run_id": run_id})
        rows = self.database.select(
            f"SELECT * FROM runs{where} ORDER BY started_us DESC, run_id LIMIT ?",
            *values,
            limit or -1,
        )
        return [read_run(row) for row in rows]

    def last_complete(self, account: str, kind: str | None = None) -> Run | None:
        """Return the account's newest complete run, of one kind or of any."""
        where, values = _where({"account": account, "kind": kind, "outcome": "complete"})
        rows = self.database.select(
            f"SELECT * FROM runs{where} ORDER BY started_us DESC LIMIT 1", *values
        )
        return read_run(rows[0]) if rows else None

    def last_server_time(self) -> datetime | None:
        """Return the newest time a server told: of complete runs that listed, for another's may be the machine's own."""
        ((newest_us,),) = self.database.select(
            "SELECT max(started_us) FROM runs WHERE outcome = 'complete' AND kind <> 'find'"
        )
        return None if newest_us is None else from_us(newest_us)

    def last_ended(self, account: str) -> Run | None:
        """Return the account's newest run that is not under way and was not killed."""
        rows = self.database.select(
            "SELECT * FROM runs WHERE account = ? AND outcome <> 'running' ORDER BY started_us DESC, run_id LIMIT 1",
            account,
        )
        return read_run(rows[0]) if rows else None

    def last_sweep(self, account: str) -> tuple[datetime, int] | None:
        """Return when the newest run began that counted what earlier ones had missed, and how many messages it was."""
        rows = self.database.select(
            "SELECT started_us, json_extract(counts, '$.missed') AS missed FROM runs"
            " WHERE account = ? AND missed IS NOT NULL ORDER BY started_us DESC LIMIT 1",
            account,
        )
        return (from_us(rows[0][0]), int(str(rows[0][1]))) if rows else None

    def first_run_at(self, account: str) -> datetime | None:
        """Return when the account's oldest run that is still noted began."""
        ((first_us,),) = self.database.select(
            "SELECT min(started_us) FROM runs WHERE account = ?", account
        )
        return None if first_us is None else from_us(first_us)

    def complete_range(self, account: str) -> CompleteRange | None:
        """Return since when everything of the account is held, as its complete runs promised; None if none was."""
        ((since, until_us),) = self.database.select(_COMPLETE_RANGE, account)
        return (
            None
            if since is None
            else CompleteRange(date.fromisoformat(str(since)), from_us(until_us))
        )

    def prune_runs(self, before: datetime) -> int:
        """Remove runs that started earlier and say how many; the exported ledger keeps them."""
        with self.database.transaction() as connection:
            return connection.execute(
                "DELETE FROM runs WHERE started_us < ?", (to_us(before),)
            ).rowcount

    def rename_account(self, old: str, new: str) -> None:
        """Give everything of an account another name, all or nothing."""
        with self.database.transaction() as connection:
            for table in ACCOUNT_TABLES:
                connection.execute(f"UPDATE {table} SET account = ? WHERE account = ?", (new, old))
            connection.execute(_RENAME_PATHS, (f"/account={old}/", f"/account={new}/", new))
            connection.execute("DELETE FROM days_done WHERE account IN (?, ?)", (old, new))

    # compactions

    def compactions(self, account: str | None = None) -> list[Compaction]:
        """Return the compactions that are current, sorted."""
        where, values = _where({"account": account})
        rows = self.database.select(
            f"{COMPACTIONS_SQL}{where} ORDER BY table_name, account, month", *values
        )
        return [Compaction(*row) for row in rows]

    def save_compaction(self, compaction: Compaction, sha256s: Mapping[date, str]) -> bool:
        """Call a compaction current if the month's partitions still are these; say whether they are."""
        key = (compaction.table, compaction.account, compaction.month)
        with self.database.transaction(is_durable=False) as connection:
            held = connection.execute(_MONTH, key).fetchall()
            is_current = sorted(held) == sorted(
                (str(day), sha256, None) for day, sha256 in sha256s.items()
            )
            if is_current:
                connection.execute(
                    "INSERT OR REPLACE INTO compactions VALUES (?, ?, ?, ?, ?, ?)",
                    astuple(compaction),
                )
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
        """Remove what is known of a person's own conversations, of those with others too and of the messages they sent
        there, and what `redact` cuts out of the runs' texts. The shared ones are read anew by the next run.
        """
        owned, met = (
            [(account, conversation_id) for conversation_id in each] for each in (own, shared)
        )
        with self.database.transaction() as connection:
            connection.executemany(_REMOVE_CONVERSATION, [*owned, *met])
            connection.executemany(
                "DELETE FROM placements WHERE account = ? AND conversation_id = ?", owned
            )
            for key in met:
                placed = connection.execute(_PLACED, key).fetchall()
                theirs = [(*key, message_id) for (message_id,) in placed if message_id in sent]
                connection.executemany(_REMOVE_PLACEMENT, theirs)
            for run_id, *texts in connection.execute(_RUN_TEXTS, (account,)).fetchall():
                left = [text and redact(text) for text in texts]
                if left != texts:
                    connection.execute(_SAVE_RUN_TEXTS, (*left, run_id, account))
            for (memory,) in connection.execute(
                "SELECT memory FROM memories WHERE account = ?", (account,)
            ).fetchall():
                connection.execute(
                    "UPDATE memories SET memory = ? WHERE account = ?", (redact(memory), account)
                )

    def forget_before(self, day: date) -> None:
        """Remove what is known of messages and conversations that were last active before a day."""
        with self.database.transaction() as connection:
            for table in ("placements", "days_done"):
                connection.execute(f"DELETE FROM {table} WHERE date < ?", (str(day),))
            connection.execute(
                "DELETE FROM conversations WHERE updated_us < ?", (day_start_us(day),)
            )


def _where(wanted: Mapping[str, object]) -> tuple[str, list[object]]:
    asked = {name: value for name, value in wanted.items() if value is not None}
    clause = " AND ".join(f"{name} = ?" for name in asked)
    return (f" WHERE {clause}" if clause else ""), list(asked.values())
