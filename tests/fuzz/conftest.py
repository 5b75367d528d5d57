"""The trained tiny model of the commands' tests."""

from tests.tools.conftest import trained  # noqa: F401
