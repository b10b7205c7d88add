"""Census of response shapes: which keys, JSON types and enumerated values Meta's API returned.

A census holds no personal data: no id, name, text, URL or token. A key or value is shown only if it
is known to this module, or if it consists of API words. Such a key is shown only where at least
half of the object's keys are known, because the keys of an object can be data. Everything else
becomes a placeholder.
So a census can be pasted into a public bug report. It is how the project learns new shapes.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convo_pipeline.graph.codes import CODES, PERMISSION_CODES

MOST_PATHS = 400
"""Paths that one census counts; further ones are counted together as `more_paths`."""
MOST_VALUES = 24
"""Different values of one path that a census counts; further ones are counted together."""
MOST_DEPTH = 12
MOST_NODES = 2_000
"""Values of one response that are counted; the rest is left out."""
MOST_CHARACTERS = 60_000
"""Length of a rendered census: an issue of GitHub holds 65,536 characters."""
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
    call_count can_reply category code conversations coordinates created_time cta cursors data
    data_access_expires_at description duration elements email emoji end_time error
    error_data error_subcode error_user_msg error_user_title expires_at fbtrace_id file_url
    folder former_participants from generic generic_template granular_scopes height id
    ig_post_media_id image_data image_type image_url instagram_business_account is_echo
    is_cut is_owner is_self_reply is_transient is_unsupported is_valid issued_at lat length link
    link_sticker_url linked_group links long max_height max_width media_url medial_url
    mention message message_count messages mid mime_type name next paging participants
    is_subscribed payload permission permissions phone_number_id picture preview_url previous
    older_messages price product
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
    web_url postback open_url phone_number account_link account_unlink game_play payment
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
CHOSEN_BY_API = frozenset({"type", "template_type", "status"})
"""Enumerations of which unknown values are shown, if they consist of API words. The values of the
others can come from a customer's device."""

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
FIRST_NAMES = frozenset({"mark", "max"})
"""API words that are not shown alone."""

_WORDS = re.compile(r"[a-z]+(?:_[a-z]+)*")
_DIGITS = re.compile(r"\d{3,}")
_KNOWN_CODES = frozenset(map(str, (*(code for code, _ in CODES), *PERMISSION_CODES)))
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

    def to_json(self) -> dict[str, dict[str, int]]:
        return {name: dict(sorted(counts.items())) for name, counts in vars(self).items() if counts}


@dataclass
class Census:
    """Counts of response shapes, by endpoint and path. Not safe for several threads at once."""

    paths: dict[str, PathShape] = field(default_factory=dict)
    responses: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, dict[str, int]] = field(default_factory=dict)
    """By endpoint: the HTTP statuses, where the values are responses."""
    more_paths: int = 0
    _nodes_left: int = 0

    def add(
        self,
        endpoint: str,
        value: object,
        status: int | None = None,
        *,
        most_items: int | None = None,
        is_walked: bool = True,
        is_record: bool = False,
    ) -> None:
        """Count the shape of one response or payload; `endpoint` is a word of ours.

        Of each list only `most_items` items are counted, spread over it. A response that is not
        walked is counted without its shape. The keys of a record are names of fields, also where
        most of them are unknown.
        """
        _count(self.responses, endpoint, 1)
        if status is not None:
            _count(self.statuses.setdefault(endpoint, {}), str(status), 1)
        if is_walked:
            self._nodes_left = MOST_NODES
            self._walk(endpoint, value, most_items, 0, is_record)

    def merge(self, other: "Census") -> bool:
        """Add the counts of another census; return whether it showed anything new."""
        before = self._count_known()
        for endpoint, count in other.responses.items():
            _count(self.responses, endpoint, count)
        for endpoint, statuses in other.statuses.items():
            for status, count in statuses.items():
                _count(self.statuses.setdefault(endpoint, {}), status, count)
        for path, shape in other.paths.items():
            own = self._shape(path)
            for name, counts in vars(shape).items() if own else ():
                for word, count in counts.items():
                    own_counts = getattr(own, name)
                    is_kept = word in own_counts or len(own_counts) < MOST_VALUES
                    _count(own_counts, word if is_kept else OTHER, count)
        self.more_paths += other.more_paths
        return self._count_known() > before

    def _count_known(self) -> int:
        shapes = self.paths.values()
        words = sum(len(each.types) + len(each.lengths) + len(each.values) for each in shapes)
        return len(self.paths) + words + sum(map(len, self.statuses.values()))

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
            "statuses": {
                endpoint: dict(sorted(counts.items()))
                for endpoint, counts in sorted(self.statuses.items())
            },
            "paths": {path: shape.to_json() for path, shape in sorted(self.paths.items())},
            "more_paths": self.more_paths,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Census":
        """Return the census that `to_json` wrote; an empty one without a value."""
        paths = {path: PathShape(**shape) for path, shape in value.get("paths", {}).items()}
        responses, statuses = value.get("responses", {}), value.get("statuses", {})
        return cls(paths, dict(responses), dict(statuses), value.get("more_paths", 0))

    def _shape(self, path: str) -> PathShape | None:
        """Return the shape at a path; None where the census is full."""
        if path not in self.paths:
            if len(self.paths) >= MOST_PATHS:
                self.more_paths += 1
                return None
            self.paths[path] = PathShape()
        return self.paths[path]

    def _walk(
        self,
        path: str,
        value: object,
        most_items: int | None,
        depth: int,
        is_record: bool = False,
    ) -> None:
        shape = self._shape(path)
        if shape is None or self._nodes_left <= 0:
            return
        self._nodes_left -= 1
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
            is_map = not is_record and _is_map(value)
            for key, item in value.items():
                is_masked = is_map and key not in KNOWN_KEYS
                name = _masked_key(key) if is_masked else shown_key(key)
                self._walk(f"{path}.{name}", item, most_items, depth + 1)
        elif isinstance(value, list):
            for item in _spread(value, most_items):
                self._walk(f"{path}[]", item, most_items, depth + 1)


def _spread(items: Sequence[object], most: int | None) -> Iterator[object]:
    """Yield all items, or `most` items at equal distances.

    >>> list(_spread(range(100), 5))
    [0, 20, 40, 60, 80]
    """
    count = len(items) if most is None else min(most, len(items))
    return (items[index * len(items) // count] for index in range(count))


def _is_map(value: Mapping[str, object]) -> bool:
    """Return whether most keys of an object are not known.

    They can be data, such as ids or user names. A user name can consist of API words.
    """
    return sum(key in KNOWN_KEYS for key in value) * 2 < len(value)


def _masked_key(key: str) -> str:
    return ID_KEY if _DIGITS.search(key) else UNKNOWN_KEY


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
    if key.isdigit():
        return ID_KEY
    return key if _is_api_name(key) else UNKNOWN_KEY


def is_unknown_path(path: str) -> bool:
    """Say whether a path contains a key that is not known."""
    keys = path.replace("[]", "").split(".")[1:]
    return any(key not in KNOWN_KEYS and key != ID_KEY for key in keys)


def render(census: Census) -> str:
    """Return the census as lines of text; `!` marks what is unknown.

    Where it would be longer than `MOST_CHARACTERS`, known paths are left out first.
    """
    lines: list[str] = []
    for endpoint, count in sorted(census.responses.items()):
        statuses = sorted(census.statuses.get(endpoint, {}).items())
        shown = ", ".join(f"HTTP {status} {number}" for status, number in statuses)
        lines.append(f"{endpoint}: {count}{f' ({shown})' if shown else ''}")
        for path, shape in sorted(census.paths.items()):
            name, _, rest = path.partition(".")
            if name.replace("[]", "") == endpoint and path != endpoint:
                lines.append(_render_path(path, rest or path, shape))
    left_out = 0
    for mark in ("  ", "! "):
        for index in reversed(range(len(lines))):
            if sum(map(len, lines)) + len(lines) <= MOST_CHARACTERS:
                break
            if lines[index].startswith(mark):
                del lines[index]
                left_out += 1
    if census.more_paths:
        lines.append(f"! {census.more_paths} further paths were not counted one by one")
    if left_out:
        lines.append(f"! {left_out} lines were left out; --json shows them")
    return "\n".join(lines)


def _render_path(path: str, shown_path: str, shape: PathShape) -> str:
    parts = [" ".join(f"{kind} {number}" for kind, number in sorted(shape.types.items()))]
    if shape.lengths:
        parts.append("length " + " ".join(f"{k}:{v}" for k, v in _by_bound(shape.lengths)))
    if shape.values:
        values = (
            f"{'' if _is_known(path, value) else '!'}{value}:{number}"
            for value, number in sorted(shape.values.items())
        )
        parts.append("values " + " ".join(values))
    is_unknown = is_unknown_path(path) or any(not _is_known(path, each) for each in shape.values)
    return f"{'!' if is_unknown else ' '} {shown_path}: " + "; ".join(parts)


def _is_api_name(text: str) -> bool:
    is_name = text not in FIRST_NAMES and API_WORDS.issuperset(text.split("_"))
    return bool(is_name and len(text) <= 40 and _WORDS.fullmatch(text))


def _enumerated(path: str, value: str | int) -> str | None:
    """Return an enumerated value as a census shows it; None where the path is no enumeration."""
    if _is_code(path):
        is_code = isinstance(value, int) and -1000 <= value < 10_000_000
        return str(value) if is_code else OTHER
    known = _known_values(path)
    if not known:
        return None
    if not isinstance(value, str):
        return OTHER
    if EMOJI in known and len(value) <= 16 and not any(map(str.isalnum, value)):
        return EMOJI
    is_shown = value in known or (_last_key(path) in CHOSEN_BY_API and _is_api_name(value))
    return value if is_shown else OTHER


def _is_known(path: str, value: str) -> bool:
    """Say whether an enumerated value or error code is known."""
    if path.endswith(".error.code"):
        return value in _KNOWN_CODES
    return path.endswith(".error.error_subcode") or value in _known_values(path)


def _is_code(path: str) -> bool:
    return path.endswith((".error.code", ".error.error_subcode"))


def _last_key(path: str) -> str:
    return path.replace("[]", "").rpartition(".")[2]


def _known_values(path: str) -> frozenset[str]:
    last = _last_key(path)
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
