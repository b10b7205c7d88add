"""Replace values that the API or a customer's program chose by "other", unless they are known.

`mime_type`, `share_type`, `reaction` and tags look like fixed words, but they can hold any text.
Previews and exports without texts show known words only. The tables keep the values. Pure.
"""

import mimetypes
import re
import unicodedata

OTHER = "other"
MOST_EMOJI_CHARACTERS = 12
"""Code points of the longest emoji, such as a family with skin colours."""
MIME_TYPES = frozenset({
    *mimetypes.MimeTypes(filenames=()).types_map[1].values(),
    "application/ogg", "audio/aac", "audio/amr", "audio/mp4", "audio/ogg", "audio/wav",
    "audio/webm", "audio/x-m4a", "image/heic", "image/heif", "image/webp", "video/3gpp",
    "video/ogg", "video/webm",
})  # fmt: skip
WORDS = {
    "mime_type": MIME_TYPES,
    "share_type": frozenset({
        "ad", "ephemeral", "fallback", "generic", "ig_post", "ig_reel", "link", "live", "location",
        "media_share", "post", "product", "reel", "share", "story", "story_mention", "template",
        "video",
    }),
    "reaction": frozenset({
        "angry", "care", "dislike", "haha", "laugh", "like", "love", "other", "sad", "smile", "wow",
    }),
    "tags": frozenset({
        "archived", "done", "hotmail", "inbox", "messenger", "other", "pending", "read", "seen",
        "sent", "source:chat", "source:email", "source:mms", "source:mobile", "source:sms",
        "source:web", "spam", "unread",
    }),
}  # fmt: skip
"""Known words of each column that the API fills."""
_OWN_WORD = re.compile(r"[a-z0-9_]{1,32}")


def known_word(column: str, value: str) -> str:
    """Return a value of the column if it is a known word, or a reaction that is an emoji.

    Columns that this package fills itself have short words.

    >>> known_word("mime_type", "image/png"), known_word("mime_type", "call me at home")
    ('image/png', 'other')
    >>> known_word("reaction", "❤️"), known_word("detail_status", "beyond_20")
    ('❤️', 'beyond_20')
    """
    words = WORDS.get(column)
    if words is None:
        return value if _OWN_WORD.fullmatch(value) else OTHER
    is_emoji = column == "reaction" and _is_emoji(value)
    return value if value in words or is_emoji else OTHER


def _is_emoji(text: str) -> bool:
    """Return whether a text is one emoji: symbols, and marks that belong to them."""
    kinds = {unicodedata.category(character) for character in text}
    is_short = 0 < len(text) <= MOST_EMOJI_CHARACTERS
    marks = {"\u200d", "\ufe0f", "\u20e3"}
    formats = {character for character in text if unicodedata.category(character) in ("Cf", "Me")}
    return (
        is_short
        and "So" in kinds
        and kinds <= {"So", "Sk", "Mn", "Cf", "Me"}
        and (formats <= marks)
    )
