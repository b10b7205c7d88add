"""Census of response shapes: which keys, JSON types and enumerated values Meta's API returned.

A census holds no personal data: no id, name, text, URL or token. A key or value is shown only if it
is known to this module or consists of known API words; everything else becomes a placeholder.
So a census can be pasted into a public bug report. It is how the project learns new shapes.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

MOST_PATHS = 400
"""Paths that one census counts; further ones are counted together as `more_paths`."""
MOST_VALUES = 24
"""Different values of one path that a census counts; further ones are counted together."""
MOST_DEPTH = 12
LENGTH_BOUNDS = (0, 1, 16, 64, 256, 1024, 4096, 16384)
"""Lengths of strings and lists are counted up to these bounds, never exactly."""
OTHER = "<other>"
EMOJI = "<emoji>"
UNKNOWN_KEY = "<unknown key>"
ID_KEY = "<id>"


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


KNOWN_KEYS = _words(
    """
    access_token accounts ad_id ads_context_data after animated_gif_preview_url
    animated_gif_url animated_webp_preview_url animated_webp_url app_id app_secret
    application appointment_booking attachments audio_data before booking_id buttons
    call_count can_reply code conversations coordinates created_time cta cursors data
    data_access_expires_at description duration elements email emoji end_time error
    error_data error_subcode error_user_msg error_user_title expires_at fbtrace_id file_url
    folder former_participants from generic generic_template granular_scopes height id
    ig_post_media_id image_data image_type image_url instagram_business_account is_echo
    is_cut is_owner is_self_reply is_transient is_unsupported is_valid issued_at lat length link
    link_sticker_url linked_group links long max_height max_width media_url medial_url
    mention message message_count messages mid mime_type name next paging participants
    is_subscribed payload permission permissions phone_number_id picture preview_url previous
    price product
    profile_id raw_gif_image raw_webp_image reaction reactions reel_video_id
    render_as_sticker reply_to retailer_id rotation scope scoped_thread_key scopes senders
    shares size snippet source start_time status sticker sticker_id sticker_url story
    story_media_id story_media_url subject subtitle tags target_ids tasks template
    template_type text thread_id timezone title to total_cputime total_time type unread
    unread_count unseen updated_time url user_id username users video_data video_type
    wallpaper width
    """
)
"""Keys of Meta's documents and of the sampled responses (Graph API reference, v19 to v26)."""

KNOWN_VALUES: Mapping[str, frozenset[str]] = {
    "type": _words(
        """
    image video audio file sticker template fallback share post ig_post reel ig_reel story
    ig_story story_mention ephemeral media unsupported_type appointment_booking product
    location OAuthException GraphMethodException FacebookApiException GraphBatchException
    IGApiException USER PAGE APP SYSTEM_USER
    """
    ),
    "template_type": _words("generic button media receipt airline product list"),
    "name": _words("inbox read sent seen source:chat source:web source:mobile"),
    "mime_type": _words(
        """
    image/jpeg image/png image/gif image/webp video/mp4 video/quicktime audio/mp4 audio/mpeg
    audio/aac audio/ogg audio/wav application/pdf application/octet-stream application/zip
    text/plain
    """
    ),
    "reaction": _words(f"{EMOJI} smile angry sad wow love like dislike other laugh"),
    "status": _words("PENDING CONFIRMED DECLINED CANCELED REQUESTED"),
}
"""Enumerated values by the last key of their path. `name` is one only below `tags`."""

API_WORDS = _words(
    """
    access account action active activity actor ad admin ads after agent album allow amount
    animated answer api app appointment archive asset attachment audio author auto available
    before block body booking bot business button call can caption card cards category
    channel chat clip code color comment commerce contact content context conversation
    coordinates count cover create created cta currency current data date default delete
    deleted delivery description detail device direct display document download draft
    duration echo edit edited element emoji enabled end entry ephemeral error event
    expiration expired expires expiry external fallback feed feedback field file first flag
    folder for format forward forwarded from gallery generic gif group has header height
    hidden hide history icon id ids ig image in inbox index info instagram invite is item
    items json key kind label language last latitude layout lead length level like link list
    live locale location long longitude main mark max media member members mention mentions
    menu message messages meta metadata mid min mode moderation mute name new next node note
    notification num number object of offer on open option options order origin original
    other owner page paging parent participant pay payload payment permission photo picture
    pin pinned platform play poll post postback preview previous price primary priority
    privacy product profile promo public quick quote quoted raw reaction read reason receipt
    recipient ref referral rel reply request response restricted result retailer role root
    rotation sale save scheduled scope seen self send sender sent seq set share shared
    shipping shop short size snippet source spam sponsored start state status sticker store
    stories story style sub subject subscription subtitle summary support system tag tags
    target team template text theme thread thumb thumbnail time timestamp timezone title to
    token topic total transcript transient translation type unread unseen unsent unsupported
    update updated uri url user username users value variant verified version video view
    viewed views visibility visible voice wall webp width with
    """
)
"""Words of which Meta's key names consist; a key of other words might be a person's name."""

_WORDS = re.compile(r"[a-z]+(?:_[a-z]+)*")
_DIGITS = re.compile(r"\d{3,}")
_TYPE_NAMES = {
    bool: "true or false", int: "integer", float: "number", str: "string", list: "list",
    dict: "object", type(None): "null",
}  # fmt: skip


@dataclass
class PathShape:
    """Counts of one path: its JSON types, lengths by bound and enumerated values."""

    types: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    values: dict[str, int] = field(default_factory=dict)


@dataclass
class Census:
    """Counts of response shapes, by endpoint and path. Not safe for several threads at once."""

    paths: dict[str, PathShape] = field(default_factory=dict)
    responses: dict[str, int] = field(default_factory=dict)
    more_paths: int = 0

    def add(self, endpoint: str, value: object) -> None:
        """Count the shape of one response or payload; `endpoint` is a word of ours."""
        _count(self.responses, endpoint, 1)
        self._walk(endpoint, "", value, 0)

    @property
    def unknown(self) -> list[str]:
        """Return the paths with an unknown key and the unknown enumerated values, sorted."""
        found = [path for path in self.paths if is_unknown_path(path)]
        found += [
            f"{path} = {value}"
            for path, shape in self.paths.items()
            for value in shape.values
            if not _is_known(path, value)
        ]
        return sorted(found)

    def to_json(self) -> dict[str, object]:
        """Return the census as plain JSON values."""
        return {
            "responses": dict(sorted(self.responses.items())),
            "paths": {
                path: {
                    name: dict(sorted(counts.items()))
                    for name in ("types", "lengths", "values")
                    if (counts := getattr(shape, name))
                }
                for path, shape in sorted(self.paths.items())
            },
            "more_paths": self.more_paths,
        }

    def _shape(self, path: str) -> PathShape | None:
        """Return the shape at a path; None where the census is full."""
        if path not in self.paths:
            if len(self.paths) >= MOST_PATHS:
                self.more_paths += 1
                return None
            self.paths[path] = PathShape()
        return self.paths[path]

    def _walk(self, endpoint: str, path: str, value: object, depth: int) -> None:
        shape = self._shape(f"{endpoint}{path}")
        if shape is None:
            return
        _count(shape.types, _TYPE_NAMES.get(type(value), "other"), 1)
        if isinstance(value, str | list):
            _count(shape.lengths, _bound(len(value)), 1)
        if isinstance(value, str | int) and not isinstance(value, bool):
            word = _enumerated(path, value)
            if word is not None:
                known_or_room = word in shape.values or len(shape.values) < MOST_VALUES
                _count(shape.values, word if known_or_room else OTHER, 1)
        if depth >= MOST_DEPTH:
            return
        if isinstance(value, Mapping):
            for key, item in value.items():
                self._walk(endpoint, f"{path}.{shown_key(key)}", item, depth + 1)
        elif isinstance(value, list):
            for item in value:
                self._walk(endpoint, f"{path}[]", item, depth + 1)


def shown_key(key: object) -> str:
    """Return a key as a census shows it.

    >>> shown_key("mime_type"), shown_key("voice_transcript"), shown_key("ada_invented")
    ('mime_type', 'voice_transcript', '<unknown key>')
    >>> shown_key("17841400000000001")
    '<id>'
    """
    if not isinstance(key, str):
        return UNKNOWN_KEY
    if key in KNOWN_KEYS:
        return key
    if _DIGITS.search(key):
        return ID_KEY
    is_api_name = len(key) <= 40 and _WORDS.fullmatch(key) and API_WORDS.issuperset(key.split("_"))
    return key if is_api_name else UNKNOWN_KEY


def is_unknown_path(path: str) -> bool:
    """Say whether a path contains a key that is not known."""
    keys = path.replace("[]", "").split(".")[1:]
    return any(key not in KNOWN_KEYS and key != ID_KEY for key in keys)


def render(census: Census) -> str:
    """Return the census as lines of text; `!` marks what is unknown."""
    lines = []
    for endpoint, count in sorted(census.responses.items()):
        lines.append(f"{endpoint}: {count}")
        for path, shape in sorted(census.paths.items()):
            name, _, rest = path.partition(".")
            if name.replace("[]", "") != endpoint or path == endpoint:
                continue
            mark = "!" if is_unknown_path(path) else " "
            parts = [" ".join(f"{kind} {number}" for kind, number in sorted(shape.types.items()))]
            if shape.lengths:
                parts.append("length " + " ".join(f"{k}:{v}" for k, v in _by_bound(shape.lengths)))
            if shape.values:
                values = (
                    f"{'' if _is_known(path, value) else '!'}{value}:{number}"
                    for value, number in sorted(shape.values.items())
                )
                parts.append("values " + " ".join(values))
            lines.append(f"{mark} {rest or path}: " + "; ".join(parts))
    if census.more_paths:
        lines.append(f"! {census.more_paths} further paths were not counted one by one")
    return "\n".join(lines)


def _enumerated(path: str, value: str | int) -> str | None:
    """Return an enumerated value as a census shows it; None where the path is no enumeration."""
    if _is_code(path):
        is_code = isinstance(value, int) and -1000 <= value < 100_000_000
        return str(value) if is_code else OTHER
    known = _known_values(path)
    if not known:
        return None
    if not isinstance(value, str):
        return OTHER
    if EMOJI in known and len(value) <= 16 and not any(map(str.isalnum, value)):
        return EMOJI
    is_api_name = len(value) <= 40 and _WORDS.fullmatch(value)
    is_shown = value in known or (is_api_name and API_WORDS.issuperset(value.split("_")))
    return value if is_shown else OTHER


def _is_known(path: str, value: str) -> bool:
    """Say whether an enumerated value is known; every error code is, `graph/codes.py` has them."""
    return _is_code(path) or value in _known_values(path)


def _is_code(path: str) -> bool:
    return path.endswith((".error.code", ".error.error_subcode"))


def _known_values(path: str) -> frozenset[str]:
    last = path.replace("[]", "").rpartition(".")[2]
    if last == "name" and ".tags" not in path:
        return frozenset()
    return KNOWN_VALUES.get(last, frozenset())


def _bound(length: int) -> str:
    return next((f"≤{bound}" for bound in LENGTH_BOUNDS if length <= bound), "more")


def _by_bound(lengths: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    order = [*(f"≤{bound}" for bound in LENGTH_BOUNDS), "more"]
    return sorted(lengths.items(), key=lambda each: order.index(each[0]))


def _count(counts: dict[str, int], name: str, count: int) -> None:
    counts[name] = counts.get(name, 0) + count
