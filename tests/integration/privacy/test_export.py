"""Exports contain pseudonyms instead of ids and names."""

import csv
import hashlib
import hmac
import stat
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from convo_pipeline.cli import main
from convo_pipeline.privacy.export import (
    EXPORTED_TABLES,
    PLAIN,
    PSEUDONYM_KINDS,
    WITH_TEXT,
    pseudonym,
)
from tests.support.byte_grep import unpacked
from tests.support.inboxes import NOW, TOKEN_VARIABLE, serve, small_world

ADA = "9990000000000101"
SECRET, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
TEXT = "=a text of Ada's"
NAMED = [ADA, "Ada Lovelace", "ada_lovelace"]
SAID = [TEXT, "a picture of Ada's", f"{ADA}@facebook.com"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake of two accounts and its configuration."""
    home, world = tmp_path_factory.mktemp("export"), small_world()
    for account in world.accounts.values():
        ada = account.add_conversation("Ada Lovelace", ADA)
        ada.add_message(
            TEXT, NOW.replace(day=2), attachments=[{"id": "5", "name": "a picture of Ada's"}]
        )
        ada.add_message("we answer", NOW.replace(day=3), is_ours=True).react(
            "❤️", {"id": ADA, "username": "ada_lovelace"}
        )
        account.add_conversation("Bob", "9990000000000202").add_messages(2, NOW.replace(day=3))
    with serve(home / "lake", world) as inboxes:
        inboxes.extract_whole()
    entries = "".join(
        f'[[accounts]]\nname = "{name}"\npage_id = "{page_id}"\nplatform = "{platform}"\n'
        f'token_env = "{TOKEN_VARIABLE}"\nstart_date = "2026-03-01"\n'
        for name, page_id, platform in (
            ("insta", "1111111111", "instagram"),
            ("mess", "2222222222", "messenger"),
        )
    )
    (home / "convo.toml").write_text(
        f'[store]\nroot = "{home / "lake"}"\n[export]\nsecret_env = "SECRET"\n{entries}'
    )
    return home


def export(home: Path, to: Path, *options: str, secret: str | None = SECRET) -> Result:
    words = ["--config", str(home / "convo.toml"), "export", "--to", str(to), *options]
    return CliRunner().invoke(main, words, env={"SECRET": secret})


def contents(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in folder.iterdir():
        yield path.name, path.read_bytes() + unpacked(path)


def rows(folder: Path, table: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = pq.read_table(folder / f"{table}.parquet").to_pylist()
    return rows


def test_s17_person_has_one_code_everywhere_and_no_name_or_text_is_exported(
    home: Path, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        assert export(home, tmp_path / name, secret=SECRET).exit_code == 0
    one = tmp_path / "one"
    assert sorted(path.name for path in one.iterdir()) == sorted(
        f"{table.name}.parquet" for table in EXPORTED_TABLES
    )
    assert [
        (name, word)
        for name, content in contents(one)
        for word in (*NAMED, *SAID)
        if word.encode() in content
    ] == []
    ada = pseudonym(ADA, "person", SECRET.encode())
    assert (
        ada == hmac.new(SECRET.encode(), f"person:{ADA}".encode(), hashlib.sha256).hexdigest()[:32]
    )
    for table, column in (
        ("messages", "sender_id"),
        ("participant_days", "participant_id"),
        ("conversation_days", "customer_id"),
        ("reactions", "reactor_id"),
    ):
        assert ada in {row[column] for row in rows(one, table)}, table
    sent = [row for row in rows(one, "messages") if row["direction"] == "outbound"]
    assert sum(ada in row["recipient_ids"] for row in sent) == 2  # type: ignore[operator]
    message_ids = {row["message_id"] for row in rows(one, "messages")}
    assert {row["message_id"] for row in rows(one, "attachments")} <= message_ids
    assert {path.name: path.read_bytes() for path in one.iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "two").iterdir()
    }


def test_s17_codes_depend_on_the_secret(home: Path, tmp_path: Path) -> None:
    for name, secret in (("one", SECRET), ("two", OTHER)):
        assert export(home, tmp_path / name, secret=secret).exit_code == 0
    one, two = (
        {
            row[name]
            for row in rows(tmp_path / folder, "participant_days")
            for name in ("participant_id", "name", "username")
        }
        for folder in ("one", "two")
    )
    assert one & two == {None}
    hashes = {
        hash(word.encode()).hexdigest()[:32]
        for word in (ADA, f"person:{ADA}")
        for hash in (hashlib.sha256, hashlib.md5)
    }
    assert not hashes & one


def test_with_text_exports_texts_without_formulas(home: Path, tmp_path: Path) -> None:
    assert export(home, tmp_path / "out", "--with-text", "--format", "csv").exit_code == 0
    with (tmp_path / "out" / "messages.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    assert f"'{TEXT}" in texts
    everything = b"".join(content for _, content in contents(tmp_path / "out"))
    assert [word for word in SAID if word.encode() not in everything] == []
    assert [word for word in NAMED[1:] if word.encode() in everything] == []


def test_one_account_is_exported_to_private_files(home: Path, tmp_path: Path) -> None:
    done = export(home, tmp_path / "out", "mess")
    assert "messages 4" in done.stdout
    assert {
        row["account"] for table in EXPORTED_TABLES for row in rows(tmp_path / "out", table.name)
    } == {"mess"}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()} == {0o600}


def test_every_exported_column_is_in_one_list() -> None:
    spelled = [
        ({f"{table.name}.{name}", name}, name)
        for table in EXPORTED_TABLES
        for name in table.column_names
    ]
    lists = (set(PSEUDONYM_KINDS), set(WITH_TEXT), set(PLAIN))
    assert [
        name for names, name in spelled if sum(bool(names & listed) for listed in lists) != 1
    ] == []
    columns = set.union(*(names for names, _ in spelled))
    assert set.union(*lists) - columns == set()


@pytest.mark.parametrize(
    ("secret", "to", "code", "message"),
    [
        (None, "out", 2, "export: the environment variable SECRET is not set"),
        ("short", "out", 2, "SECRET holds fewer than 32 characters"),
        ("k" * 64, "out", 2, "SECRET has fewer than 8 different characters"),
        (SECRET, "lake/out", 1, "is inside the lake"),
        (SECRET, "lake/.state", 1, "is inside the lake"),
        (SECRET, ".", 1, "is not an empty folder"),
    ],
)
def test_weak_secret_or_wrong_folder_is_refused(
    home: Path, secret: str | None, to: str, code: int, message: str
) -> None:
    done = export(home, home / to, secret=secret)
    assert (done.exit_code, message in done.stderr, done.stdout) == (code, True, "")
    assert not (home / "out").exists()


@pytest.mark.parametrize("beside", [".env", ".state/secret"])
def test_secret_stored_beside_the_data_is_refused_and_not_shown(
    home: Path, tmp_path: Path, beside: str
) -> None:
    path = home / "lake" / beside
    path.write_text(f"SECRET={SECRET}\n")
    try:
        done = export(home, tmp_path / "out")
    finally:
        path.unlink()
    assert (done.exit_code, f"is also in {path}" in done.stderr, SECRET in done.stderr) == (
        2,
        True,
        False,
    )
    assert not (tmp_path / "out").exists()


def test_export_needs_a_secret_variable(home: Path, tmp_path: Path) -> None:
    text = (home / "convo.toml").read_text().replace('[export]\nsecret_env = "SECRET"\n', "")
    (tmp_path / "convo.toml").write_text(text)
    done = export(tmp_path, tmp_path / "out")
    assert (done.exit_code, "export.secret_env: name the environment variable" in done.stderr) == (
        2,
        True,
    )
