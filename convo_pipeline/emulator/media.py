"""Attachments, shares, stickers, stories and reactions, in the shapes of real responses.

The world stores links without signature. `sign` adds a new signature for each response, as Meta
does.
"""

import hashlib
import random
from collections.abc import Callable

from convo_pipeline.emulator.clock import MICROSECONDS
from convo_pipeline.emulator.world import Message, Payload, stable_number

IG_CDN = "https://lookaside.fbsbx.com/ig_messaging_cdn/"
IMAGE_CDN = "https://scontent.xx.fbcdn.net/v/"
FILE_CDN = "https://cdn.fbsbx.com/v/"
VIDEO_CDN = "https://video.xx.fbcdn.net/v/"
SIGNED = (IG_CDN, IMAGE_CDN, FILE_CDN, VIDEO_CDN)
EU_NOTE = (
    "Media not available due to new privacy rules in Europe."
    " See developer documentation for more info"
)


def sign(url: str, now_us: int, hours: float) -> str:
    """Return the link with a new signature and, on CDNs that show it, an expiry time."""
    if not url.startswith(SIGNED):
        return url
    bare = url.split("&", 1)[0] if url.startswith(IG_CDN) else url.split("?", 1)[0]
    signature = hashlib.blake2b(f"{bare}:{now_us}".encode(), digest_size=24).hexdigest()
    if url.startswith(IG_CDN):
        return f"{bare}&signature={signature}"
    expiry = int(now_us / MICROSECONDS + hours * 3600)
    return f"{bare}?_nc_cat=1&oh={signature}&oe={expiry:08X}"


def _asset(key: str) -> str:
    return f"{IG_CDN}?asset_id={stable_number('asset' + key, 17)}"


def _image(key: str, rng: random.Random) -> Payload:
    return {
        "id": str(stable_number("image" + key, 15)),
        "image_data": {
            "width": 1080,
            "height": 1350,
            "max_width": 1080,
            "max_height": 1350,
            "url": _asset(key),
            "preview_url": _asset(key),
        },
    }


def _photo(key: str, rng: random.Random) -> Payload:
    name = f"{stable_number('photo' + key, 15)}"
    size = {"width": rng.choice((720, 1080, 1600)), "height": rng.choice((720, 1200))}
    return {
        "id": name,
        "mime_type": "image/jpeg",
        "name": f"image-{name}",
        "size": None,
        "image_data": {
            **size,
            "max_width": size["width"],
            "max_height": size["height"],
            "url": f"{IMAGE_CDN}{name}.jpg",
            "preview_url": f"{IMAGE_CDN}{name}_p.jpg",
            "image_type": 1,
            "render_as_sticker": False,
        },
    }


def _gif(key: str, rng: random.Random) -> Payload:
    name = str(stable_number("gif" + key, 15))
    links = (
        "url",
        "preview_url",
        "raw_gif_image",
        "raw_webp_image",
        "animated_gif_url",
        "animated_gif_preview_url",
        "animated_webp_url",
        "animated_webp_preview_url",
    )
    data: Payload = {link: f"{FILE_CDN}{name}_{link}.gif" for link in links}
    data |= {
        "width": 244,
        "height": 150,
        "max_width": 244,
        "max_height": 150,
        "image_type": 1,
        "render_as_sticker": False,
    }
    return {
        "id": name,
        "mime_type": "image/gif",
        "name": f"{name}.gif",
        "size": None,
        "image_data": data,
    }


def _video(key: str, rng: random.Random) -> Payload:
    name, length = str(stable_number("video" + key, 15)), rng.randint(2, 60)
    return {
        "id": name,
        "mime_type": "video/mp4",
        "name": f"video-{name[:6]}.mp4",
        "size": 203_000 * length,
        "image_data": {"width": 1280, "height": 720},
        "video_data": {
            "width": 1280,
            "height": 720,
            "length": length,
            "video_type": 1,
            "url": f"{VIDEO_CDN}{name}.mp4",
            "preview_url": f"{IMAGE_CDN}{name}.jpg",
            "rotation": 0,
        },
    }


def _file(key: str, rng: random.Random) -> Payload:
    name = rng.choice(("invoice.pdf", "menu.pdf", "Größentabelle.pdf", "order 12.xlsx"))
    mime = "application/pdf" if name.endswith("pdf") else "application/octet-stream"
    number = str(stable_number("file" + key, 15))
    return {
        "id": number,
        "mime_type": mime,
        "name": name,
        "size": rng.randint(8_000, 900_000),
        "file_url": f"{FILE_CDN}{number}/{name.replace(' ', '_')}",
    }


def _audio(key: str, rng: random.Random) -> Payload:
    number = str(stable_number("audio" + key, 15))
    return {
        "id": number,
        "mime_type": "audio/mpeg",
        "name": f"audioclip-{number[:10]}.mp4",
        "size": rng.randint(9_000, 200_000),
        "file_url": f"{FILE_CDN}{number}.mp4",
    }


def _template(key: str, rng: random.Random) -> Payload:
    cta = {"title": "View", "type": "web_url", "url": "https://example.org/item"}
    return {
        "id": str(stable_number("template" + key, 15)),
        "generic_template": {
            "title": "Featured this week",
            "subtitle": "While stocks last",
            "media_url": "https://example.org/item.png",
            "cta": cta,
        },
    }


def _product(key: str, rng: random.Random) -> Payload:
    item = {
        "id": "0",
        "retailer_id": f"SKU-{rng.randint(1, 99)}",
        "image_url": "https://example.org/p.png",
        "name": "Cake",
        "price": "$10",
    }
    return {"template": {"payload": {"product": {"elements": {"data": [item]}}}}}


def _reel(key: str, rng: random.Random) -> Payload:
    number = str(stable_number("reel" + key, 17))
    return {
        "type": rng.choice(("ig_reel", "reel", "post", "ig_post")),
        "id": number,
        "title": "In 30 seconds",
        "url": _asset(key),
    }


def _link(key: str, rng: random.Random) -> Payload:
    return {
        "id": None,
        "link": "https://example.org/sample.png",
        "name": "",
        "description": None,
        "picture": None,
    }


def _booking(key: str, rng: random.Random) -> Payload:
    times = {
        "start_time": "2026-03-05T10:00:00+0000",
        "end_time": "2026-03-05T10:30:00+0000",
        "timezone": "Europe/Berlin",
    }
    return {
        "id": str(stable_number("booking" + key, 15)),
        "appointment_booking": {"status": "CONFIRMED", **times},
    }


Maker = Callable[[str, random.Random], Payload]
ATTACHMENTS: dict[str, dict[str, Maker]] = {
    "instagram": {
        "image": _image,
        "template": _template,
        "voice": lambda key, rng: {"id": str(stable_number(key, 15)), "file_url": _asset(key)},
        "clip": lambda key, rng: {
            "id": str(stable_number(key, 15)),
            "video_data": {"url": _asset(key)},
        },
    },
    "messenger": {
        "image": _photo,
        "gif": _gif,
        "video": _video,
        "file": _file,
        "audio": _audio,
        "template": _template,
        "booking": _booking,
    },
}
SHARES: dict[str, Maker] = {
    "share": lambda key, rng: {"link": _asset(key)},
    "link": _link,
    "reel": _reel,
    "product": _product,
}
_MEDIA_URL, _POST_URL = "https://cdn.example.org/rare", "https://www.example.org/p/1"
RARE_MEDIA: tuple[Payload, ...] = (
    *(
        {"attachments": {"data": [attachment]}}
        for attachment in (
            *(
                {"type": kind, "payload": {"url": _MEDIA_URL}}
                for kind in ("image", "video", "audio", "file", "share", "story_mention", "media")
            ),
            {"type": "sticker", "payload": {"url": _MEDIA_URL, "sticker_id": 369239263222822}},
            {"type": "reel", "payload": {"url": _POST_URL, "title": "T", "reel_video_id": 10**16}},
            {"type": "ig_post", "payload": {"url": _POST_URL, "ig_post_media_id": "17900000001"}},
            {"type": "ig_story", "payload": {"story_media_url": _MEDIA_URL, "story_media_id": "1"}},
            {"type": "ephemeral"},
            {"type": "unsupported_type", "payload": {"url": _MEDIA_URL}},
            {"type": "template", "payload": {"generic": []}},
            {"type": "fallback", "title": "Example shop", "url": _POST_URL, "payload": None},
            {"type": "fallback", "payload": "text"},
            {"type": "location", "payload": {"coordinates": {"lat": 52.5, "long": 13.4}}},
            {"type": "kind_of_2027", "payload": {"new": [1, {"deep": None}]}},
            {"id": "1", "audio_data": {"url": _MEDIA_URL}},
            {"id": "1", "mime_type": "audio/mp4", "audio_data": {"url": _MEDIA_URL, "length": 3}},
            {"id": "1", "image_data": {"animated_gif_url": _MEDIA_URL}},
            {"id": "1", "image_data": {"url": _MEDIA_URL, "sticker_id": "369239263222822"}},
        )
    ),
    {"story": {"id": "17900000000000001", "link": _MEDIA_URL}},
    {"story": {"reply_to": {"id": "17900000000000001"}}},
    {"shares": {"data": [{"type": "kind_of_2027", "url": _POST_URL, "title": "T"}]}},
    {"sticker": {"url": _MEDIA_URL, "id": "369239263222822"}},
)
"""Media of the webhook's form, of public reports, and of kinds that do not exist yet."""
INSTAGRAM_KINDS = (
    "share",
    "story_reply",
    "story_mention",
    "image",
    "unsupported",
    "product",
    "template",
    "reel",
    "voice",
    "clip",
    "empty",
    "unsent",
    "album",
    "reacted",
)
MESSENGER_KINDS = (
    "sticker",
    "gif",
    "file",
    "video",
    "link",
    "reel",
    "template",
    "eu_note",
    "audio",
    "unsupported",
    "empty",
    "unsent",
    "album",
    "booking",
)


def dress(
    payload: Payload, kind: str, message: Message, rng: random.Random, is_ours: bool
) -> Payload:
    """Turn a text payload into a payload of the kind."""
    platform, key = message.conversation.account.platform, message.message_id
    if kind in ("text", "automatic", "oddity", "unsent"):
        return payload
    if kind == "edited":
        return payload | {"message": payload["message"] + " *"}
    if kind == "reacted":
        person = dict(
            message.conversation.people[0] if is_ours else message.conversation.account.person()
        )
        person.pop("email", None)
        return payload | {
            "reactions": [{"reaction": rng.choice(["❤️", "👍🏽", "😂", "🥐"]), "users": [person]}]
        }
    if kind == "reply_to":
        return payload | _reply_to(message, is_ours)
    payload = payload | {"message": ""}
    if maker := ATTACHMENTS[platform].get(kind):
        return payload | {"attachments": [maker(key, rng)]}
    if shared := SHARES.get(kind):
        return payload | {"shares": [shared(key, rng)]}
    return payload | _special(kind, platform, key, rng)


def _reply_to(message: Message, is_ours: bool) -> Payload:
    """Add `reply_to` with the previous message, if there is one."""
    messages = message.conversation.messages
    position = messages.index(message)
    if not position:
        return {}
    other = messages[position - 1]
    return {"reply_to": {"mid": other.message_id, "is_self_reply": False}}


def _special(kind: str, platform: str, key: str, rng: random.Random) -> Payload:
    if kind == "album":
        maker = ATTACHMENTS[platform]["image"]
        return {"attachments": [maker(f"{key}{n}", rng) for n in range(rng.randint(2, 5))]}
    if kind == "sticker":
        return {"sticker": f"{IMAGE_CDN}t39.1997-6/{stable_number(key, 15)}.png"}
    if kind == "story_reply":
        story = {"link": _asset(key), "id": str(stable_number("story" + key, 17))}
        return {
            "message": rng.choice(("Lovely shot 👍🏼", "😍😍😍", "Wow!")),
            "story": {"reply_to": story},
        }
    if kind == "story_mention":
        return {
            "story": {"mention": {"link": _asset(key), "id": str(stable_number("story" + key, 17))}}
        }
    if kind == "unsupported":
        return {"is_unsupported": True}
    if kind == "eu_note":
        return {"attachments": [{"id": str(stable_number(key, 4)), "name": EU_NOTE}]}
    return {}
