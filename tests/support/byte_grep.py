"""Search all files below a folder for texts, in raw bytes and in decoded Parquet."""

import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


def find_texts(root: Path, texts: Iterable[str], account: str = "insta") -> list[tuple[str, str]]:
    """Return (file, text) for each text in a file that can hold data of the account.

    Compacted files are shared by accounts: only the rows of this account are searched.
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
