"""What all tests share: consent to run code is remembered in a folder of the test run, not in the developer's."""

import pytest

from nasforge.core.trust import STATE_DIR


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_DIR, str(folder))
        patch.delenv("COLUMNS", raising=False)  # tables are as wide as in a pipe, also where tests run side by side
        yield folder
