"""A mail server on a loopback port that keeps the messages it receives."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_string, policy
from email.message import EmailMessage


@dataclass
class MailServer:
    """The received messages, the reply to each recipient, and the address."""

    recipient_reply: str = "250 ok"
    messages: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"smtp://ops:canary%40home@127.0.0.1:{self.port}"


@contextmanager
def serve_mail() -> Iterator[MailServer]:
    mail = MailServer()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.say("220 here")
            while line := self.rfile.readline().decode().rstrip("\r\n"):
                word = line.split()[0].upper()
                if word == "EHLO":
                    self.say("250-here")
                    self.say("250 AUTH PLAIN")
                elif word == "AUTH":
                    mail.logins.append(line)
                    self.say("235 ok")
                elif word == "RCPT":
                    mail.recipients.append(line)
                    self.say(mail.recipient_reply)
                elif word == "DATA":
                    self.say("354 go on")
                    lines = iter(lambda: self.rfile.readline().decode().rstrip("\r\n"), ".")
                    text = "\n".join(lines)
                    mail.messages.append(message_from_string(text, policy=policy.default))  # type: ignore[arg-type]
                    self.say("250 ok")
                elif word == "QUIT":
                    self.say("221 bye")
                    return
                else:
                    self.say("250 ok")

        def say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        mail.port = server.server_address[1]
        try:
            yield mail
        finally:
            server.shutdown()
            thread.join()
