import errno
import json
import multiprocessing
import os
import time

import numpy as np
import pytest
from expecting import raises

from nasforge.core.errors import DataError
from nasforge.data import cache, load_data
from nasforge.data.decoded import Decoded, Source
from nasforge.settings.experiment import DataConfig


def source(log, key="k", fail=False):
    def read(allocate):
        with log.open("a") as file:
            file.write("decoded\n")
        images = allocate((6, 1, 2, 2))
        images[:] = np.arange(24, dtype=np.uint8).reshape(6, 1, 2, 2)
        time.sleep(0.05)
        if fail:
            raise DataError("broken source")
        return Decoded(images, np.array([0, 1] * 3), {"train": 6}, ("a", "b"))

    return Source(key, read)


def decode(log):
    images, content_hash = cache.decoded(source(log))
    assert isinstance(images.images, np.memmap)
    assert images.images.sum() == sum(range(24))
    return content_hash


def test_several_processes_decode_once_and_map_the_same_file(tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=decode, args=(log,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert log.read_text() == "decoded\n"


def test_an_interrupted_or_failed_decoding_leaves_nothing_that_is_used(tmp_path, empty_cache):
    log = tmp_path / "log"
    with raises(DataError, "invalid", None, "broken source"):
        cache.decoded(source(log, fail=True))
    assert [p for p in (empty_cache / "data").iterdir() if p.suffix != ".lock"] == []
    stale = (empty_cache / "data" / cache.digest([cache.FORMAT, "k"])).with_suffix(".tmp")
    stale.mkdir()
    (stale / "images.npy").write_bytes(b"half")
    decode(log)
    assert log.read_text() == "decoded\n" * 2
    assert not stale.exists()


@pytest.mark.parametrize("name", ["about.json", "images.npy", "labels.npy"])
@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", -20], ids=str)
def test_a_damaged_entry_is_decoded_once_more(tmp_path, empty_cache, name, content):
    log = tmp_path / "log"
    decode(log)
    file = empty_cache / "data" / cache.digest([cache.FORMAT, "k"]) / name
    file.chmod(0o644)
    if content is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:content] if isinstance(content, int) else content)
    for _ in range(2):
        decode(log)
        assert log.read_text() == "decoded\n" * 2


def test_an_entry_that_is_damaged_at_once_is_one_error(tmp_path, empty_cache, monkeypatch):
    monkeypatch.setattr(np, "save", lambda file, array: file.write_bytes(b"rubbish"))
    with raises(DataError, "failed", "NASFORGE_CACHE", "damaged"):
        cache.decoded(source(tmp_path / "log"))


def test_another_key_is_another_entry(tmp_path):
    log = tmp_path / "log"
    for key in ("a", "b", "a"):
        cache.decoded(source(log, key))
    assert log.read_text() == "decoded\n" * 2


def test_a_changed_file_is_read_anew(tmp_path):
    labels = np.arange(40) % 2
    prints = []
    for level in (10, 20):
        np.savez(tmp_path / "a.npz", x_train=np.full((40, 4, 4), level, np.uint8), y_train=labels)
        os.utime(tmp_path / "a.npz", (level, level))
        load_data.cache_clear()
        prints.append(load_data(DataConfig(str(tmp_path / "a.npz"))).train.images[0, 0, 0, 0].item())
    assert prints == [10, 20]


def test_a_cache_that_cannot_be_written_says_which_setting_helps(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NASFORGE_CACHE", str(tmp_path / "file"))
    with raises(DataError, "failed", "NASFORGE_CACHE"):
        cache.decoded(source(tmp_path / "log"))


def test_a_disk_without_room_is_an_error_before_anything_is_decoded(tmp_path, empty_cache, monkeypatch):
    def full(file, start, length):
        assert length == 128 + 24  # the header of the file, and the pixels
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with raises(DataError, "failed", "NASFORGE_CACHE", "No space left"):
        cache.decoded(source(tmp_path / "log"))

    def cannot(file, start, length):
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(os, "posix_fallocate", cannot)  # some file systems cannot reserve
    decode(tmp_path / "log")


@pytest.mark.parametrize("configured", ["", "~no_such_user/cache"])
def test_a_user_without_a_home_folder_is_told_which_setting_helps(monkeypatch, configured):
    monkeypatch.setenv("NASFORGE_CACHE", configured)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # no such user: KeyError
    with raises(DataError, "missing", "NASFORGE_CACHE", "home folder"):
        cache.cache_folder()


def test_what_lies_in_the_cache_is_plain(tmp_path, empty_cache):
    decode(tmp_path / "log")
    (entry,) = [p for p in (empty_cache / "data").iterdir() if p.is_dir()]
    assert sorted(p.name for p in entry.iterdir()) == ["about.json", "images.npy", "labels.npy"]
    assert json.loads((entry / "about.json").read_text())["sizes"] == {"train": 6}
