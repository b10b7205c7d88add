"""Alerts: loopback receivers get failed runs, without secrets, until they answer."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from convo_pipeline.console.status import read_status
from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.orchestration.alerts import WHAT_NEXT, build_alert, document_of
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.dead_runs import DIED_TAG
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.outbox import KEPT_TOLD, Outbox
from convo_pipeline.orchestration.partitions import RANGE_END, RANGE_START
from convo_pipeline.orchestration.receivers import (
    post_json,
    read_mail_server,
    read_webhook,
    send_email,
)
from convo_pipeline.orchestration.recorded_runs import QUIET
from convo_pipeline.settings import AlertsSettings, Settings
from tests.support.inboxes import serve, small_world, stopped_clock
from tests.support.mail_server import MailServer, serve_mail
from tests.support.webhook import Webhook, serve_webhook

BAD_TOKEN = "EAAwrongwrongwrongwrong"
OPS = "ops@example.org"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with serve_webhook() as hook:
        yield hook


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with serve_mail() as server:
        yield server


@dataclass
class Home:
    """A deployment whose runs fail, the instance that records them, and the sensor."""

    deployment: Deployment
    instance: dg.DagsterInstance
    waited: timedelta = timedelta(0)
    cursor: str | None = None
    sensor: dg.SensorDefinition | None = None
    """Kept between evaluations, as the code server does."""

    def capture(self, **tokens: str) -> dg.ExecuteInProcessResult:
        environ = {**self.deployment.environ, **tokens}
        deployment = replace(self.deployment, environ=environ)
        job = build_definitions(deployment).resolve_job_def("capture_job")
        return job.execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=QUIET
        )

    def alert(self) -> str:
        """Evaluate the sensor; return what it says."""
        clock = self.deployment.clock
        later = replace(clock, now=lambda: clock.now() + self.waited)
        context = dg.build_sensor_context(instance=self.instance, cursor=self.cursor)
        if self.sensor is None:
            self.sensor = build_alert(replace(self.deployment, clock=later))
        answer = self.sensor(context)
        assert isinstance(answer, dg.SkipReason)
        self.cursor = context.cursor
        return str(answer.skip_message)

    @property
    def outbox(self) -> Outbox:
        return Outbox(self.deployment.settings.store.state_path)

    def configure(self, **alerts: Any) -> None:
        settings = self.deployment.settings
        changed = AlertsSettings.model_validate(alerts)
        settings = settings.model_copy(update={"alerts": changed})
        self.deployment, self.sensor = replace(self.deployment, settings=settings), None


@pytest.fixture
def home(tmp_path: Path, webhook: Webhook) -> Iterator[Home]:
    with serve(tmp_path, small_world()) as inboxes, dg.DagsterInstance.ephemeral() as instance:
        environ = {**inboxes.environ, "HOOK": webhook.url}
        clock = stopped_clock(inboxes.clock)
        home = Home(Deployment(inboxes.settings, environ=environ, clock=clock), instance)
        home.configure(webhook_env="HOOK")
        assert home.alert() == "0 new, 0 told"
        yield home


def test_a_failed_run_is_posted_once_without_a_secret(home: Home, webhook: Webhook) -> None:
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "1 new, 1 told"
    (document,) = webhook.documents
    assert (document["job"], document["accounts"]) == ("capture_job", ["insta", "mess"])
    text = str(document["text"])
    assert text.startswith("convo-pipeline: capture_job failed: insta, mess\ninsta: ")
    assert "materialize the failed and missing partitions" in text
    assert text.endswith("\n" + WHAT_NEXT)
    assert BAD_TOKEN not in json.dumps(document)
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "0 new, 0 told"
    assert home.capture().success
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "1 new, 1 told"
    assert len(webhook.documents) == 2


def test_a_new_reason_of_the_same_accounts_is_posted(home: Home, webhook: Webhook) -> None:
    for token, count in ((BAD_TOKEN, 1), (BAD_TOKEN, 1), ("", 2), ("", 2), (BAD_TOKEN, 3)):
        home.capture(INBOX_TOKEN=token)
        home.alert()
        assert len(webhook.documents) == count, token
    assert "INBOX_TOKEN" in str(webhook.documents[1]["text"])


def test_an_alert_is_repeated_until_its_receiver_answers(home: Home, webhook: Webhook) -> None:
    webhook.status = 503
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "1 new, 0 told, not delivered: the webhook answered 503"
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "0 new, 0 told"
    tried_after = []
    for minute in range(180):
        home.waited = timedelta(minutes=minute)
        count = len(webhook.documents)
        home.alert()
        tried_after += [minute] * (len(webhook.documents) - count)
    pauses = [later - earlier for earlier, later in pairwise(tried_after)]
    assert pauses == sorted(pauses)
    assert (pauses[0] <= 2, max(pauses)) == (True, 60)
    webhook.status = 200
    home.waited = timedelta(hours=5)
    assert home.alert() == "0 new, 1 told"
    home.waited = timedelta(hours=50)
    assert home.alert() == "0 new, 0 told"
    assert len(home.outbox.read_all()) == 1
    home.waited += KEPT_TOLD
    home.alert()
    assert home.outbox.read_all() == []


def test_status_shows_what_no_receiver_accepted(home: Home, webhook: Webhook) -> None:
    webhook.status = 404
    home.capture()
    home.capture(INBOX_TOKEN="")
    home.alert()
    settings, now = home.deployment.settings, home.deployment.clock.now()
    (problem,) = read_status(settings, [], now).problems
    assert problem.startswith("1 alert not delivered since 2026-")
    assert "the webhook answered 404. To do: correct `[alerts]` or its receiver" in problem
    assert not read_status(settings, [], now).is_fine
    webhook.status, home.waited = 200, timedelta(minutes=5)
    home.alert()
    assert read_status(settings, [], now).problems == ()


def test_one_receiver_that_fails_does_not_stop_the_others(
    home: Home, webhook: Webhook, mail: MailServer
) -> None:
    home.configure(webhook_env="HOOK", smtp_env="MAIL", email_to=[OPS, "boss@example.org"])
    home.deployment = replace(
        home.deployment, environ={**home.deployment.environ, "MAIL": mail.url}
    )
    webhook.status = 500
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "1 new, 0 told, not delivered: the webhook answered 500"
    assert [message["To"] for message in mail.messages] == [OPS, "boss@example.org"]
    first = mail.messages[0]
    assert first["Subject"] == "convo-pipeline: capture_job failed: insta, mess"
    assert "insta: " in first.get_content()
    assert BAD_TOKEN not in first.get_content()
    assert len(mail.logins) == 2
    (waiting,) = home.outbox.undelivered()
    assert waiting.pending == ("webhook",)
    webhook.status, home.waited = 200, timedelta(minutes=5)
    assert home.alert() == "0 new, 1 told"
    assert (len(mail.messages), len(webhook.documents)) == (2, 2)


def test_a_refused_recipient_is_told_later(home: Home, mail: MailServer) -> None:
    home.configure(smtp_env="MAIL", email_to=[OPS])
    home.deployment = replace(
        home.deployment, environ={**home.deployment.environ, "MAIL": mail.url}
    )
    mail.recipient_reply = "550 unknown"
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert "not delivered: the mail server did not accept the alert" in home.alert()
    mail.recipient_reply, home.waited = "250 ok", timedelta(minutes=5)
    assert home.alert() == "0 new, 1 told"


@pytest.mark.parametrize(
    ("tags", "accounts"),
    [
        ({RANGE_START: "insta|2026-03-01", RANGE_END: "insta|2026-03-02"}, ["insta"]),
        ({"convo/accounts": "mess"}, ["mess"]),
        ({}, ["insta", "mess"]),
    ],
)
def test_a_run_that_died_before_its_first_step_names_its_accounts(
    home: Home, webhook: Webhook, tags: dict[str, str], accounts: list[str]
) -> None:
    job = build_definitions(home.deployment).resolve_job_def("capture_job")
    for died in ({}, {DIED_TAG: "true"}):
        run = home.instance.create_run_for_job(job, tags={**tags, **died})
        home.instance.report_run_failed(run)
    assert home.alert() == "2 new, 2 told"
    assert [document["accounts"] for document in webhook.documents] == [accounts] * 2
    texts = "\n".join(str(document["text"]) for document in webhook.documents)
    assert "the run ended before its first step began" in texts
    assert "the run's process is gone" in texts


def test_runs_of_other_projects_are_not_told(home: Home, webhook: Webhook) -> None:
    @dg.op
    def fail() -> None:
        raise ValueError("x")

    @dg.job
    def job_of_another_project() -> None:
        fail()

    job_of_another_project.execute_in_process(instance=home.instance, raise_on_error=False)
    assert home.alert() == "0 new, 0 told"
    assert webhook.documents == []


def test_a_long_alert_is_cut_and_calls_no_people(home: Home) -> None:
    home.configure(webhook_env="MISSING")
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    home.alert()
    (alert,) = home.outbox.undelivered()
    names = ("\x1b[31m<!channel>\n" + "x" * 9999, *(f"account-{n}" for n in range(19_999)))
    lines = tuple(f"{name}: \x1b]8;;x\x07<!channel> {'x' * 9999}" for name in names)
    document = document_of(replace(alert, accounts=names, lines=lines))
    text = str(document["text"])
    assert len(text) < 20_000
    assert "and 19,980 more" in text
    assert not set(json.dumps(document, ensure_ascii=False)) & {"\x1b", "\x07", "<", ">"}
    assert (len(json.dumps(document)) < 50_000, document["account_count"]) == (True, 20_000)


def test_alerts_are_told_although_the_disk_cannot_be_written(home: Home, webhook: Webhook) -> None:
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    (home.deployment.settings.store.state_path / "alerts").write_text("in the way")
    webhook.status = 500
    assert home.alert() == "1 new, 0 told, not delivered: the webhook answered 500"
    webhook.status, home.waited = 200, timedelta(minutes=5)
    assert home.alert() == "0 new, 1 told"
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "0 new, 0 told"
    assert len(webhook.documents) == 2


def test_a_damaged_alert_is_named_and_stops_no_other(home: Home, webhook: Webhook) -> None:
    folder = home.deployment.settings.store.state_path / "alerts"
    folder.mkdir(parents=True)
    (folder / "broken.json").write_bytes(b'{"job": 1')
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == f"1 new, 1 told, {folder}/broken.json is damaged: delete it"
    settings, now = home.deployment.settings, home.deployment.clock.now()
    assert "broken.json is damaged" in read_status(settings, [], now).problems[0]


def test_alerts_are_off_without_a_variable(home: Home, webhook: Webhook) -> None:
    assert sensor_status(home.deployment.settings) == dg.DefaultSensorStatus.RUNNING
    assert sensor_status(Settings()) == dg.DefaultSensorStatus.STOPPED
    home.configure()
    home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert() == "[alerts] names no receiver"
    assert webhook.documents == []


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    repository = build_definitions(Deployment(settings)).get_repository_def()
    return repository.get_sensor_def("alert").default_status


@pytest.mark.parametrize("status", [101, 302, 500, 999])
def test_a_refusing_webhook_is_an_error_without_its_address(webhook: Webhook, status: int) -> None:
    webhook.status = status
    with pytest.raises(ConvoError, match=f"the webhook answered {status}") as caught:
        post_json(webhook.url, {"text": "x"})
    assert "secret-path" not in str(caught.value)
    assert len(webhook.documents) == 1


def test_an_unreachable_webhook_is_an_error_without_its_address() -> None:
    with pytest.raises(ConvoError, match=r"the webhook could not be reached") as caught:
        post_json("http://127.0.0.1:9/secret-path", {"text": "x"}, timeout_seconds=2)
    assert "secret-path" not in str(caught.value)


@pytest.fixture
def drip_port() -> Iterator[int]:
    """Serve one byte at a time, for ever."""
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not is_over.wait(0.05):
                    try:
                        connection.sendall(b"2")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        is_over.set()
        thread.join()


def test_a_webhook_that_sends_byte_by_byte_has_a_deadline(drip_port: int) -> None:
    with pytest.raises(ConvoError, match="the webhook could not be reached"):
        post_json(f"http://127.0.0.1:{drip_port}/", {"text": "x"}, timeout_seconds=1)


def test_a_mail_server_that_sends_byte_by_byte_has_a_deadline(drip_port: int) -> None:
    server = read_mail_server("MAIL", {"MAIL": f"smtp://u:canary@127.0.0.1:{drip_port}"})
    with pytest.raises(ConvoError, match="did not accept the alert") as caught:
        send_email(server, EmailMessage(), timeout_seconds=1)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "  ",
        "http://example.org/x",
        "ftp://example.org",
        "https://",
        "https://a b",
        "https://[x",
        "https://example.org:99999",
        "https://example.org:0",
    ],
)
def test_a_wrong_address_error_names_the_variable_only(value: str) -> None:
    with pytest.raises(SettingsError, match="HOOK") as caught:
        read_webhook("HOOK", {"HOOK": value})
    assert not value.strip() or value not in str(caught.value)
    with pytest.raises(SettingsError, match="HOOK") as caught:
        read_mail_server("HOOK", {"HOOK": value})
    assert not value.strip() or value not in str(caught.value)
