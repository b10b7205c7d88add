"""What every test shares: the `--long` option, and an environment without the developer's own settings."""

import pytest

FOREIGN_VARIABLES = ("CONVO_CONFIG", "DAGSTER_HOME", "CONVO_EMULATOR_TOKEN")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="give the hunts all their rounds instead of a bounded few")


@pytest.fixture(scope="session")
def long_run(request: pytest.FixtureRequest) -> bool:
    """Whether hunts may take as long as they like."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on what the developer's shell exports."""
    for variable in FOREIGN_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
