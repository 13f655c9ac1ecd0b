"""The causes that errors of a GPU get."""

import pytest
import torch
from expecting import raises
from torch import nn

from nasforge.core.errors import DeviceLost
from nasforge.core.recipe import Recipe
from nasforge.data import load_data
from nasforge.evaluators.guarded import guarded
from nasforge.settings.experiment import DataConfig
from nasforge.training import device as devices
from nasforge.training.failures import TrainingFailed, check_shapes, device_lost, is_out_of_memory, watching
from nasforge.training.loop import train
from nasforge.training.meter import Limits, Meter

CPU = torch.device("cpu")


class Raises(nn.Module):
    """A network whose forward pass raises."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, images):
        raise self.error


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "GET was unable to find an engine to execute this computation",
    ],
)
def test_libraries_of_a_gpu_say_in_their_own_words_that_memory_ran_out(text):
    assert is_out_of_memory(RuntimeError(text))


FAULTS = [
    torch.AcceleratorError("device-side assert triggered"),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
]


@pytest.mark.parametrize("error", FAULTS)
def test_a_fault_of_the_gpu_is_no_fault_of_the_networks_shapes(error):
    split = load_data(DataConfig("digits")).train
    with pytest.raises(type(error)) as caught:
        check_shapes(Raises(error), split, CPU, torch.contiguous_format, Meter(Limits()).fail)
    assert caught.value is error


def test_memory_that_runs_out_before_the_first_step_has_its_cause(monkeypatch):
    def no_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    monkeypatch.setattr(network, "to", no_memory)
    with pytest.raises(TrainingFailed) as caught:
        train(network, load_data(DataConfig("digits")).train, Recipe(), epochs=1, seed=0)
    assert caught.value.failure.cause == "out_of_memory"


@pytest.fixture
def failed_gpu(monkeypatch):
    """A process that has used CUDA, whose GPU runs no kernel any more."""

    def kernel(device):
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(devices, "_try", kernel)


@pytest.mark.parametrize("error", FAULTS)
def test_a_gpu_that_has_failed_is_no_failure_of_the_trial(failed_gpu, error):
    split, network = load_data(DataConfig("digits")).train, Raises(error)
    network.weight = nn.Parameter(torch.zeros(2))

    def evaluates():
        raise error

    with raises(DeviceLost, "failed", "device", str(error)):
        train(network, split, Recipe(), epochs=1, seed=0)
    with raises(DeviceLost, "failed", "device", str(error)):
        guarded(evaluates, CPU, 0.0, "")
    with raises(DeviceLost, "failed", "device", str(error)), watching(CPU):
        evaluates()


@pytest.mark.parametrize("error", [error for error in FAULTS if type(error) is RuntimeError])
def test_a_text_about_cuda_is_no_lost_gpu_where_cuda_was_never_used(monkeypatch, error):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert device_lost(error) is None
    assert device_lost(error, CPU) is None
    assert isinstance(device_lost(error, torch.device("cuda")), DeviceLost)
    with pytest.raises(RuntimeError) as caught:
        guarded(lambda: Raises(error)(None), CPU, 0.0, "")
    assert caught.value is error


def test_memory_that_ran_out_is_no_lost_gpu():
    for error in (torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: out of memory")):
        assert device_lost(error) is None
        assert guarded(lambda error=error: Raises(error)(None), CPU, 0.0, "").error.cause == "out_of_memory"


def test_an_error_after_which_the_gpu_still_computes_is_no_lost_one(monkeypatch):
    error, failing = torch.AcceleratorError("CUDA error: invalid configuration argument"), []

    def kernel(device):
        if failing:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(devices, "_try", kernel)
    assert device_lost(error) is None
    with pytest.raises(torch.AcceleratorError):
        guarded(lambda: Raises(error)(None), CPU, 0.0, "")
    failing.append(True)
    assert isinstance(device_lost(error), DeviceLost)
