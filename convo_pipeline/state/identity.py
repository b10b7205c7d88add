"""Whose inbox an account name stands for, and when a name may not stand for it: pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from convo_pipeline.errors import StoreError


@dataclass(frozen=True)
class AccountIdentity:
    """Whose inbox an account name stands for."""

    account: str
    page_id: str
    platform: str
    own_id: str | None = None
    own_username: str | None = None
    own_id_source: str | None = None
    """`asked` (the API said so), `inferred` (from the messages) or None (not known)."""


def check_identity(identity: AccountIdentity, held: Iterable[AccountIdentity]) -> AccountIdentity:
    """Return what is known of an account after this; raise a StoreError naming both if it is another one."""
    for other in held:
        if other.account == identity.account:
            return _agree(other, identity)
        if _is_same_inbox(other, identity):
            raise StoreError(
                f'{_describe(identity)} is already stored as "{other.account}"; if it was renamed, run:'
                f" convo-pipeline rename {other.account} {identity.account}"
            )
    return identity


def _agree(held: AccountIdentity, asked: AccountIdentity) -> AccountIdentity:
    is_both_asked = held.own_id_source == asked.own_id_source == "asked"
    is_other = (
        is_both_asked
        and held.own_id is not None
        and asked.own_id is not None
        and held.own_id != asked.own_id
    )
    if (held.page_id, held.platform) != (asked.page_id, asked.platform) or is_other:
        raise StoreError(
            f'the account name "{held.account}" already stands for {_describe(held)}, not for {_describe(asked)};'
            " give the new one another name"
        )
    if asked.own_id is None or (held.own_id_source == "asked" and asked.own_id_source != "asked"):
        return held
    return asked


def _is_same_inbox(left: AccountIdentity, right: AccountIdentity) -> bool:
    if (left.page_id, left.platform) != (right.page_id, right.platform):
        return False
    return left.page_id != "me" or (left.own_id is not None and left.own_id == right.own_id)


def _describe(identity: AccountIdentity) -> str:
    own = f" (own id {identity.own_id})" if identity.own_id is not None else ""
    return f"{identity.platform} page {identity.page_id}{own}"
