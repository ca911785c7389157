"""A browser for the tests of the page; see tests/report/conftest.py."""

from tests.report.conftest import browser

__all__ = ["browser"]
