"""Command `init`: write the files to start from. It asks nothing and changes no existing file."""

import shutil
from collections.abc import Iterator
from datetime import date
from importlib.resources import as_file, files
from pathlib import Path

from convo_pipeline.errors import SettingsError
from convo_pipeline.settings import CONFIG_FILE

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


def write_project(folder: Path, today: date) -> Iterator[tuple[Path, bool]]:
    """Write `convo.toml` and the packaged files into a folder, which is made if it is missing.

    The packaged files are workspace.yaml, dagster.yaml, notebooks and docs. Yield each file or
    folder, and whether it is new: one that exists stays as it is. SettingsError if it cannot be
    written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / CONFIG_FILE
        is_new = not config.exists()
        if is_new:
            write_first_settings(config, today)
        yield config, is_new
        with as_file(files("convo_pipeline") / "project") as packaged:
            for source in sorted(packaged.iterdir()):
                target = folder / source.name
                is_new = not target.exists()
                if is_new and source.is_dir():
                    shutil.copytree(source, target, copy_function=shutil.copyfile)
                elif is_new:
                    shutil.copyfile(source, target)
                yield target, is_new
    except OSError as error:
        raise SettingsError(f"cannot write {error.filename or folder}: {error.strerror}") from None
