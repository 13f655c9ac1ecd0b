import pickle
import threading
from types import SimpleNamespace

import pytest
import torch

from nasforge.core.gpu_share import lend
from nasforge.data import load_data, split
from nasforge.settings.experiment import DataConfig

CPU = torch.device("cpu")


def test_batches_follow_the_order_and_cover_it():
    train = load_data(DataConfig("digits")).train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:100]
    batches = list(train.batches(order, 32, CPU))
    assert [len(images) for images, _ in batches] == [32, 32, 32, 4]
    assert torch.equal(torch.cat([images for images, _ in batches]), train.images[order])
    assert torch.equal(torch.cat([labels for _, labels in batches]), train.labels[order])


def test_streamed_batches_equal_resident_ones(monkeypatch):
    train = load_data(DataConfig("digits")).train
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:100]
    resident = list(train.batches(order, 32, CPU))
    monkeypatch.setattr(split, "RESIDENT_BYTES", 1000)
    assert train.streamed
    before = torch.random.get_rng_state()
    streamed = list(train.batches(order, 32, CPU))
    assert torch.equal(before, torch.random.get_rng_state()), "the generator belongs to the training's checkpoint"
    assert len(streamed) == len(resident)
    for (a, x), (b, y) in zip(streamed, resident, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(x, y)


def test_streamed_batches_are_read_ahead_by_threads_that_end_with_the_pass(monkeypatch):
    train = load_data(DataConfig("digits")).train
    monkeypatch.setattr(split, "RESIDENT_BYTES", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    read = []
    monkeypatch.setattr(split.Split, "take", lambda self, where: (read.append(len(where)), torch.empty(0))[1])
    threads = set(threading.enumerate())
    batches = train.batches(torch.arange(1000), 10, CPU)
    assert read == [], "a pass begins with its first batch"
    next(batches)
    assert 1 <= len(read) <= 5, "two batches ahead for each of two threads"
    next(batches)
    batches.close()
    assert len(read) <= 6
    assert set(threading.enumerate()) <= threads


def test_an_error_of_a_reading_thread_is_raised(monkeypatch):
    train = load_data(DataConfig("digits")).train
    monkeypatch.setattr(split, "RESIDENT_BYTES", 1000)
    with pytest.raises(IndexError):
        list(train.batches(torch.tensor([0, 1, 10**6]), 2, CPU))


@pytest.mark.parametrize("streamed", [False, True])
def test_one_batch_is_read_without_readers(streamed, monkeypatch):
    train, where = load_data(DataConfig("digits")).train, torch.tensor([5, 3, 8])
    images, labels = next(train.batches(where, 3, CPU))
    if streamed:
        monkeypatch.setattr(split, "RESIDENT_BYTES", 1000)
        monkeypatch.setattr(split, "ThreadPoolExecutor", None)
    assert train.streamed is streamed
    batch = train.batch(where, CPU)
    assert torch.equal(batch[0], images) and torch.equal(batch[1], labels)


def test_a_split_travels_without_what_lies_on_the_device():
    train = load_data(DataConfig("digits")).train
    assert len(train.images)
    copy = pickle.loads(pickle.dumps(train))
    assert copy._resident == {}
    assert torch.equal(copy.images, train.images)


def test_all_batches_of_an_order_take_one_copy_to_the_device():
    train = load_data(DataConfig("digits")).train
    copies = []

    class Order(torch.Tensor):
        def to(self, *args, **options):
            copies.append(self.shape)
            return super().to(*args, **options).as_subclass(torch.Tensor)

    batches = list(train.batches(torch.arange(100).as_subclass(Order), 32, CPU))
    assert (len(batches), copies) == (4, [(100,)])


def test_all_splits_on_a_gpu_share_a_tenth_of_what_the_process_may_use(monkeypatch):
    train, cuda = load_data(DataConfig("digits")).train, torch.device("cuda")
    size = train.images.nbytes + train.labels.nbytes
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=25 * size))
    a, b, c = (train.subset(torch.arange(len(train))) for _ in range(3))
    assert a.fits_on(cuda) and not a.streamed
    for split_on_it in (a, b):
        split._HOLDERS.add(split_on_it)
        split_on_it._resident["cuda"] = (train.images, train.labels)
    assert a.fits_on(cuda) and not c.fits_on(cuda) and c.fits_on(CPU), "2.5 of them fit"
    b.release()
    assert c.fits_on(cuda)
    lend(0.25)
    assert not c.fits_on(cuda), "of a quarter of the card not even one"
    lend(None)
    a.release()
