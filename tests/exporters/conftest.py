"""Consent to run `toy_builder:build`, as a search with it would have left it."""

import pytest

from nasforge import registry
from nasforge.core.trust import from_user


@pytest.fixture(scope="session", autouse=True)
def consent(state_dir):
    with from_user():
        registry.get("builder", "toy_builder:build")
