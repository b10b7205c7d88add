"""`extract.run`: accounts side by side."""

from collections.abc import Iterator
from typing import Any

import pytest

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.errors import StoppedError
from convo_pipeline.extract.report import AccountReport
from convo_pipeline.extract.run import _report_all


class Account:
    """Reports whether its run was cancelled."""

    def __init__(self, cancellation: Cancellation) -> None:
        self.cancellation = cancellation
        self.outcome = ""

    def report(self) -> AccountReport:
        try:
            self.cancellation.check()
            self.outcome = "complete"
        except StoppedError:
            self.outcome = "stopped"
        return AccountReport("acc", "complete")


class InterruptedAccounts(list[Any]):
    """Raises what Ctrl-C raises after the first account."""

    def __iter__(self) -> Iterator[Any]:
        yield self[0]
        raise KeyboardInterrupt


def test_accounts_that_had_not_begun_report_the_interrupt() -> None:
    cancellation = Cancellation()
    accounts = InterruptedAccounts(Account(cancellation) for _ in range(3))
    with pytest.raises(KeyboardInterrupt):
        _report_all(accounts, cancellation)
    assert [accounts[index].outcome for index in (1, 2)] == ["stopped", "stopped"]
