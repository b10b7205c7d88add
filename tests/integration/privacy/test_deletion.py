"""Data deletion callback: verified signatures, erasure in every account, status texts."""

import base64
import hashlib
import hmac
import http.client
import json
import shutil
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlencode, urlsplit
from wsgiref.types import WSGIApplication
from wsgiref.validate import validator

import pytest
from click.testing import CliRunner, Result

from convo_pipeline.base.clock import Clock
from convo_pipeline.base.json_text import dump_json
from convo_pipeline.cli import main
from convo_pipeline.errors import BusyError, PayloadError, SettingsError
from convo_pipeline.extract.spool import Spool
from convo_pipeline.lake.suppression import read_receipts
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.upkeep import run_upkeep
from convo_pipeline.privacy.deletion import (
    DeletionRequest,
    finish_open_requests,
    finish_request,
    parse_signed_request,
    parse_user_id,
    read_request,
    read_requests,
    receive_request,
)
from convo_pipeline.privacy.deletion_callback import make_application, make_callback_server
from convo_pipeline.settings import DeletionSettings, parse_settings
from convo_pipeline.state.records import AccountIdentity
from tests.support.byte_grep import find_texts
from tests.support.inboxes import NOW, Inboxes, serve, small_world, stopped_clock
from tests.support.spools import append_json

ADA, BOB, NOBODY = "9990000000000101", "9990000000000202", "5550000000000001"
SECRET = "app-secret-of-the-tests"
SAID = "what Ada wrote"
STATUS_URL = "https://privacy.example.org/deletion"
PUBLISHED = (
    "vlXgu64BQGFSQrY0ZcJBZASMvYvTHu9GQ0YM9rjPSso"
    ".eyJhbGdvcml0aG0iOiJITUFDLVNIQTI1NiIsIjAiOiJwYXlsb2FkIn0"
)
"""The example of Meta's old page on signed requests; its secret is `secret`."""


def encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def sign(payload: object, secret: str = SECRET) -> str:
    text = encode(payload if isinstance(payload, bytes) else dump_json(payload))
    return f"{encode(hmac.digest(secret.encode(), text.encode(), hashlib.sha256))}.{text}"


def request_for(person_id: object, **more: object) -> str:
    return sign(
        {"algorithm": "HMAC-SHA256", "issued_at": 1_291_836_800, "user_id": person_id, **more}
    )


def test_published_example_is_accepted() -> None:
    assert parse_signed_request(PUBLISHED, "secret") == {"algorithm": "HMAC-SHA256", "0": "payload"}
    assert (
        parse_signed_request(f" {PUBLISHED}=\n".replace(".", "=.").replace("=\n", "\n"), "secret")[
            "0"
        ]
        == "payload"
    )


@pytest.mark.parametrize("person_id", [ADA, int(ADA)])
def test_user_id_may_be_text_or_number(person_id: object) -> None:
    assert parse_user_id(parse_signed_request(request_for(person_id), SECRET)) == ADA


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no signed request"),
        ("abc", "no signed request"),
        ("a" * 9000 + ".b", "no signed request"),
        ("é.é", "no signed request"),
        ("é.eyJ9", "not base64url"),
        ("!!!.eyJ9", "not base64url"),
        (request_for(ADA)[1:], "not "),
        ("." + request_for(ADA).split(".")[1], "not signed"),
        (sign({"algorithm": "HMAC-SHA256", "user_id": ADA}, "another secret"), "not signed"),
        (request_for(ADA).split(".")[0] + "." + request_for(NOBODY).split(".")[1], "not signed"),
        (request_for(ADA) + ".x", "not signed"),
        (sign({"user_id": ADA}), "another algorithm"),
        (sign({"algorithm": "none", "user_id": ADA}), "another algorithm"),
        (sign(b"[1]"), "no JSON object"),
        (sign(b"\xff"), "no JSON object"),
        *(
            (request_for(person_id), "no user_id")
            for person_id in (None, True, "", "../x", "1" * 33, {"id": ADA})
        ),
    ],
)
def test_wrong_signed_requests_are_refused(text: str, message: str) -> None:
    with pytest.raises(PayloadError, match=message) as caught:
        parse_user_id(parse_signed_request(text, SECRET))
    assert ADA not in str(caught.value)


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ada wrote to both accounts, Bob to one."""
    root = tmp_path_factory.mktemp("deletion") / "lake"
    world = small_world()
    for account in world.accounts.values():
        account.add_conversation("Ada", ADA).add_message(SAID, NOW.replace(day=3))
    world.accounts["mess"].add_conversation("Bob", BOB).add_message("Bob's", NOW.replace(day=3))
    with serve(root, world) as inboxes:
        inboxes.extract_whole()
    return root


@pytest.fixture
def inboxes(tmp_path: Path, extracted: Path) -> Iterator[Inboxes]:
    shutil.copytree(extracted, tmp_path / "lake")
    with serve(tmp_path / "lake", small_world()) as inboxes:
        inboxes.environ["APP_SECRET"] = SECRET
        deletion = DeletionSettings(app_secret_env="APP_SECRET", status_url=STATUS_URL)
        inboxes.settings = inboxes.settings.model_copy(update={"deletion": deletion})
        yield inboxes


def test_person_in_the_spool_of_a_killed_first_run_is_erased(tmp_path: Path) -> None:
    with serve(tmp_path / "lake", small_world()) as inboxes:
        inboxes.store.state.set_identity(AccountIdentity("insta", "1111111111", "instagram"))
        people = {"data": [{"id": ADA}, {"id": "1111111111"}]}
        chat = {
            "id": "t_1",
            "participants": people,
            "messages": {"data": [{"id": "m_1", "message": SAID}]},
        }
        spool = Spool.create(inboxes.store.state_path, "insta", "killed")
        append_json(
            spool,
            {
                "kind": "listing",
                "at_us": int(NOW.timestamp()) * 1_000_000,
                "folder": "",
                "fields": ["message"],
                "conversation_fields": ["participants"],
                "conversations": [chat],
                "states": [],
            },
        )
        request = DeletionRequest("code", NOW, person_id=ADA)
        assert finish_request(inboxes.settings, inboxes.store, request, NOW).accounts == ("insta",)
        assert find_texts(tmp_path, [ADA, SAID]) == []


@contextmanager
def callback(inboxes: Inboxes) -> Iterator[int]:
    """Serve the callback, checked against the WSGI rules; on exit all erasures are finished."""
    application = make_application(inboxes.settings, inboxes.environ, stopped_clock(inboxes.clock))
    with serving(validator(application)) as port:
        yield port


@contextmanager
def serving(application: WSGIApplication, timeout_seconds: float = 30) -> Iterator[int]:
    with make_callback_server(application, 0) as server:
        timeout = {"timeout": timeout_seconds}
        server.RequestHandlerClass = type("Handler", (server.RequestHandlerClass,), timeout)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask(
    port: int, method: str, path: str = "/", body: str | None = None, **headers: str
) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    form = {"Content-Type": "application/x-www-form-urlencoded"} if body is not None else {}
    connection.request(method, path, body, form | headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def post(port: int, text: str) -> tuple[int, str]:
    return ask(port, "POST", "/meta", urlencode({"signed_request": text}))


def test_s15_callback_erases_the_person_from_every_account(
    inboxes: Inboxes, capfd: pytest.CaptureFixture[str]
) -> None:
    assert find_texts(inboxes.store.root, [ADA, SAID], "insta")
    with callback(inboxes) as port:
        status, text = post(port, request_for(ADA))
    answer = json.loads(text)
    assert (status, set(answer)) == (200, {"url", "confirmation_code"})
    assert answer["url"] == f"{STATUS_URL}?code={answer['confirmation_code']}"
    assert answer["confirmation_code"].isalnum()
    for account in ("insta", "mess"):
        assert find_texts(inboxes.store.root, [ADA, SAID, SECRET], account) == []
        assert len(read_receipts(inboxes.store, account)) == 1
    assert [row["text"] for row in inboxes.rows("messages")] == ["Bob's"]
    with callback(inboxes) as port:
        page = ask(port, "GET", f"/?{urlsplit(answer['url']).query}")
        assert ask(port, "HEAD", f"/?{urlsplit(answer['url']).query}") == (200, "")
    assert (page[0], "have been deleted. Done on 2026-03-10" in page[1], ADA in page[1]) == (
        200,
        True,
        False,
    )
    output = capfd.readouterr()
    assert (output.out, output.err) == ("", "")


def test_each_request_has_its_own_code(inboxes: Inboxes) -> None:
    with callback(inboxes) as port:
        codes = [
            post(port, text)[1]
            for text in (request_for(NOBODY), request_for(NOBODY), request_for(NOBODY, issued_at=7))
        ]
    assert (codes[0] == codes[1], codes[0] == codes[2]) == (True, False)
    assert len(read_requests(inboxes.store)) == 2


def test_unknown_person_gets_a_response_and_the_id_is_not_kept(inboxes: Inboxes) -> None:
    before = inboxes.files()
    with callback(inboxes) as port:
        status, text = post(port, request_for(NOBODY))
        code = json.loads(text)["confirmation_code"]
    with callback(inboxes) as port:
        page = ask(port, "GET", f"/?code={code}")[1]
    assert (status, "Nothing is stored under the id" in page) == (200, True)
    assert (inboxes.files(), find_texts(inboxes.store.root, [NOBODY])) == (before, [])
    [request] = read_requests(inboxes.store)
    assert request == DeletionRequest(code, NOW, "not_found", NOW, (), None)


def test_request_of_an_earlier_version_is_read(inboxes: Inboxes) -> None:
    """Earlier versions wrote the outcome "nobody"."""
    saved = {
        "accounts": [],
        "code": "code",
        "finished_at": NOW.isoformat(),
        "outcome": "nobody",
        "person_id": None,
        "received_at": NOW.isoformat(),
    }
    folder = inboxes.store.state_path / "deletions"
    folder.mkdir()
    (folder / "code.json").write_bytes(dump_json(saved))
    assert read_requests(inboxes.store) == [DeletionRequest("code", NOW, "not_found", NOW)]


def test_refused_requests_change_nothing_and_are_not_quoted(
    inboxes: Inboxes,
) -> None:
    before = inboxes.files()
    with callback(inboxes) as port:
        answers = [
            post(port, sign({"algorithm": "HMAC-SHA256", "user_id": ADA}, "another secret")),
            ask(port, "POST", "/", "nothing=here"),
            ask(port, "POST", "/", "signed_request=%FF"),
            ask(port, "POST", "/", "é"),
            ask(port, "POST", "/", "", **{"Content-Length": "99999999"}),
            ask(port, "PUT", "/", "x"),
            ask(port, "GET", "/?code=../forget.key"),
            ask(port, "GET", "/"),
        ]
    assert [status for status, _ in answers] == [400, 400, 400, 400, 400, 405, 404, 404]
    assert ADA not in "".join(text for _, text in answers)
    assert (inboxes.files(), read_requests(inboxes.store)) == (before, [])


def test_nightly_upkeep_finishes_a_locked_account(inboxes: Inboxes) -> None:
    with inboxes.store.lock_account("mess"):
        with callback(inboxes) as port:
            code = json.loads(post(port, request_for(ADA))[1])["confirmation_code"]
        request = read_request(inboxes.store, code)
        assert request is not None
        assert (request.outcome, request.accounts, request.person_id) == ("open", ("insta",), ADA)
        with pytest.raises(BusyError):
            finish_open_requests(inboxes.settings, inboxes.store, NOW)
    log: list[str] = []
    assert (
        run_upkeep(
            Deployment(inboxes.settings, environ={}, clock=stopped_clock(inboxes.clock)),
            log.append,
        )
        == []
    )
    assert "deletion requests finished: 1" in log
    request = read_request(inboxes.store, code)
    assert request is not None
    assert (request.outcome, request.accounts, request.person_id) == (
        "erased",
        ("insta", "mess"),
        None,
    )
    assert find_texts(inboxes.store.root, [ADA], "mess") == []


def test_requests_that_come_close_together_are_all_finished(inboxes: Inboxes) -> None:
    """A run works on an account when they come; no request is left to the nightly upkeep."""
    people = [ADA, BOB, *(str(int(NOBODY) + number) for number in range(4))]
    application = make_application(inboxes.settings, inboxes.environ, Clock(now=inboxes.clock.now))
    with (
        serving(application) as port,
        inboxes.store.lock_account("mess"),
        ThreadPoolExecutor(len(people)) as pool,
    ):
        texts = [request_for(person) for person in people]
        answers = list(pool.map(lambda text: post(port, text), [*texts, *texts]))
        assert {request.outcome for request in read_requests(inboxes.store)} == {"open"}
    assert {status for status, _ in answers} == {200}
    outcomes = Counter(request.outcome for request in read_requests(inboxes.store))
    assert outcomes == {"erased": 2, "not_found": 4}


def test_finished_request_is_not_finished_again(inboxes: Inboxes) -> None:
    """Meta sends a request twice; the second erasure finds nobody and keeps the first result."""
    settings, store = inboxes.settings, inboxes.store
    request = receive_request(settings, store, request_for(ADA), inboxes.environ, NOW)
    first = finish_request(settings, store, request, NOW)
    assert first.outcome == "erased"
    assert finish_request(settings, store, request, NOW) == first
    assert read_requests(store) == [first]


def test_code_that_nobody_has_is_not_found_whatever_its_length(inboxes: Inboxes) -> None:
    lengths = (1, 24, 64, 65, 251, 256, 5_000, 10_000, 60_000, 70_000, 300_000)
    with callback(inboxes) as port:
        statuses = [ask(port, "GET", f"/?code={'a' * length}")[0] for length in lengths]
    assert statuses == [404] * 7 + [400] * 4


def test_length_of_a_form_is_a_small_number(inboxes: Inboxes) -> None:
    lengths = ("-1", "x", "9" * 5_000, "1e3", "99999999")
    with serving(make_application(inboxes.settings, inboxes.environ)) as port:
        statuses = [ask(port, "POST", "/", "", **{"Content-Length": text})[0] for text in lengths]
    assert statuses == [400] * len(lengths)


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /?code=abc",
        b"POST / HTTP/1.1\r\nContent-Length: 900\r\n\r\nsigned_request=abc",
        b"POST / HTTP/1.1\r\nContent-Length: 900\r\n",
        b"GET /" + b"a" * 70_000,
    ],
)
def test_stalled_connection_logs_nothing(
    inboxes: Inboxes, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    application = make_application(inboxes.settings, inboxes.environ)
    with (
        serving(application, timeout_seconds=0.2) as port,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(sent)
        with suppress(ConnectionError):
            while connection.recv(65_536):
                pass
    assert capfd.readouterr() == ("", "")


def test_stored_request_is_finished_later(inboxes: Inboxes) -> None:
    receive_request(inboxes.settings, inboxes.store, request_for(ADA), inboxes.environ, NOW)
    assert inboxes.rows("messages", "insta")
    [request] = finish_open_requests(inboxes.settings, inboxes.store, NOW)
    assert (request.outcome, finish_open_requests(inboxes.settings, inboxes.store, NOW)) == (
        "erased",
        [],
    )


def test_callback_server_listens_on_loopback_only(inboxes: Inboxes) -> None:
    application = make_application(inboxes.settings, inboxes.environ)
    with make_callback_server(application, 0) as server:
        assert server.server_address[0] == "127.0.0.1"


def test_missing_settings_are_named_at_start(inboxes: Inboxes) -> None:
    with pytest.raises(SettingsError, match=r"deletion\.app_secret_env"):
        make_application(parse_settings(b""), {})
    with pytest.raises(SettingsError, match="APP_SECRET is not set"):
        make_application(inboxes.settings, {})
    with pytest.raises(SettingsError, match=r"deletion\.status_url"):
        make_application(parse_settings(b'[deletion]\napp_secret_env = "S"'), {"S": "s"})
    with pytest.raises(SettingsError, match=r"deletion\.status_url: must be an https address"):
        parse_settings(b'[deletion]\nstatus_url = "http://example.org/deletion"')


def write_config(inboxes: Inboxes, folder: Path) -> str:
    config = folder / "convo.toml"
    config.write_text(
        f'[store]\nroot = "{inboxes.store.root}"\n'
        f'[deletion]\napp_secret_env = "APP_SECRET"\nstatus_url = "{STATUS_URL}"\n'
        '[[accounts]]\nname = "insta"\npage_id = "1111111111"\nplatform = "instagram"\n'
        'token_env = "T"\nstart_date = "2026-03-01"\n'
    )
    return str(config)


def test_commands_answer_list_and_describe_requests(inboxes: Inboxes, tmp_path: Path) -> None:
    config = write_config(inboxes, tmp_path)

    def run(*words: str, given: str = "") -> Result:
        words = ("--config", config, "deletion", *words)
        return CliRunner().invoke(main, words, input=given, env={"APP_SECRET": SECRET})

    done = run("answer", given=request_for(ADA) + "\n")
    code = json.loads(done.stdout)["confirmation_code"]
    assert (done.exit_code, done.stderr) == (0, "erased from insta, mess\n")
    assert run("status", code).stdout.startswith(f"Request {code}, received on")
    listed = run("status").stdout.split()
    assert (listed[0], listed[3:]) == (code, ["erased", "insta,", "mess"])
    assert (
        "the account may know the person by another id" in run("answer", request_for(NOBODY)).stderr
    )
    refused = run("answer", request_for(ADA)[1:])
    assert (run("status", "nobody").exit_code, refused.exit_code, ADA in refused.output) == (
        3,
        1,
        False,
    )


def test_serve_command_prints_its_address(inboxes: Inboxes, tmp_path: Path) -> None:
    config = write_config(inboxes, tmp_path)
    words = [
        sys.executable,
        "-m",
        "convo_pipeline.cli",
        "--config",
        config,
        "deletion",
        "serve",
        "--port",
        "0",
    ]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={"APP_SECRET": SECRET}
    ) as process:
        try:
            assert process.stdout is not None
            url = urlsplit(process.stdout.readline().strip())
            assert (url.hostname, ask(url.port or 0, "GET", "/?code=x")[0]) == ("127.0.0.1", 404)
        finally:
            process.terminate()
