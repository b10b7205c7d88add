"""Alerts that are to be told, as JSON files beside the state: `<state>/alerts/<name>.json`.

An alert stays here until each of its receivers answered, and for a month after that. The files hold
account names, reasons and remedies: no secret, no address of a webhook, no message. This module
knows neither Dagster nor the network, so that `status` can show what is undelivered.
"""

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from convo_pipeline.base.json_text import dump_json, load_json
from convo_pipeline.errors import StoreError
from convo_pipeline.storage.backend import remove_file, write_file
from convo_pipeline.storage.local import LocalFolder

FOLDER = "alerts"
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)
KEPT_TOLD = timedelta(days=30)


@dataclass(frozen=True)
class Alert:
    """A failed job with its accounts, and the receivers that have not answered yet."""

    job: str
    run_id: str
    accounts: tuple[str, ...]
    lines: tuple[str, ...]
    """For each account its reason and remedy."""
    fingerprint: str
    failed_at: datetime
    next_try_at: datetime
    pending: tuple[str, ...]
    """Receivers that have not answered: `webhook` and e-mail addresses."""
    try_count: int = 0
    error: str = ""
    """Why the last try failed."""
    told_at: datetime | None = None
    """Time at which the last receiver answered."""

    @property
    def name(self) -> str:
        """Name of the file: equal for failures of one job with equal accounts and reasons."""
        return hashlib.sha256(f"{self.job}\n{self.fingerprint}".encode()).hexdigest()[:32]

    def after_try(self, pending: Iterable[str], error: str, now: datetime) -> "Alert":
        """Return the alert after a try; without an answer the next pause is twice as long.

        >>> from datetime import UTC
        >>> now = datetime(2026, 11, 22, tzinfo=UTC)
        >>> alert = Alert("j", "r", (), (), "f", now, now, ("webhook",))
        >>> for _ in range(4):
        ...     alert = alert.after_try(["webhook"], "the webhook answered 500", now)
        >>> (alert.next_try_at - now).total_seconds(), alert.after_try([], "", now).told_at == now
        (240.0, True)
        """
        left = tuple(pending)
        pause = min(FIRST_PAUSE * 2 ** min(self.try_count, 20), LONGEST_PAUSE)
        return replace(
            self,
            pending=left,
            try_count=self.try_count + 1,
            error=error,
            next_try_at=now + pause,
            told_at=None if left else now,
        )


_AS_JSON = TypeAdapter(Alert)


class Outbox:
    """The alerts of one deployment.

    If the disk is full or read-only, alerts are kept in memory: they must be told then, too.
    """

    def __init__(self, state_path: Path) -> None:
        self._files = LocalFolder(state_path)
        self._unsaved: dict[str, Alert] = {}

    def read_all(self) -> list[Alert]:
        """Return all alerts that can be read, oldest first."""
        alerts = [alert for name in self._names() if (alert := self.find(name))]
        return sorted(alerts, key=lambda alert: (alert.failed_at, alert.name))

    def damaged(self) -> list[str]:
        """Return the locations of files that cannot be read."""
        locations = (
            (name, self._files.location((FOLDER, f"{name}.json"))) for name in self._names()
        )
        return [location for name, location in locations if self.find(name) is None]

    def undelivered(self) -> list[Alert]:
        """Return the alerts that a receiver has not answered, oldest first."""
        return [alert for alert in self.read_all() if alert.pending]

    def find(self, name: str) -> Alert | None:
        """Return the alert of this name; None if there is none or its file is damaged."""
        if name in self._unsaved:
            return self._unsaved[name]
        try:
            content = self._files.read_bytes((FOLDER, f"{name}.json"))
            return _AS_JSON.validate_python(load_json(content)) if content else None
        except (ValueError, StoreError):
            return None

    def save(self, alert: Alert) -> None:
        """Write an alert; keep it in memory if it cannot be written."""
        content = dump_json(_AS_JSON.dump_python(alert, mode="json"))
        try:
            write_file(self._files, (FOLDER, f"{alert.name}.json"), content)
            self._unsaved.pop(alert.name, None)
        except StoreError:
            self._unsaved[alert.name] = alert

    def remove_told(self, before: datetime) -> None:
        """Remove the alerts that were told before a time."""
        for alert in self.read_all():
            if alert.told_at is not None and alert.told_at < before:
                self._unsaved.pop(alert.name, None)
                with suppress(StoreError):
                    remove_file(self._files, (FOLDER, f"{alert.name}.json"))

    def _names(self) -> list[str]:
        files: list[str] = []
        with suppress(StoreError):
            files = self._files.list_names((FOLDER,))
        saved = (name.removesuffix(".json") for name in files if name.endswith(".json"))
        return sorted({*saved, *self._unsaved})
