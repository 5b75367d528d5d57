"""The trained tiny model of the commands' tests."""

from tests.tools.conftest import _plain_config_dumps, trained  # noqa: F401
