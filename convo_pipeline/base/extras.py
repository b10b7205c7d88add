"""Name the extra that installs a missing package."""

from collections.abc import Iterator
from contextlib import contextmanager

from convo_pipeline.errors import SettingsError


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Turn a missing package of another project into a SettingsError that names the extra."""
    try:
        yield
    except ModuleNotFoundError as error:
        if str(error.name).startswith("convo_pipeline"):
            raise
        raise SettingsError(
            f'the package {error.name} is missing: pip install "convo-pipeline[{extra}]"'
        ) from None
