"""What all tests share: consent to run code and caches of weights lie in folders of the run, not the developer's."""

import pytest

from nasforge.core.trust import STATE_DIR


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_DIR, str(folder))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.delenv("COLUMNS", raising=False)  # tables are as wide as in a pipe, also where tests run side by side
        yield folder
