"""Export the derived tables as one file each, with pseudonyms instead of ids and names.

A pseudonym is HMAC-SHA256 of a kind and an id under a secret. The same person has the same
pseudonym in every table and export. Without the secret nobody can find it by trying ids. The
result is still personal data: times, counts and the structure of conversations stay, and the
owner of the secret can compute each person's pseudonym.
"""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from convo_pipeline.base.csv_text import write_csv_batches
from convo_pipeline.base.secrets import read_secret
from convo_pipeline.errors import SettingsError, StoreError
from convo_pipeline.lake.store import Store
from convo_pipeline.lake.suppression import keyed_hash
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, NORMALISED, TEXT, TEXTS, Table
from convo_pipeline.settings import Settings
from convo_pipeline.storage.local import LocalFolder, make_private_folders
from convo_pipeline.tables.known_words import known_word

EXPORTED_TABLES = (*NORMALISED, COVERAGE, ACCOUNT_DAYS)
LEAST_SECRET_CHARACTERS = 32
LEAST_DISTINCT_CHARACTERS = 8
PSEUDONYM_CHARACTERS = 32
"""128 bits: two people never get the same pseudonym in practice."""
MOST_BYTES_SEARCHED = 1 << 20

# Each column of each exported table is in exactly one of the next three lists, with or without
# its table's name. A new column is not exported before a developer adds it to a list.
PSEUDONYM_KINDS = {
    "conversation_id": "conversation",
    "message_id": "message",
    "reply_to_message_id": "message",
    **dict.fromkeys(
        ("sender_id", "recipient_ids", "reactor_id", "participant_id", "customer_id", "page_id"),
        "person",
    ),
    **dict.fromkeys(
        ("sender_name", "sender_username", "reactor_username", "customer_name",
         "customer_username", "participant_days.name", "participant_days.username"),
        "name",
    ),
    **dict.fromkeys(("story_id", "attachment_id", "sticker_id", "share_id"), "object"),
}  # fmt: skip
"""Columns that become pseudonyms, and the kind of id: equal ids of one kind stay equal."""
WITH_TEXT = frozenset({
    "text", "sticker_url", "story_url", "extra", "url", "preview_url", "attachments.name", "title",
    "link", "shares.name", "description", "email",
})  # fmt: skip
"""Columns with texts, links and addresses: exported only with `with_text`."""
PLAIN = frozenset({
    "platform", "folder", "created_at", "first_seen_at", "changed_at", "deleted_at",
    "first_message_at", "last_message_at", "order_in_second", "position", "direction",
    "content_type", "attachment_count", "share_count", "reaction_count", "has_own_reaction",
    "story_kind", "is_unsupported", "tags", "detail_status", "problem", "kind", "mime_type",
    "size_bytes", "url_expires_at", "width", "height", "duration_seconds", "is_sticker",
    "share_type", "reaction", "is_account", "has_more_participants", "participant_count",
    "message_count", "inbound_count", "outbound_count", "detailed_count",
    *COVERAGE.column_names, *ACCOUNT_DAYS.column_names,
})  # fmt: skip
"""Columns that are exported as they are."""


def export_tables(
    settings: Settings,
    store: Store,
    accounts: Sequence[str],
    to: Path,
    form: str,
    environ: Mapping[str, str],
    *,
    with_text: bool,
) -> dict[str, int]:
    """Write the accounts' derived tables into `to`, as `parquet` or `csv`; return row counts.

    `to` must be a new or empty folder outside the lake, else a StoreError is raised.
    """
    secret = read_export_secret(settings, store, environ)
    _check_target(store, to)
    make_private_folders(to)
    return {
        table.name: write_file(
            to / f"{table.name}.{form}", _batches(store, table, accounts, secret, with_text)
        )
        for table in EXPORTED_TABLES
    }


def pseudonymise(
    table: Table, rows: pa.Table, secret: bytes, *, with_text: bool = False
) -> pa.Table:
    """Replace ids and names by pseudonyms; leave out texts unless `with_text`."""
    columns = {}
    for name in table.column_names:
        kind = PSEUDONYM_KINDS.get(_listed_name(table, name, PSEUDONYM_KINDS) or "")
        if kind:
            columns[name] = _pseudonym_column(rows[name], kind, secret)
        elif with_text and _listed_name(table, name, {*PLAIN, *WITH_TEXT}):
            columns[name] = rows[name]
        elif _listed_name(table, name, PLAIN):
            columns[name] = _known_words(name, rows[name])
    return pa.table(columns)


def pseudonym(text: str, kind: str, secret: bytes) -> str:
    """Return the pseudonym of an id or name; an empty text stays empty.

    >>> pseudonym("17", "person", b"one secret") == pseudonym("17", "person", b"another secret")
    False
    >>> pseudonym("", "person", b"one secret")
    ''
    """
    return keyed_hash(secret, f"{kind}:{text}")[:PSEUDONYM_CHARACTERS] if text else ""


def _listed_name(table: Table, name: str, names: Collection[str]) -> str | None:
    """Return the spelling under which a column is listed: with its table's name, or without."""
    return next((each for each in (f"{table.name}.{name}", name) if each in names), None)


def _known_words(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Replace texts that the API or a customer's program chose by "other", unless known."""
    if column.type not in (TEXT, TEXTS):
        return column
    values = column.combine_chunks()
    if column.type == TEXT:
        encoded = values.dictionary_encode()
        words = [known_word(name, text) for text in encoded.dictionary.to_pylist()]
        return pa.array(words, TEXT).take(encoded.indices)
    lists = [each and [known_word(name, text) for text in each] for each in values.to_pylist()]
    return pa.array(lists, TEXTS)


def _pseudonym_column(column: pa.ChunkedArray, kind: str, secret: bytes) -> pa.Array:
    values = column.combine_chunks()
    if values.type != TEXTS:
        encoded = values.dictionary_encode()
        pseudonyms = [pseudonym(text, kind, secret) for text in encoded.dictionary.to_pylist()]
        return pa.array(pseudonyms, TEXT).take(encoded.indices)
    items = _pseudonym_column(pa.chunked_array([pc.list_flatten(values)], TEXT), kind, secret)
    offsets = [0]
    for length in pc.fill_null(pc.list_value_length(values), 0).to_pylist():
        offsets.append(offsets[-1] + length)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), items, mask=pc.is_null(values))


def read_export_secret(settings: Settings, store: Store, environ: Mapping[str, str]) -> bytes:
    """Return the secret; a SettingsError if it is missing, short, or stored beside the data."""
    variable = settings.export.secret_env
    if variable is None:
        raise SettingsError(
            "export.secret_env: name the environment variable that holds the secret of the codes"
        )
    secret = read_secret(variable, "export", environ)
    if len(secret) < LEAST_SECRET_CHARACTERS:
        raise SettingsError(
            f"export: {variable} holds fewer than {LEAST_SECRET_CHARACTERS} characters: a short"
            " secret can be guessed"
        )
    if len(set(secret)) < LEAST_DISTINCT_CHARACTERS:
        raise SettingsError(
            f"export: {variable} has fewer than {LEAST_DISTINCT_CHARACTERS} different characters:"
            " use a random secret, for example from `openssl rand -hex 32`"
        )
    for folder in filter(Path.is_dir, _lake_folders(store)):
        for path in sorted(folder.iterdir()):
            is_small_file = path.is_file() and path.stat().st_size <= MOST_BYTES_SEARCHED
            if is_small_file and secret.encode() in path.read_bytes():
                raise SettingsError(
                    f"export: the secret in {variable} is also in {path}: keep it outside the"
                    " data root. With both, the pseudonyms can be traced back to people"
                )
    return secret.encode()


def _lake_folders(store: Store) -> list[Path]:
    """Return the folders on this machine that belong to the lake."""
    return [store.state_path, *([store.root] if isinstance(store.backend, LocalFolder) else [])]


def check_outside(store: Store, to: Path) -> None:
    """Raise StoreError if a folder is inside the lake."""
    target = to.resolve()
    if any(target.is_relative_to(folder.resolve()) for folder in _lake_folders(store)):
        raise StoreError(
            f"{to} is inside the lake. forget and retention do not reach exports:"
            " write to a folder elsewhere"
        )


def _check_target(store: Store, to: Path) -> None:
    check_outside(store, to)
    target = to.resolve()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{to} is not an empty folder: name a new one")


def _batches(
    store: Store, table: Table, accounts: Sequence[str], secret: bytes, with_text: bool
) -> Iterator[pa.Table]:
    """Yield an empty table with the columns, then the rows of one account and day at a time."""
    yield export_days(store, table, "", [], secret, with_text)
    for account in accounts:
        for day in store.days(table.name, account):
            yield export_days(store, table, account, [day], secret, with_text)


def export_days(
    store: Store, table: Table, account: str, days: Sequence[date], secret: bytes, with_text: bool
) -> pa.Table:
    """Return the exported rows of an account and some days; without days only the columns."""

    def export_rows(rows: pa.Table, day: date | None) -> pa.Table:
        exported = pseudonymise(table, rows, secret, with_text=with_text)
        partition_columns = {
            "account": pa.array([account] * rows.num_rows, pa.string()),
            "date": pa.array([day] * rows.num_rows, pa.date32()),
        }
        return pa.table(
            partition_columns | {name: exported[name] for name in exported.column_names}
        )

    parts = [export_rows(table.schema.empty_table(), None)]
    parts += [export_rows(store.read(table.name, account, day), day) for day in days]
    return pa.concat_tables(parts)


def write_file(path: Path, batches: Iterator[pa.Table]) -> int:
    """Write and sync a file, completely or not at all; return its number of rows.

    The extension is the format. The first batch has no rows, only the columns.
    """
    staged = path.with_name(f"{path.name}.part")
    try:
        row_count = WRITERS[path.suffix](staged, batches)
        with staged.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(staged, path)
    except OSError as error:
        raise StoreError(f"cannot write {path}: {error.strerror}") from None
    finally:
        staged.unlink(missing_ok=True)
    return row_count


def _write_parquet(path: Path, batches: Iterator[pa.Table]) -> int:
    row_count = 0
    with pq.ParquetWriter(path, next(batches).schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_table(batch)
            row_count += batch.num_rows
    return row_count


def _write_csv(path: Path, batches: Iterator[pa.Table]) -> int:
    with path.open("wb") as file:
        return write_csv_batches(next(batches).column_names, batches, file)


WRITERS: dict[str, Callable[[Path, Iterator[pa.Table]], int]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
}
