"""JSON of answers without any `paging`: it carries the token, and it changes with every answer. Pure."""

import re

from convo_pipeline.base.json_text import dump_json

_USUAL_PAGING = re.compile(
    rb',"paging":\{(?:"cursors":\{(?:"after":"[^"\\]*")?,?(?:"before":"[^"\\]*")?\})?'
    rb'(?:,?"next":"[^"\\]*")?(?:,?"previous":"[^"\\]*")?\}'
)


def without_paging(value: object) -> object:
    """Return the value with every `paging` object cut out; the input stays as it is.

    >>> without_paging({"data": [{"id": "1"}], "paging": {"next": "…"}})
    {'data': [{'id': '1'}]}
    """
    if isinstance(value, dict):
        return {key: without_paging(item) for key, item in value.items() if key != "paging"}
    if isinstance(value, list):
        return [without_paging(item) for item in value]
    return value


def dump_without_paging(value: object) -> bytes:
    """Return a value as canonical JSON without any `paging`.

    The usual ones are cut out of the text, where a quote inside a string is always escaped, so that the pattern
    cannot meet a customer's words; whatever is left is cut out of the value.

    >>> dump_without_paging({"rows": {"data": [1], "paging": {"cursors": {"after": "a"}, "next": "https://x/?access_token=T"}}})
    b'{"rows":{"data":[1]}}'
    """
    content = dump_json(value)
    if b'"paging"' not in content:
        return content
    content = _USUAL_PAGING.sub(b"", content)
    return dump_json(without_paging(value)) if b'"paging"' in content else content
