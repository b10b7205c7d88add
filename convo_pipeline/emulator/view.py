"""How a call sees the world: its time, its switches, and the form of ids, times and links."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from convo_pipeline.emulator import ids
from convo_pipeline.emulator.clock import MICROSECONDS, from_us
from convo_pipeline.emulator.switches import Switches
from convo_pipeline.emulator.world import Payload


@dataclass(frozen=True)
class CallView:
    """Time and switches of a call, and the parts of its `next` links."""

    now_us: int
    switches: Switches
    base_url: str
    version: str
    token: str | None
    """Token in `next` links; None for no token."""


def show_data(rows: Sequence[Any], switches: Switches) -> Any:
    """Return rows in the form of `data`."""
    if switches.data_shape == "object_if_single" and len(rows) == 1 and isinstance(rows[0], dict):
        return rows[0]
    return list(rows)


def show_time(moment_us: int, switches: Switches) -> str | int:
    seconds = moment_us // MICROSECONDS
    if switches.time_format == "iso":
        return from_us(seconds * MICROSECONDS).strftime("%Y-%m-%dT%H:%M:%S") + switches.time_offset
    if switches.time_format == "ms":
        return moment_us // 1000
    return seconds if switches.time_format == "unix" else str(seconds)


def show_id(meta_id: str, switches: Switches) -> str:
    return ids.hostile(meta_id) if switches.id_alphabet == "hostile" else meta_id


def read_id(shown: str, switches: Switches) -> str | None:
    """Return the world's id of a shown id; None if it is not an id of the world."""
    if switches.id_alphabet != "hostile":
        return shown
    return shown.removesuffix(ids.HOSTILE_TAIL) if shown.endswith(ids.HOSTILE_TAIL) else None


def show_paging(
    view: CallView, cut: Mapping[str, object], path: str, arguments: Mapping[str, object]
) -> Payload | None:
    """Return `paging` of an edge: cursors, and links with the token as in Meta's responses."""
    if "after" not in cut:
        return None
    paging: Payload = {"cursors": {"before": cut["before"], "after": cut["after"]}}
    if cut["has_next"]:
        paging["next"] = link(view, path, {**arguments, "after": cut["after"]})
    if cut["has_previous"]:
        paging["previous"] = link(view, path, {**arguments, "before": cut["before"]})
    return paging


def link(view: CallView, path: str, arguments: Mapping[str, object]) -> str:
    query = {"access_token": view.token} if view.token else {}
    return f"{view.base_url}/{view.version}/{path}?{urlencode({**query, **arguments})}"
