"""Permissions that each connection needs, and the reason for each code of the Graph API: data only.

The words for each reason are in `reasons`. Sources: Meta's conversations guide, the Messenger error
codes and the Graph error handling guide.
"""

from collections.abc import Mapping

from convo_pipeline.reasons import Connection

SCOPES: Mapping[Connection, tuple[str, ...]] = {
    "messenger": ("pages_messaging", "pages_manage_metadata", "pages_read_engagement"),
    "instagram": ("instagram_basic", "instagram_manage_messages", "pages_manage_metadata"),
    "instagram_login": ("instagram_business_basic", "instagram_business_manage_messages"),
}
"""The permissions each connection needs (conversations guide, February 2026)."""

CODES: Mapping[tuple[int, int | None], str] = {
    # (code, subcode); subcode None stands for every subcode without a line of its own
    (3, None): "permission",
    (10, None): "permission",
    (10, 2534077): "not_linked",
    (100, 33): "missing",
    (100, 2534013): "not_linked",
    (100, 2534014): "missing",
    (102, None): "token_invalid",
    (190, None): "token_invalid",
    (190, 458): "app_removed",
    (190, 459): "token_checkpoint",
    (190, 460): "token_password",
    (190, 463): "token_expired",
    (190, 464): "token_unconfirmed",
    (200, None): "advanced_access",
    (200, 2534041): "switched_off",
    (230, None): "permission",
    (368, None): "policy",
    (803, None): "missing",
    (2635, None): "version",
    (36103, None): "not_eligible",
}
