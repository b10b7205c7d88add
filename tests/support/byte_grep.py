"""Look for texts in every byte below a root: what must be gone is gone there, however it was packed."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def find_texts(root: Path, texts: Iterable[str], account: str = "insta") -> list[tuple[str, str]]:
    """Return every file of an account, or of all, that holds a text: in its bytes or, where it is packed, unpacked.

    A segment is shared by accounts: only the account's own rows are looked into, for the others' stay.
    """
    other = "/account=mess" if account == "insta" else "/account=insta"
    paths = [path for path in root.rglob("*") if path.is_file() and other not in str(path)]
    return [
        (str(path.relative_to(root)), text)
        for path in paths
        for content in [
            shared_rows(path, account) if is_segment(path) else path.read_bytes() + unpacked(path)
        ]
        for text in texts
        if text.encode() in content or json.dumps(text).encode()[1:-1] in content
    ]


def is_segment(path: Path) -> bool:
    return ".compact" in path.parts and path.suffix == ".parquet"


def shared_rows(path: Path, account: str) -> bytes:
    rows = pq.ParquetFile(path).read()
    return as_text(rows.filter(pc.equal(rows["account"], account)))


def unpacked(path: Path) -> bytes:
    if path.suffix == ".parquet":
        return as_text(pq.ParquetFile(path).read())
    if path.suffix == ".arrow":
        return as_text(pa.ipc.open_file(path).read_all())
    return b""


def as_text(rows: pa.Table) -> bytes:
    return json.dumps(rows.to_pylist(), default=str, ensure_ascii=False).encode()
