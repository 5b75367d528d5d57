"""The commands as functions."""

from tests.tools.conftest import run_tool  # noqa: F401
