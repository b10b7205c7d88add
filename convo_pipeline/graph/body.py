"""An answer's body, decoded as it comes: never more of it than is allowed, and whether its checksum came."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Body:
    """A whole body; `content` is None if it passed the cap, `is_checked` says that no checksum was left out."""

    content: bytes | None
    is_checked: bool = True


def read_body(chunks: Iterable[bytes], encoding: str, most_bytes: int) -> Body:
    """Join a body's chunks, unpacked if they are gzip; raise zlib.error if they are broken.

    A gzip body that ends without its trailer is not refused: whoever reads it knows whether it is whole.

    >>> import gzip
    >>> packed = gzip.compress(b"{}")
    >>> read_body([packed[:5], packed[5:]], "gzip", 100), read_body([packed[:-8]], "gzip", 100).is_checked
    (Body(content=b'{}', is_checked=True), False)
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip"):
        return Body(_join(chunks, most_bytes))
    inflator = zlib.decompressobj(GZIP)
    content = _join(_inflate(inflator, chunks, most_bytes), most_bytes)
    return Body(content, is_checked=content is None or inflator.eof)


def _inflate(
    inflator: "zlib._Decompress", chunks: Iterable[bytes], most_bytes: int
) -> Iterator[bytes]:
    """Yield unpacked chunks, none much larger than the cap: a packed kilobyte may hold a megabyte."""
    for chunk in chunks:
        while chunk and not inflator.eof:
            yield inflator.decompress(chunk, most_bytes + 1)
            chunk = inflator.unconsumed_tail


def _join(chunks: Iterable[bytes], most_bytes: int) -> bytes | None:
    """Return all chunks as one; None, and no more of them is read, once they pass the cap."""
    parts: list[bytes] = []
    byte_count = 0
    for chunk in chunks:
        byte_count += len(chunk)
        if byte_count > most_bytes:
            return None
        parts.append(chunk)
    return b"".join(parts)
