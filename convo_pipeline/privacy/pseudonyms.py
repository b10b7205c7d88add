"""Put codes in the place of who people are, so that figures can be made without knowing them. Tables in, tables out.

A code is HMAC-SHA256 of a kind and an id or name under a secret: the same person has the same code in every table and
export, and without the secret nobody finds it by trying ids. It is still personal data: times, counts and who wrote to
whom stay, and whoever has the secret can tell who it is. Every column of every exported table stands in exactly one
of the lists here, so a new column is left out until somebody decides.
"""

import pyarrow as pa
import pyarrow.compute as pc

from convo_pipeline.lake.suppression import keyed_hash
from convo_pipeline.schema import ACCOUNT_DAYS, COVERAGE, NORMALISED, TEXT, TEXTS, Table

EXPORTED = (*NORMALISED, COVERAGE, ACCOUNT_DAYS)
CODE_CHARACTERS = 32
"""128 bits: two people of one code are not to be met."""
KINDS = {
    "conversation_id": "conversation",
    "message_id": "message",
    "reply_to_message_id": "message",
    **dict.fromkeys(
        ("sender_id", "recipient_ids", "reactor_id", "participant_id", "customer_id", "page_id"),
        "person",
    ),
    **dict.fromkeys(
        (
            "sender_name",
            "sender_username",
            "reactor_username",
            "customer_name",
            "customer_username",
        ),
        "name",
    ),
    **dict.fromkeys(("participants.name", "participants.username"), "name"),
    **dict.fromkeys(("story_id", "attachment_id", "sticker_id", "share_id"), "object"),
}
"""What a column's code is of: ids of one kind that are equal have equal codes."""
WITH_TEXT = frozenset({
    "text", "sticker_url", "story_url", "extra", "url", "preview_url", "attachments.name", "title",
    "link", "shares.name", "description", "email",
})  # fmt: skip
"""What people wrote, sent or can be reached by: only there if asked for."""
PLAIN = frozenset({
    "platform", "folder", "created_at", "first_seen_at", "changed_at", "deleted_at", "first_message_at",
    "last_message_at", "tie_rank", "position", "direction", "content_type", "attachment_count", "share_count",
    "reaction_count", "story_kind", "is_unsupported", "tags", "detail_status", "problem", "kind", "mime_type", "size_bytes",
    "url_expires_at", "width", "height", "duration_seconds", "is_sticker", "share_type", "reaction", "is_account",
    "participant_count", "message_count", "inbound_count", "outbound_count", "detailed_count",
    *COVERAGE.column_names, *ACCOUNT_DAYS.column_names,
})  # fmt: skip


def kept_names(table: Table, *, with_text: bool) -> list[str]:
    """Return the columns of a table that are exported, in its order."""
    return [name for name in table.column_names if _found(table, name, KINDS) or _found(table, name, PLAIN)
            or (with_text and _found(table, name, WITH_TEXT))]  # fmt: skip


def pseudonymise(
    table: Table, rows: pa.Table, secret: bytes, *, with_text: bool = False
) -> pa.Table:
    """Return a table's rows with codes for ids and names, without texts unless they are asked for."""
    columns = {name: rows[name] for name in kept_names(table, with_text=with_text)}
    for name in columns:
        kind = KINDS.get(_found(table, name, KINDS) or "")
        if kind:
            columns[name] = _code(columns[name], kind, secret)
    return pa.table(columns)


def _found(table: Table, name: str, listed: object) -> str | None:
    """Return under which spelling a column is listed: with its table's name or, where it means the same everywhere, without."""
    spellings = (f"{table.name}.{name}", name)
    return next((each for each in spellings if each in listed), None)  # type: ignore[operator]


def _code(column: pa.ChunkedArray, kind: str, secret: bytes) -> pa.Array:
    values = column.combine_chunks()
    if values.type == TEXTS:
        codes = _code(pa.chunked_array([pc.list_flatten(values)], TEXT), kind, secret)
        return _with_values(values, codes)
    encoded = values.dictionary_encode()
    codes = [code(text, kind, secret) for text in encoded.dictionary.to_pylist()]
    return pa.array(codes, TEXT).take(encoded.indices)


def _with_values(lists: pa.ListArray, values: pa.Array) -> pa.ListArray:
    """Return lists of the same lengths, null where they were, with other values."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_pylist()
    offsets, end = [0], 0
    for length in lengths:
        end += length
        offsets.append(end)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values, mask=pc.is_null(lists))


def code(text: str, kind: str, secret: bytes) -> str:
    """Return the code of an id or name; of nothing, nothing.

    >>> code("17", "person", b"one secret") == code("17", "person", b"another secret"), code("", "person", b"s")
    (False, '')
    """
    return keyed_hash(secret, f"{kind}:{text}")[:CODE_CHARACTERS] if text else ""
