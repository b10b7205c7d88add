"""Command `init`: write a commented `convo.toml` to start from. It asks nothing."""

from datetime import date
from pathlib import Path

from convo_pipeline.errors import SettingsError

TEMPLATE = """\
# Settings of convo-pipeline. All keys and their defaults: docs/settings.md
# This file holds no secret: tokens are in environment variables or files that it names.

[store]
root = "data"                        # folder of the tables; on a server an absolute path

[[accounts]]                         # one block for each inbox
name = "my-page"                     # a name you choose; used in folder names
page_id = "1234567890"               # the id of the Page, for Instagram too
platform = "messenger"               # or "instagram"; a Page with both needs two blocks
token_env = "PAGE_TOKEN"             # the environment variable that holds the token
# app_secret_env = "APP_SECRET"      # the variable with the app's secret: every call is then signed
start_date = "{start}"            # first day to read
timezone = "UTC"                     # such as "Europe/Berlin"; for business hours and local times
# business_hours = "Mon-Fri 09:00-18:00"

# Instagram Login, without a Page:
# base_url = "https://graph.instagram.com" and page_id = "me" in the block

# [alerts]                           # failed runs are told to these receivers
# webhook_env = "ALERT_WEBHOOK"      # the variable with the https address
# smtp_env = "ALERT_MAIL_SERVER"     # the variable with smtps://<user>:<password>@smtp.example.org
# email_to = ["ops@example.org"]
"""


def write_first_settings(file: Path, today: date) -> None:
    """Write the file; SettingsError if there is one, or if it cannot be written."""
    text = TEMPLATE.format(start=today.replace(day=1))
    try:
        with file.open("x", encoding="utf-8") as target:
            target.write(text)
    except FileExistsError:
        raise SettingsError(f"{file} exists already: it was not changed") from None
    except OSError as error:
        raise SettingsError(f"cannot write {file}: {error.strerror}") from None
