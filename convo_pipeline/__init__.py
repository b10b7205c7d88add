"""A business's Messenger and Instagram inbox as tables that can be queried."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from convo_pipeline.query.connection import connect

__all__ = ["connect"]


def __getattr__(name: str) -> object:
    """Import `connect` on first use, so that importing the package stays cheap."""
    if name == "connect":
        from convo_pipeline.query.connection import connect

        return connect
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
