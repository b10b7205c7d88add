"""Parse the attachments, shares and reactions of a message into tuples in the order of *_NAMES.

It accepts the shapes of Meta's API and of webhooks. Keys without a column go to the row's `extra`.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from convo_pipeline.tables.payloads import NOTHING, PayloadReader, as_flag, as_text, dump

ATTACHMENT_NAMES = (
    "position", "attachment_id", "sticker_id", "kind", "mime_type", "name", "size_bytes", "url",
    "url_expires_at", "preview_url", "width", "height", "duration_seconds", "is_sticker", "title",
    "extra",
)  # fmt: skip
SHARE_NAMES = ("position", "share_id", "share_type", "link", "name", "description", "extra")
REACTION_NAMES = ("reactor_id", "reaction", "reactor_username")

_KIND_OF_KEY = {
    "generic_template": "template",
    "appointment_booking": "appointment",
    "video_data": "video",
    "audio_data": "audio",
}
_KIND_OF_TYPE = {
    **{kind: kind for kind in ("image", "video", "audio", "file", "sticker", "template")},
    **dict.fromkeys(("post", "ig_post", "reel", "ig_reel", "share"), "share"),
    **dict.fromkeys(("media", "unsupported_type"), "file"),
    "fallback": "link_preview",
    "story_mention": "story_mention",
    **dict.fromkeys(("story", "ig_story"), "story"),
    "ephemeral": "unavailable",
    "location": "location",
    "appointment_booking": "appointment",
}
"""Kind by the `type` of an attachment: in the API since 2026, and in Meta's Webhooks reference."""
_FAMILIES = ("image", "video", "audio")
_FILE_KEYS = ("file_url", "url", "mime_type")
_PLACEHOLDER_KEYS = {"id", "name"}
_IMAGE_URLS = (
    "url", "animated_gif_url", "raw_gif_image", "animated_webp_url", "raw_webp_image",
)  # fmt: skip
_IMAGE_PREVIEWS = ("preview_url", "animated_gif_preview_url", "animated_webp_preview_url")
_PAYLOAD_IDS = ("id", "ig_post_media_id", "reel_video_id", "story_media_id")
_MEDIA_KEYS = ("image_data", "video_data", "audio_data", "generic_template", "payload")

Row = tuple[object, ...]
_EXPIRY = re.compile(r"[?&]oe=([0-9A-Fa-f]{8})(?:[&#]|$)")
_HIDDEN_ID = "0"
"""The id that Meta returns for a product whose id is hidden."""


def url_expires_at(url: str | None) -> datetime | None:
    """Return when a signed link expires: its `oe`, unix seconds in hexadecimal; None without it.

    >>> url_expires_at("https://cdn.fbsbx.com/a.png?oh=1&oe=65D3A1F0")
    datetime.datetime(2024, 2, 19, 18, 46, 8, tzinfo=datetime.timezone.utc)
    """
    match = _EXPIRY.search(url) if url and "oe=" in url else None
    return datetime.fromtimestamp(int(match[1], 16), UTC) if match else None


def read_attachments(message: PayloadReader) -> list[Row]:
    """Take `attachments`; return one row per attachment, in the API's order."""
    rows: list[Row] = []
    for item in take_objects(message, "attachments"):
        fields = PayloadReader(item)
        rows.append((len(rows), *_read_attachment(fields, _find_kind(fields.rest))))
        message.is_readable &= fields.is_readable
    return rows


def _read_attachment(fields: PayloadReader, kind: str) -> Row:
    """Take an attachment in the shape of the API or of webhooks (`type` and `payload`)."""
    image, video, audio, template, payload = inner = [_open(fields, key) for key in _MEDIA_KEYS]
    attachment_id = _first_text((fields, ("id",)), (payload, _PAYLOAD_IDS))
    sticker_id = _first_text(*((each, ("sticker_id",)) for each in (fields, image, payload)))
    has_video = "url" in video.rest
    url = _first_text(
        (video, ("url",)),
        (image, _IMAGE_URLS),
        (audio, ("url",)),
        (template, ("media_url", "medial_url")),
        (fields, ("file_url", "url")),
        (payload, ("url", "story_media_url")),
    )
    preview_url = (video if has_video else image).first_text(*_IMAGE_PREVIEWS)
    width, height = _read_size(video, image)
    lengths = [
        reader.number(name)
        for reader in (video, audio, payload, fields)
        for name in ("length", "duration")
    ]
    duration_seconds = next((length for length in lengths if length is not None), None)
    title = _first_text(*((each, ("title",)) for each in (template, payload, fields)))
    if kind == "template":
        shown = _read_first_element(payload.rest)
        title = title or as_text(payload.rest.get("text")) or as_text(shown.get("title"))
        url = url or as_text(shown.get("image_url")) or as_text(shown.get("url"))
    if kind in (fields.rest.get("type"), *_KIND_OF_TYPE.values()) and kind != "share":
        fields.drop(("type",))
    image.flag("render_as_sticker")
    file = fields.text("mime_type"), fields.text("name"), fields.count("size")
    for key, reader in zip(_MEDIA_KEYS, inner, strict=True):
        fields.close(key, reader)
    return (
        attachment_id, sticker_id, kind, *file, url, url_expires_at(url), preview_url,
        width, height, duration_seconds, kind == "sticker", title, fields.dump_rest(),
    )  # fmt: skip


def _read_first_element(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the first card or product of a template; the payload keeps all of them."""
    product = payload.get("product")
    holder = product if isinstance(product, dict) else payload
    elements = holder.get("elements") or holder.get("generic")
    elements = elements.get("elements") if isinstance(elements, dict) else elements
    first = elements[0] if isinstance(elements, list) and elements else None
    return first if isinstance(first, dict) else {}


def _open(fields: PayloadReader, key: str) -> PayloadReader:
    """Open an object; a link in its place is its URL.

    The payload of a link preview can be another text; then the text stays.
    """
    value = fields.rest.get(key, {})
    if isinstance(value, str) and value.startswith(("https://", "http://")):
        return PayloadReader({"url": fields.text(key)})
    is_text = key == "payload" and not isinstance(value, dict)
    return NOTHING if is_text else fields.open(key)


def _first_text(*places: tuple[PayloadReader, tuple[str, ...]]) -> str | None:
    """Take the first text that is present. All other texts stay."""
    texts = (reader.first_text(*keys) for reader, keys in places)
    return next((text for text in texts if text is not None), None)


def _read_size(video: PayloadReader, image: PayloadReader) -> tuple[int | None, int | None]:
    """Take width and height, first of the video: its preview picture has the same keys."""
    sizes = [(media.count("width"), media.count("height")) for media in (video, image)]
    return sizes[0] if sizes[0] != (None, None) else sizes[1]


def _find_kind(item: dict[str, object]) -> str:
    """Return the kind of an attachment by the first rule that fits.

    An attachment with only an id and a name is the placeholder of European privacy rules.
    """
    image, given = item.get("image_data"), item.get("type")
    family = str(item.get("mime_type", "")).partition("/")[0].lower()
    places = [each for each in (item, image, item.get("payload")) if isinstance(each, dict)]
    if any("sticker_id" in each or as_flag(each.get("render_as_sticker")) for each in places):
        return "sticker"
    if isinstance(given, str) and given.lower() in _KIND_OF_TYPE:
        return _KIND_OF_TYPE[given.lower()]
    for key, kind in _KIND_OF_KEY.items():
        if key in item:
            return kind
    if family in _FAMILIES:
        return family
    if image is not None:
        return "image"
    if item.keys() <= _PLACEHOLDER_KEYS:
        return "unavailable"
    return "file" if not item.keys().isdisjoint(_FILE_KEYS) else "other"


def read_shares(message: PayloadReader) -> list[Row]:
    """Take `shares`; return one row per share, or one per product of a product template."""
    rows: list[Row] = []
    for item in take_objects(message, "shares"):
        fields = PayloadReader(item)
        products = [_read_product(product, fields) for product in _take_products(fields)]
        for row in products or [_read_share(fields)]:
            rows.append((len(rows), *row))
        message.is_readable &= fields.is_readable
    return rows


def _read_share(fields: PayloadReader) -> Row:
    payload = _open(fields, "payload")
    share_id = _first_text((fields, ("id",)), (payload, _PAYLOAD_IDS))
    share_type = fields.text("type")
    link = _first_text((fields, ("link", "url")), (payload, ("url", "story_media_url")))
    name = _first_text((fields, ("name", "title")), (payload, ("title",)))
    fields.close("payload", payload)
    return share_id, share_type, link, name, fields.text("description"), fields.dump_rest()


def _read_product(product: dict[str, object], share: PayloadReader) -> Row:
    fields = PayloadReader(product)
    if fields.rest.get("id") in (_HIDDEN_ID, 0):
        del fields.rest["id"]
    share_id, link = fields.text("id"), fields.first_text("url", "image_url")
    name, description = fields.first_text("name", "title"), fields.text("description")
    share.is_readable &= fields.is_readable
    extra = {**share.rest, **fields.rest}
    return share_id, "product", link, name, description, dump(extra) if extra else None


def _take_products(share: PayloadReader) -> list[dict[str, object]]:
    """Take `template.payload.product.elements`; other keys of `template` stay."""
    if "template" not in share.rest:
        return []
    template = share.open("template")
    payload = template.open("payload")
    product = payload.open("product")
    products = take_objects(product, "elements")
    payload.close("product", product)
    template.close("payload", payload)
    share.close("template", template)
    return products


def read_reactions(message: PayloadReader) -> list[Row]:
    """Take `reactions`; return one row per reaction and user, sorted.

    The reactor is "" if the API returns no user.
    """
    rows: dict[tuple[str, str], str | None] = {}
    rests: list[object] = []
    for item in take_objects(message, "reactions"):
        fields = PayloadReader(item)
        reaction = fields.first_text("reaction", "emoji")
        if reaction is None:
            message.is_readable = False
            rests.append(item)
            continue
        for reactor_id, username in _read_users(fields) or [("", None)]:
            if rows.get((reactor_id, reaction)) is None:
                rows[reactor_id, reaction] = username
        message.is_readable &= fields.is_readable
        if fields.rest:
            rests.append(fields.rest)
    message.keep("reactions", rests)
    return [(*key, rows[key]) for key in sorted(rows)]


def _read_users(reaction: PayloadReader) -> list[tuple[str, str | None]]:
    users: list[tuple[str, str | None]] = []
    rests: list[object] = []
    for item in reaction.items("users"):
        user = PayloadReader(item if isinstance(item, dict) else {"id": item})
        users.append((user.text("id") or "", user.first_text("username", "name")))
        user.drop(("email",))
        reaction.is_readable &= user.is_readable
        if user.rest:
            rests.append(user.rest)
    reaction.keep("users", rests)
    return users


def take_objects(message: PayloadReader, key: str) -> list[dict[str, object]]:
    """Take the objects of a list. Other items stay and make the message unreadable."""
    items = message.items(key)
    others = [item for item in items if not isinstance(item, dict) and item is not None]
    if others:
        message.is_readable = False
        message.keep(key, others)
    return [item for item in items if isinstance(item, dict)]
