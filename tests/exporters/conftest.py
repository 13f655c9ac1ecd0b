"""Consent to run the builders of these tests, as a search with them would have left it."""

import pytest

from nasforge import registry
from nasforge.core.trust import from_user


@pytest.fixture(scope="session", autouse=True)
def consent(state_dir):
    with from_user():
        registry.get("builder", "toy_builder:build")
        registry.get("builder", "changing_builder:build")
