"""A machine's clock that is before `start_date` is named as the clock."""

from contextlib import closing
from datetime import date
from pathlib import Path

import pytest

from convo_pipeline.console.extraction import choose_windows
from convo_pipeline.errors import SettingsError
from convo_pipeline.lake.store import Store
from convo_pipeline.state.records import Run
from tests.support.inboxes import NOW, settings_for, small_world

OPTIONS = [(None, None, False), (date(2009, 1, 1), None, False), (None, None, True)]


@pytest.mark.parametrize("has_run", [True, False])
@pytest.mark.parametrize(("since", "until", "everything"), OPTIONS)
def test_clock_before_the_start_is_named(
    tmp_path: Path, since: date | None, until: date | None, everything: bool, has_run: bool
) -> None:
    settings = settings_for(small_world().accounts.values(), "http://127.0.0.1:1", tmp_path)
    if has_run:
        with closing(Store(settings.store)) as store:
            store.state.save_run(Run("run", "insta", "window", NOW, outcome="complete"))
    with pytest.raises(SettingsError) as caught:
        choose_windows(settings, ["insta"], date(2009, 1, 2), since, until, everything)
    assert "this machine's clock shows 2009-01-02 (UTC)" in str(caught.value)
    assert ("a run of 2026-03-10 is stored: correct the clock" in str(caught.value)) == has_run
