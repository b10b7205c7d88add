"""`extract.spool` and `extract.buckets`: the journal of a run and its rows by date."""

import stat
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from convo_pipeline.base.times import day_start_us
from convo_pipeline.errors import StoreError
from convo_pipeline.extract import buckets
from convo_pipeline.extract.buckets import Buckets
from convo_pipeline.extract.observations import MessageObservation
from convo_pipeline.extract.spool import Spool, delete_old_spools, left_spools


def observation(number: int, day: date) -> MessageObservation:
    return MessageObservation(
        "c", f"m{number}", day_start_us(day), "message", 1, 0, "detailed", None, None, "{}", b"{}"
    )


def test_records_come_back_in_order_and_as_they_were(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    records = [
        {"kind": "edge", "text": "\ud83d lone", "number": 2**100},
        {"kind": "edge", "text": "مرحبا 👩‍🍳"},
    ]
    for record in records:
        spool.append(record)
    assert list(left_spools(tmp_path, "bakery")[0]) == records


def test_a_spool_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path / "state", "bakery", "run")
    spool.append({"kind": "edge"})
    modes = {
        path.name: stat.S_IMODE(path.stat().st_mode)
        for path in (tmp_path / "state" / "spool").rglob("*")
    }
    [record] = spool.folder.iterdir()
    assert modes == {"bakery": 0o700, "run": 0o700, record.name: 0o600}


@pytest.mark.parametrize(
    "paging",
    [
        {"cursors": {"before": "b", "after": "a"}, "next": "https://x/?access_token=T"},
        {"next": 'https://x/?access_token=T&q="}'},
        {"cursors": {"before": "b", "after": 'quote"d'}, "previous": "https://x/?access_token=T"},
        {"unknown": {"deep": {"next": "access_token=T"}}},
        [],
    ],
)
def test_paging_and_the_token_in_it_never_reach_the_spool(tmp_path: Path, paging: object) -> None:
    page = {"data": [{"id": "1", "shares": {"data": [], "paging": paging}}], "paging": paging}
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append({"kind": "listing", "rows": [page]})
    assert list(spool) == [
        {"kind": "listing", "rows": [{"data": [{"id": "1", "shares": {"data": []}}]}]}
    ]


def test_a_customers_words_about_paging_stay(tmp_path: Path) -> None:
    text = 'see ,"paging":{"cursors":{"after":"x"},"next":"y"} and \\"paging":{}'
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append({"kind": "edge", "message": text, "paging": {}})
    assert list(spool) == [{"kind": "edge", "message": text}]


def test_a_half_written_record_is_no_record(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    spool.append({"kind": "edge"})
    (spool.folder / "00000002.tmp").write_bytes(b'{"kind": "ed')
    assert list(spool) == [{"kind": "edge"}]


def test_a_record_that_is_not_what_was_written_is_left_out_and_named(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    for text in ("hello", "world", "!"):
        spool.append({"message": text})
    names = sorted(path.name for path in spool.folder.iterdir())
    flipped = spool.folder / names[0]
    flipped.write_bytes(flipped.read_bytes().replace(b"hello", b"hallo"))
    (spool.folder / names[2]).write_bytes(b"")
    assert (list(spool), spool.damaged) == ([{"message": "world"}], [names[0], names[2]])


def test_a_record_of_an_earlier_version_needs_no_hash(tmp_path: Path) -> None:
    spool = Spool.create(tmp_path, "bakery", "run")
    (spool.folder / "00000001.json").write_bytes(b'{"kind":"edge"}')
    assert (list(spool), spool.damaged) == ([{"kind": "edge"}], [])


@pytest.mark.parametrize("linked", ["spool", "spool/bakery", "spool/bakery/run"])
def test_a_spool_that_is_a_link_is_refused(tmp_path: Path, linked: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "bakery" / "run").mkdir(parents=True)
    link = tmp_path / "state" / linked
    link.parent.mkdir(parents=True)
    link.symlink_to(elsewhere)
    with pytest.raises(StoreError, match="is a symbolic link"):
        Spool.create(tmp_path / "state", "bakery", "run")
    with pytest.raises(StoreError, match="is a symbolic link"):
        left_spools(tmp_path / "state", "bakery")
    assert delete_old_spools(tmp_path / "state", datetime.now(UTC) + timedelta(days=8)) == 0
    assert list(elsewhere.iterdir()) == [elsewhere / "bakery"]


def test_an_unwritable_spool_is_named(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write .*/spool/bakery/run: Not a directory"):
        Spool.create(tmp_path, "bakery", "run")


def test_spools_are_deleted_after_seven_days_unless_their_account_is_still_asked(
    tmp_path: Path,
) -> None:
    Spool.create(tmp_path, "bakery", "run").append({"kind": "edge"})
    now = datetime.now(UTC)
    assert delete_old_spools(tmp_path, now + timedelta(days=6)) == 0
    assert delete_old_spools(tmp_path, now + timedelta(days=8), ["bakery", "bikes"]) == 0
    assert delete_old_spools(tmp_path, now + timedelta(days=8)) == 1
    assert left_spools(tmp_path, "bakery") == []


def test_buckets_return_each_date_once_whatever_was_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "FLUSH_ROWS", 3)
    days = [date(2026, 1, 1), date(2026, 1, 2)]
    kept = Buckets(tmp_path / "buckets")
    for number in range(8):
        kept.add(observation(number, days[number % 2]))
    assert kept.days() == days
    assert [kept.read(day)["message_id"].to_pylist() for day in days] == [
        ["m0", "m2", "m4", "m6"],
        ["m1", "m3", "m5", "m7"],
    ]


def test_buckets_of_an_earlier_try_are_scratch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "FLUSH_ROWS", 1)
    Buckets(tmp_path / "buckets").add(observation(1, date(2026, 1, 1)))
    assert Buckets(tmp_path / "buckets").days() == []
