"""Alerts: a loopback webhook receives failed runs, without secrets."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from convo_pipeline.errors import ConvoError, SettingsError
from convo_pipeline.orchestration.alerts import WHAT_NEXT, post_json, read_webhook
from convo_pipeline.orchestration.catalog import build_definitions
from convo_pipeline.orchestration.deployment import Deployment
from convo_pipeline.orchestration.runs import QUIET
from convo_pipeline.settings import Settings
from tests.support.inboxes import serve, small_world, stopped_clock
from tests.support.webhook import Webhook, serve_webhook

BAD_TOKEN = "EAAwrongwrongwrongwrong"


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    with serve_webhook() as hook:
        yield hook


@dataclass
class Home:
    """A deployment whose runs fail, the instance that records them, and the sensor."""

    deployment: Deployment
    instance: dg.DagsterInstance

    def capture(self, **tokens: str) -> dg.ExecuteInProcessResult:
        environ = {**self.deployment.environ, **tokens}
        deployment = Deployment(
            self.deployment.settings, environ=environ, clock=self.deployment.clock
        )
        job = build_definitions(deployment).resolve_job_def("capture_job")
        return job.execute_in_process(
            instance=self.instance, raise_on_error=False, run_config=QUIET
        )

    def alert(self, result: dg.ExecuteInProcessResult) -> str | None:
        """Evaluate the sensor for a failed run; return why it skipped, if it did."""
        sensor = build_definitions(self.deployment).get_repository_def().get_sensor_def("alert")
        context = dg.build_run_status_sensor_context(
            sensor_name="alert",
            dagster_event=result.get_run_failure_event(),
            dagster_instance=self.instance,
            dagster_run=self.instance.get_run_by_id(result.run_id),
        ).for_run_failure()
        answer = sensor(context)
        return answer.skip_message if isinstance(answer, dg.SkipReason) else None


@pytest.fixture
def home(tmp_path: Path, webhook: Webhook) -> Iterator[Home]:
    with serve(tmp_path, small_world()) as inboxes, dg.DagsterInstance.ephemeral() as instance:
        settings = with_alerts(inboxes.settings)
        environ = {**inboxes.environ, "HOOK": webhook.url}
        yield Home(
            Deployment(settings, environ=environ, clock=stopped_clock(inboxes.clock)), instance
        )


def with_alerts(settings: Settings) -> Settings:
    alerts = settings.alerts.model_copy(update={"webhook_env": "HOOK"})
    return settings.model_copy(update={"alerts": alerts})


def test_a_failed_run_is_posted_once_without_a_secret(home: Home, webhook: Webhook) -> None:
    first = home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert(first) is None
    (document,) = webhook.documents
    assert (document["job"], document["accounts"]) == ("capture_job", ["insta", "mess"])
    text = str(document["text"])
    assert text.startswith("convo-pipeline: capture_job failed: insta, mess\ninsta: ")
    assert "materialize the failed and missing partitions" in text
    assert text.endswith("\n" + WHAT_NEXT)
    assert BAD_TOKEN not in json.dumps(document)
    again = home.capture(INBOX_TOKEN=BAD_TOKEN)
    assert home.alert(again) == "the run before failed for the same accounts and reasons"
    assert home.capture().success
    assert home.alert(home.capture(INBOX_TOKEN=BAD_TOKEN)) is None
    assert len(webhook.documents) == 2


def test_a_new_reason_of_the_same_accounts_is_posted(home: Home, webhook: Webhook) -> None:
    for token, count in ((BAD_TOKEN, 1), (BAD_TOKEN, 1), ("", 2), ("", 2), (BAD_TOKEN, 3)):
        home.alert(home.capture(INBOX_TOKEN=token))
        assert len(webhook.documents) == count, token
    assert "INBOX_TOKEN" in str(webhook.documents[1]["text"])


def test_alerts_are_off_without_a_variable(home: Home, webhook: Webhook) -> None:
    assert sensor_status(home.deployment.settings) == dg.DefaultSensorStatus.RUNNING
    assert sensor_status(Settings()) == dg.DefaultSensorStatus.STOPPED
    plain = home.deployment.settings.model_copy(update={"alerts": Settings().alerts})
    off = Home(
        Deployment(plain, environ=home.deployment.environ, clock=home.deployment.clock),
        home.instance,
    )
    assert off.alert(off.capture(INBOX_TOKEN=BAD_TOKEN)) == "alerts.webhook_env names no variable"
    assert webhook.documents == []


def sensor_status(settings: Settings) -> dg.DefaultSensorStatus:
    repository = build_definitions(Deployment(settings)).get_repository_def()
    return repository.get_sensor_def("alert").default_status


@pytest.mark.parametrize(("status", "expected"), [(500, "answered 500"), (302, "answered 302")])
def test_a_refusing_webhook_is_an_error_without_its_address(
    webhook: Webhook, status: int, expected: str
) -> None:
    webhook.status = status
    with pytest.raises(ConvoError, match=expected) as caught:
        post_json(webhook.url, {"text": "x"})
    assert "secret-path" not in str(caught.value)
    assert len(webhook.documents) == 1


def test_an_unreachable_webhook_is_an_error_without_its_address() -> None:
    with pytest.raises(ConvoError, match=r"the webhook could not be reached") as caught:
        post_json("http://127.0.0.1:9/secret-path", {"text": "x"}, timeout_seconds=2)
    assert "secret-path" not in str(caught.value)


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
    ],
)
def test_a_wrong_address_error_names_the_variable_only(value: str) -> None:
    with pytest.raises(SettingsError, match="HOOK") as caught:
        read_webhook("HOOK", {"HOOK": value})
    assert not value.strip() or value not in str(caught.value)
