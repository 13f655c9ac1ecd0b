import gc
import math
import os
import platform
import subprocess
import sys
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import ConfigError
from nasforge.core.gpu_share import lend
from nasforge.core.recipe import Recipe
from nasforge.core.trial import Result
from nasforge.data import Split
from nasforge.evaluators import guarded as guarded_module
from nasforge.evaluators.guarded import guarded
from nasforge.training import device as devices
from nasforge.training.loop import train

CPU = torch.device("cpu")


def test_names():
    assert devices.device_of("cpu") == CPU
    assert devices.device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:77"):
        with raises(ConfigError, "failed", "device", name):
            devices.device_of(name)


def test_other_kinds_of_devices_are_refused():
    with raises(ConfigError, "failed", "device"):
        devices.device_of("meta")


def test_auto_is_the_cpu_where_torch_has_no_kernels_for_the_gpu(monkeypatch, caplog):
    def no_kernel(device):
        if device.type == "cuda":
            raise RuntimeError("CUDA error: no kernel image is available for execution on the device")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(devices, "_try", no_kernel)
    devices._reason_against.cache_clear()
    try:
        assert devices.device_of("auto") == devices.device_of("auto") == CPU
        with raises(ConfigError, "failed", "device"):
            devices.device_of("cuda")
    finally:
        devices._reason_against.cache_clear()
    assert [record.message for record in caplog.records] == [
        "torch cannot use the GPU of this machine (CUDA error: no kernel image is available for execution on the "
        "device); device auto is the CPU"
    ]


def test_releasing_memory_hides_no_error_of_a_gpu_that_has_failed(monkeypatch):
    def fails():
        raise torch.AcceleratorError("device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "empty_cache", fails)
    devices.release_memory(torch.device("cuda"), collect=False)


def test_bf16_only_where_the_cpu_multiplies_in_it(monkeypatch):
    for able, faster, expected in (
        ({"avx512_bf16": True}, True, True),
        ({"amx_bf16": True}, True, True),
        ({"avx512_bf16": True}, False, False),  # a Xeon whose virtual machine hides AMX
        ({"avx512_f": True}, True, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        monkeypatch.setattr(devices, "bf16_is_faster", lambda faster=faster: faster)
        assert devices.uses_bf16(Recipe(), CPU) is expected
        assert devices.uses_bf16(Recipe(precision="bf16"), CPU) is True
        assert devices.uses_bf16(Recipe(precision="fp32"), CPU) is False


@pytest.mark.parametrize(("bf16", "faster"), [(0.5, True), (0.9, False), (1.7, False)])
def test_bf16_is_timed_against_fp32_without_a_random_number(monkeypatch, bf16, faster):
    clock = [0.0]

    class Autocast(torch.autocast):  # an hour passes in fp32, `bf16` hours in bfloat16
        def __init__(self, device, dtype, *, enabled):
            super().__init__(device, dtype, enabled=enabled)
            clock[0] += bf16 if enabled else 1.0

    monkeypatch.setattr(devices.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(torch, "autocast", Autocast)
    before = torch.get_rng_state()
    with torch.inference_mode():
        assert devices._time_bf16() is faster
    assert torch.equal(torch.get_rng_state(), before)


def test_all_processes_of_a_machine_take_the_same_precision(monkeypatch, tmp_path):
    monkeypatch.setenv("NASFORGE_CACHE", str(tmp_path))
    timed = iter([True, False])
    monkeypatch.setattr(devices, "_time_bf16", lambda: next(timed))
    assert [devices.bf16_is_faster.__wrapped__() for _ in range(3)] == [True] * 3, "timed once, then read"
    (kept,) = tmp_path.glob("bf16_*")
    kept.write_text("half")
    assert devices.bf16_is_faster.__wrapped__() is False, "damaged: timed again"
    monkeypatch.setattr(devices, "_time_bf16", lambda: True)
    monkeypatch.setenv("NASFORGE_CACHE", "/dev/null/none")
    assert devices.bf16_is_faster.__wrapped__() is True, "without a folder every process times it"


def test_memory_format():
    assert devices.memory_format(Recipe(), CPU) is torch.channels_last
    assert devices.memory_format(Recipe(channels_last=False), CPU) is torch.contiguous_format


def test_narrow_strided_1x1_convolutions_are_not_trained_in_channels_last():
    """torch's CPU kernel for their weight gradient writes past its buffer there, and the process dies."""
    fp32 = Recipe(precision="fp32")
    narrow = nn.Sequential(nn.Conv2d(4, 16, 1, stride=2))
    assert devices.without_overrun(fp32, CPU, narrow).channels_last is False
    assert devices.without_overrun(replace(fp32, channels_last=True), CPU, narrow).channels_last is False
    assert devices.without_overrun(Recipe(precision="bf16"), CPU, narrow).channels_last == "auto"
    for other in (nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(4, 16, 1), nn.Conv2d(4, 16, 3, stride=2), nn.Linear(4, 4)):
        assert devices.without_overrun(fp32, CPU, other) is fp32


@pytest.mark.parametrize(
    ("size", "stride", "precision"),
    [((1, 1), 2, "fp32"), ((8, 1), 2, "fp32"), ((2, 2), (1, 2), "fp32"), ((3, 3), 2, "bf16"), ((1, 1), 1, "bf16")],
)
def test_images_no_wider_than_a_stride_are_not_trained_in_bf16(size, stride, precision):
    """torch's CPU kernel for the weight gradient reads past its input there, on processors with AMX."""
    bf16, network = Recipe(precision="bf16"), nn.Sequential(nn.Conv2d(4, 16, 3, stride=stride, padding=1))
    sound = devices.without_stray_reads(bf16, CPU, network, [(4, 16, 16), (4, *size)])
    assert sound.precision == precision and network.training
    assert devices.without_stray_reads(bf16, torch.device("cuda"), network, [(4, 1, 1)]) is bf16
    assert devices.without_stray_reads(Recipe(precision="fp32"), CPU, network, [(4, 1, 1)]) == Recipe(precision="fp32")
    assert devices.without_stray_reads(bf16, CPU, network, [(3, 8, 8)]) is bf16  # does not go through the network


def test_a_network_that_shrinks_images_to_a_pixel_has_finite_weights():
    pixels, labels = torch.randint(0, 256, (64, 1, 2, 2), dtype=torch.uint8), torch.arange(64) % 2
    images = Split(pixels, np.arange(64), labels, 2, (0.5,), (0.3,))
    for seed in range(5):
        junk = [torch.full((size,), math.nan) for size in (1000, 30_000, 300_000) for _ in range(3)]
        del junk  # so that memory which is not written is NaN
        layers = [nn.Conv2d(c, 48, 3, stride=2, padding=1) for c in (1, 48, 48)]
        network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(48, 2))
        train(network, images, Recipe(precision="bf16", precise_bn=0), epochs=1, seed=seed)
        assert all(torch.isfinite(weights).all() for weights in network.parameters())


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"strategy": {"name": "spos", "epochs": 2, "measures": 2}}, marks=pytest.mark.slow)],
)
def test_narrow_networks_train_in_a_process_that_survives(tmp_path, options):
    space = """\
name: narrow
builder: staged
arguments: {strides: [1, 2], layers: 1, stem_width: 4}
decisions:
  model: {activation: [relu], "stage{0..1}.width": [4, 6], "stage{0..1}.layer0.block": [residual]}
"""
    (tmp_path / "narrow.yaml").write_text(space)
    settings = {
        **{"space": str(tmp_path / "narrow.yaml"), "data": {"source": "digits", "images": 200}, "runner": "local"},
        **{"tracking_uri": "none", "runs_dir": str(tmp_path), "name": "n", "budget": {"trials": 4}, "epochs": 2},
        **{"strategy": "random", "recipe": {"batch_size": 16, "precision": "fp32"}, **options},
    }
    script = f"import nasforge; print(nasforge.search(**{settings!r}).counts())"
    # glibc checks every block that is freed, so that an overrun ends the process at once
    checked = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, **checked}, timeout=200
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "'failed': 0" in done.stdout


_FAULTS = """
import resource, torch
from nasforge.training.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(10 * 2**20)  # 40 MB, which glibc returns to the system at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
print(int(keep_freed_memory()), first, faults() and faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other allocators have no such setting")
def test_freed_memory_is_kept_for_the_next_step_unless_the_user_has_set_the_allocator():
    def run(**variables):
        clean = {key: value for key, value in os.environ.items() if key not in devices._MALLOC_VARIABLES}
        command = [sys.executable, "-c", _FAULTS]
        done = subprocess.run(command, env={**clean, **variables}, check=True, capture_output=True, text=True)
        return [int(number) for number in done.stdout.split()]

    kept, before, after = run()
    assert kept == 1 and before > 100 and after < before / 4
    assert run(GLIBC_TUNABLES="glibc.malloc.tcache_count=7")[0] == 0


def test_free_memory_is_what_the_system_says(tmp_path):
    assert devices.free_memory_mb(CPU) > 10
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    assert devices._meminfo_mb(tmp_path / "meminfo") == 2.0
    (tmp_path / "memory.max").write_text(f"{100 * 2**20}\n")
    (tmp_path / "memory.current").write_text(f"{60 * 2**20}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {10 * 2**20}\n")
    assert devices._cgroup_mb(tmp_path) == 50.0
    (tmp_path / "memory.max").write_text("max\n")
    assert devices._cgroup_mb(tmp_path) is None


def test_a_gpu_whose_memory_is_full_is_not_taken_for_a_broken_one(monkeypatch):
    def full(*arguments, **settings):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "ones", full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    devices._reason_against.cache_clear()
    assert devices.device_of("auto").type == devices.device_of("cuda").type == "cuda"
    devices._reason_against.cache_clear()


MB = 2**20
CUDA = torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    """A card of 10,000 MB of which this process may use a quarter: 2,000 MB and CUDA's own 500."""
    state = SimpleNamespace(free=10_000, reserved=0, allocated=0, limits=[])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(total_memory=10_000 * MB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (state.free * MB, 10_000 * MB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: state.reserved * MB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: state.allocated * MB)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: state.limits.append(limit))
    monkeypatch.setattr(devices, "_try", lambda device: None)
    for cached in (devices._reason_against, devices._limited):
        cached.cache_clear()
    lend(0.25)
    yield state
    lend(None)
    for cached in (devices._reason_against, devices._limited):
        cached.cache_clear()


def test_a_worker_takes_no_more_than_its_share_of_a_card(card):
    assert devices.device_of("cuda:0") == devices.device_of("cuda:0") == CUDA
    assert card.limits == [(0.2, 0)], "set once, when the process first uses the card"
    assert devices.share_mb(CUDA) == 2000 and devices.share_mb(CPU) is None
    lend(None)
    assert devices.share_mb(CUDA) is None, "alone on the card"
    lend(0)
    assert devices.device_of("auto") == CPU


def test_free_memory_is_that_of_the_workers_share(card):
    assert devices.free_memory_mb(CUDA) == 2000
    card.allocated, card.reserved = 500, 800
    assert devices.free_memory_mb(CUDA) == devices.free_share_mb(CUDA) == 1500
    card.free = 100
    assert devices.free_memory_mb(CUDA) == 400, "neighbours have taken the rest"
    card.allocated = card.reserved = 2000
    assert devices.free_memory_mb(CUDA) == 0, "the share is full"
    card.allocated, card.reserved = 500, 800
    lend(None)
    assert devices.free_memory_mb(CUDA) == 400 and devices.free_share_mb(CUDA) is None


def test_a_neighbour_that_takes_too_much_is_told_from_a_network_that_does(card):
    assert not devices.crowded_out(CUDA), "there is room"
    card.free, card.reserved = 100, 700
    assert devices.crowded_out(CUDA)
    card.reserved = 1950
    assert not devices.crowded_out(CUDA), "this process has used its share up"
    lend(None)
    assert not devices.crowded_out(CUDA)


def test_memory_that_a_neighbour_took_is_no_failure_of_the_network(card):
    def evaluates():
        raise torch.OutOfMemoryError("CUDA out of memory")

    card.free, card.reserved = 100, 700
    assert guarded(evaluates, CUDA, 0.0, "", collect=False).error.cause == "preempted"
    card.reserved = 1950
    assert guarded(evaluates, CUDA, 0.0, "", collect=False).error.cause == "out_of_memory"


def test_emulated_bf16_is_said(monkeypatch, caplog):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "a Tesla T4")
    for capability, precision, warned in (((7, 5), "auto", 0), ((8, 0), "bf16", 0), ((7, 5), "bf16", 1)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        assert devices.uses_bf16(Recipe(precision=precision), CUDA) is (precision == "bf16")
        assert len(caplog.records) == warned


class Circle:
    """Garbage that only a collection frees."""

    def __init__(self):
        self.self = self


def test_a_job_collects_its_own_garbage_and_older_objects_once_a_minute(monkeypatch):
    monkeypatch.setattr(guarded_module._Older, "collected_at", time.monotonic())
    older = Circle()
    is_alive = weakref.ref(older)
    gone = []

    def work():
        nonlocal older
        older = None
        gone.append(weakref.ref(Circle()))
        return Result("finished")

    gc.disable()
    gc.unfreeze()  # an earlier test may have frozen objects, as the command `show` does
    try:
        guarded(work, CPU, 0.0, "")
        assert gone[0]() is None and is_alive() is not None
        assert gc.get_freeze_count() == 0
        with pytest.raises(ValueError, match="broken"):
            guarded(lambda: raising(ValueError("broken")), CPU, 0.0, "")
        assert is_alive() is None  # after a failure everything is looked at
        assert gc.get_freeze_count() == 0
        is_alive = weakref.ref(Circle())
        guarded(lambda: Result("finished"), CPU, 0.0, "", collect=False)
        assert is_alive() is not None
        monkeypatch.setattr(guarded_module._Older, "collected_at", time.monotonic() - guarded_module.OLDER_EVERY_S)
        guarded(lambda: Result("finished"), CPU, 0.0, "", collect=False)
        assert is_alive() is None
        assert time.monotonic() - guarded_module._Older.collected_at < guarded_module.OLDER_EVERY_S
    finally:
        gc.enable()


def raising(error):
    raise error


def test_objects_that_a_process_has_frozen_itself_stay_frozen():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        guarded(lambda: Result("finished"), CPU, 0.0, "")
        assert gc.get_freeze_count() > frozen / 2 > 0  # some of them may have died meanwhile
    finally:
        gc.unfreeze()


@pytest.mark.parametrize(
    ("left_mb", "lent", "failed", "collections", "emptied"),
    [(0, None, False, 1, 0), (0, 0.25, False, 1, 1), (300, None, False, 2, 1), (0, None, True, 1, 1)],
    ids=["clean", "shared card", "memory left", "failed"],
)
def test_a_gpu_is_tidied_where_a_job_left_memory_or_others_need_it(
    card, monkeypatch, left_mb, lent, failed, collections, emptied
):
    counts = {"collected": 0, "emptied": 0}
    monkeypatch.setattr(devices.gc, "collect", lambda: counts.update(collected=counts["collected"] + 1))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: counts.update(emptied=counts["emptied"] + 1))
    monkeypatch.setattr(guarded_module, "crowded_out", lambda device: False)
    monkeypatch.setattr(guarded_module._Older, "collected_at", time.monotonic())
    lend(lent)
    card.allocated = 100

    def evaluates():
        card.allocated += left_mb
        if failed:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return Result("finished")

    guarded(evaluates, CUDA, 0.0, "")
    assert counts == {"collected": collections, "emptied": emptied}
