import pytest

from nasforge.data import load_data


@pytest.fixture(autouse=True)
def empty_cache(tmp_path_factory, monkeypatch):
    """Every test decodes into a cache of its own and starts with nothing in the process."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NASFORGE_CACHE", str(folder))
    load_data.cache_clear()
    yield folder
    load_data.cache_clear()
