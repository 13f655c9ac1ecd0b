"""What all tests share: folders of the run for consent and caches, and random numbers that no other test has moved."""

import random
import signal
import sys

import pytest
from clock import Clock
from hypothesis import HealthCheck, settings

from nasforge.core.trust import STATE_DIR

# The same examples in every run, and no limit on the time that a busy machine takes to draw them.
settings.register_profile("tests", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


@pytest.fixture(scope="session", autouse=True)
def state_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STATE_DIR, str(folder))
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        patch.setenv("TORCH_HOME", str(folder / "torch"))
        patch.setenv("RAY_worker_niceness", "0")  # Ray's 15 lets workers wait for minutes where other tests run
        patch.delenv("COLUMNS", raising=False)  # tables are as wide as in a pipe, also where tests run side by side
        yield folder


@pytest.fixture
def interruptible():
    """A test run in the background ignores Ctrl-C, and so would a command in it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture(scope="module", autouse=True)
def seeded_module():
    """Fixtures of a module draw the same numbers, whichever files ran before in this process."""
    seed_all()


@pytest.fixture(autouse=True)
def seeded(seeded_module):
    """So does each test, whichever tests ran before."""
    seed_all()


def seed_all():
    """Set the global generators to the state of a fresh process; what is not imported yet begins in that state."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(67280421310721)  # torch's own default
