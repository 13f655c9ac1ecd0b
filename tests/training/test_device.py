import pytest
import torch

from nasforge.core.errors import ConfigError
from nasforge.training import device as devices
from nasforge.training.recipe import Recipe

CPU = torch.device("cpu")


def test_names():
    assert devices.device_of("cpu") == CPU
    assert devices.device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    for name in ("gpu", "cuda:77"):
        with pytest.raises(ConfigError, match=f"device '{name}' cannot be used here"):
            devices.device_of(name)


def test_bf16_only_where_the_cpu_multiplies_in_it(monkeypatch):
    for able, expected in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_f": True}, False)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able)
        assert devices.uses_bf16(Recipe(), CPU) is expected
        assert devices.uses_bf16(Recipe(precision="bf16"), CPU) is True
        assert devices.uses_bf16(Recipe(precision="fp32"), CPU) is False


def test_memory_format():
    assert devices.memory_format(Recipe(), CPU) is torch.channels_last
    assert devices.memory_format(Recipe(channels_last=False), CPU) is torch.contiguous_format


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
