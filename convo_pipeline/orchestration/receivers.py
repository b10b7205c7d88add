"""Send one alert to one receiver: a webhook or an e-mail address.

Addresses of webhooks and mail servers are secrets, because they can hold a password. An error
contains none.
"""

import smtplib
import ssl
import threading
from collections.abc import Callable, Mapping
from email.message import EmailMessage
from urllib.parse import SplitResult, unquote, urlsplit

from convo_pipeline.base.cancellation import Cancellation
from convo_pipeline.errors import ConvoError, GraphError, SettingsError
from convo_pipeline.graph.transport import HttpTransport
from convo_pipeline.settings import AlertsSettings, is_loopback

WEBHOOK = "webhook"
TIMEOUT_SECONDS = 10.0
SMTP_PORTS = {"smtps": 465, "smtp": 587}


def receivers_of(alerts: AlertsSettings) -> tuple[str, ...]:
    """Return the receivers: `webhook`, and each e-mail address."""
    return (*([WEBHOOK] if alerts.webhook_env else []), *alerts.email_to)


def send(
    alerts: AlertsSettings,
    receiver: str,
    document: Mapping[str, object],
    environ: Mapping[str, str],
) -> None:
    """Send a document; return when the receiver accepted it, else raise ConvoError.

    An e-mail has the first line of `text` as its subject.
    """
    if receiver == WEBHOOK:
        post_json(read_webhook(alerts.webhook_env or "", environ), document)
        return
    message = EmailMessage()
    text = str(document["text"])
    message["Subject"] = text.splitlines()[0][:200]
    message["From"] = alerts.email_from or receiver
    message["To"] = receiver
    message.set_content(text)
    send_email(read_mail_server(alerts.smtp_env or "", environ), message)


def read_webhook(variable: str, environ: Mapping[str, str]) -> str:
    """Return the address in a variable; a SettingsError names the variable, never its value."""
    url, parts = _read_address("alerts.webhook_env", variable, environ)
    is_safe = parts.scheme == "https" or (
        parts.scheme == "http" and is_loopback(parts.hostname or "")
    )
    if not is_safe:
        raise SettingsError(f"alerts.webhook_env: {variable} must hold an https address")
    return url


def read_mail_server(variable: str, environ: Mapping[str, str]) -> SplitResult:
    """Return the address of a mail server; a SettingsError names the variable, never its value.

    `smtps` uses TLS from the start (port 465), `smtp` uses STARTTLS (port 587). Only a server on
    this machine may do without TLS.
    """
    _, parts = _read_address("alerts.smtp_env", variable, environ)
    if parts.scheme not in SMTP_PORTS:
        raise SettingsError(
            f"alerts.smtp_env: {variable} must hold an address such as"
            " smtps://<user>:<password>@smtp.example.org"
        )
    return parts


def _read_address(key: str, variable: str, environ: Mapping[str, str]) -> tuple[str, SplitResult]:
    url = environ.get(variable, "").strip()
    if not url:
        raise SettingsError(f"{key}: the environment variable {variable} is not set")
    try:
        parts = urlsplit(url)
        is_whole = bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_whole = False
    if not is_whole or not url.isascii() or not url.isprintable() or " " in url:
        raise SettingsError(f"{key}: {variable} must hold an address")
    return url, parts


def post_json(
    url: str, document: Mapping[str, object], timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Send the document once; a ConvoError describes the failure without the secret address.

    Like the Graph client it follows no redirect, uses no proxy variable and has one deadline.
    """
    transport = HttpTransport(timeout_seconds, 1, Cancellation())
    try:
        status = transport.post_json(url, document)
    except GraphError as error:
        raise ConvoError(f"the webhook could not be reached ({error.fault.reason})") from None
    finally:
        transport.close()
    if not 200 <= status < 300:  # 101: the server left HTTP
        raise ConvoError(f"the webhook answered {status}")


def send_email(
    server: SplitResult, message: EmailMessage, timeout_seconds: float = 3 * TIMEOUT_SECONDS
) -> None:
    """Send a message; a ConvoError describes the failure without the server's password.

    The whole conversation has one deadline: a server that sends one byte a second is left alone.
    """
    errors: list[Exception] = [TimeoutError("it took too long")]

    def work() -> None:
        try:
            _send_email(server, message)
            errors.clear()
        except Exception as error:
            errors[:] = [error]

    thread = threading.Thread(target=work, name="e-mail", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    for error in list(errors):
        code = f" {error.smtp_code}" if isinstance(error, smtplib.SMTPResponseException) else ""
        why = (isinstance(error, OSError) and error.strerror) or type(error).__name__
        raise ConvoError(f"the mail server did not accept the alert ({why}{code})")


def _send_email(server: SplitResult, message: EmailMessage) -> None:
    host = server.hostname or ""
    port = server.port or SMTP_PORTS[server.scheme]
    context = ssl.create_default_context()
    connect: Callable[[], smtplib.SMTP] = (
        (lambda: smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_SECONDS, context=context))
        if server.scheme == "smtps"
        else (lambda: smtplib.SMTP(host, port, timeout=TIMEOUT_SECONDS))
    )
    with connect() as smtp:
        smtp.ehlo()
        is_plain_allowed = is_loopback(host) and not smtp.has_extn("starttls")
        if server.scheme == "smtp" and not is_plain_allowed:
            smtp.starttls(context=context)
        if server.username:
            smtp.login(unquote(server.username), unquote(server.password or ""))
        smtp.send_message(message)
