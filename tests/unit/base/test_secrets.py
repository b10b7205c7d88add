"""Secrets are read from the environment and never shown."""

import logging
import pickle

import pytest

from convo_pipeline.base.secrets import Credentials, RedactingFilter, read_secret, redact
from convo_pipeline.errors import SettingsError

SECRET = "EAA" + "b" * 20


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "export: the environment variable KEY is not set"),
        ({"KEY": "  "}, "export: the environment variable KEY is not set"),
        ({"KEY": "two words"}, "export: the environment variable KEY has characters"),
        ({"KEY": "schlüssel"}, "export: the environment variable KEY has characters"),
        ({"KEY": "a\x00b"}, "export: the environment variable KEY has characters"),
    ],
)
def test_an_unusable_secret_names_its_variable_and_not_its_value(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_secret("KEY", "export", environ)
    assert str(caught.value).startswith(message)
    assert not any(value.strip() and value in str(caught.value) for value in environ.values())


def test_spaces_around_a_secret_are_removed() -> None:
    assert read_secret("KEY", "export", {"KEY": f" {SECRET}\n"}) == SECRET


def test_credentials_are_neither_shown_nor_pickled() -> None:
    credentials = Credentials(SECRET, "app-secret")
    assert repr(credentials) == str(credentials) == "Credentials()"
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(credentials)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"/me?access_token={SECRET}&limit=1", "/me?access_token=***&limit=1"),
        ("appsecret_proof%3Dabc12", "appsecret_proof%3D***"),
        ('{"client_secret": "abc", "a": 1}', '{"client_secret": "***", "a": 1}'),
        ("Authorization: Bearer abc.def", "Authorization: Bearer ***"),
        (f"token {SECRET} expired", "token *** expired"),
        ("IGAA" + "x" * 16, "***"),
        ("EAA is a prefix", "EAA is a prefix"),
        ("plain text", "plain text"),
    ],
)
def test_texts_with_the_shape_of_a_secret_are_masked(text: str, expected: str) -> None:
    assert redact(text) == expected


def test_given_secrets_are_masked_in_any_shape() -> None:
    assert redact("pass=hunter2 and hunter2", ("hunter2", "")) == "pass=*** and ***"


def test_log_records_are_masked_with_their_arguments() -> None:
    record = logging.LogRecord("x", 20, "", 1, "GET %s", (f"/me?access_token={SECRET}",), None)
    assert RedactingFilter().filter(record)
    assert record.getMessage() == "GET /me?access_token=***"
