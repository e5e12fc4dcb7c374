"""Networks: memory layout by device, where constants are computed, and the one switch that threads share."""

import threading

import numpy as np
import pytest
import torch
import torch._dynamo.config as dynamo
import torch._inductor.config as inductor
from torch.utils._python_dispatch import TorchDispatchMode

from featurepipe import backbones
from featurepipe.backbones import networks

SETTINGS = {"random_weights": True, "transform": {"input_size": (3, 32, 32)}, "precision": "fp32", "device": "cpu"}


# -- layout and constants


@pytest.mark.parametrize(("device", "last"), [("cpu", True), ("cuda", True), ("mps", False)])
def test_channels_come_last_but_on_mps_where_some_operations_misread_that(device, last):
    wanted = torch.channels_last if last else torch.contiguous_format
    assert networks.memory_format(torch.device(device)) == wanted


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=str)
def test_weights_and_pixels_are_in_the_devices_layout(monkeypatch, layout):
    seen, features = [], networks._features
    monkeypatch.setattr(networks, "memory_format", lambda device: layout)
    monkeypatch.setattr(networks, "_features", lambda module, x, layer: (seen.append(x), features(module, x, layer))[1])
    made = backbones.create("test_resnet", **SETTINGS)
    made.embed(np.zeros((2, 3, 32, 32), np.uint8))
    kernels = [weight for weight in made.module.parameters() if weight.dim() == 4 and min(weight.shape[1:]) > 1]
    (other,) = {torch.channels_last, torch.contiguous_format} - {layout}
    for tensor in [*kernels, *seen]:
        assert tensor.is_contiguous(memory_format=layout)
        assert not tensor.is_contiguous(memory_format=other)
    assert kernels
    assert len(seen) >= 2


class Recorded(TorchDispatchMode):
    """Names of the operations whose result lies on a device."""

    def __init__(self, device):
        super().__init__()
        self.device, self.names = device, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type == self.device:
            self.names.add(func.overloadpacket.__name__)
        return result


def test_a_forward_function_computes_nothing_on_the_device_before_it_is_called():
    """It would be on the default stream, for which the threads' own streams do not wait."""
    made = backbones.create("test_resnet", **SETTINGS)
    module = torch.nn.Linear(2, 2, device="meta")
    with Recorded("meta") as recorded:
        networks.make_forward(module, made.transform, "penultimate", None, "fp32")
    assert recorded.names <= {"_to_copy", "copy_", "empty", "empty_strided"}
    assert recorded.names


# -- the compiler


@pytest.mark.parametrize("from_c", [True, False])
def test_the_compiler_has_weights_as_constants_and_takes_any_number_of_networks(from_c):
    def chosen():
        separate = getattr(inductor, "cpp_wrapper_build_separate", inductor.cpp_wrapper)  # torch 2.6 has no such switch
        return inductor.freezing, inductor.cpp_wrapper, separate

    with inductor.patch(cpp_wrapper=not from_c):  # as a variable of the environment may have it
        before, limit = chosen(), dynamo.cache_size_limit
        with networks.frozen_compiler(from_c=from_c):
            assert chosen() == (True, from_c, from_c)
            assert dynamo.cache_size_limit > 10**6
        assert (chosen(), dynamo.cache_size_limit) == (before, limit)


# -- TF32


@pytest.fixture(params=[True, False])
def before(request, monkeypatch):
    """How the switch was, by the user's choice."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", request.param)
    return request.param


class User(threading.Thread):
    """A thread that wants the switch in a position and keeps it there until told."""

    def __init__(self, wanted):
        super().__init__(daemon=True)
        self.wanted, self.inside, self.go = wanted, threading.Event(), threading.Event()
        self.start()

    def run(self):
        with networks._TF32.allowed(self.wanted):
            self.inside.set()
            self.go.wait(10)

    def leave(self):
        self.go.set()
        self.join(10)


@pytest.mark.parametrize("wanted", [True, False])
def test_threads_that_overlap_leave_the_switch_as_it_was(before, wanted):
    first, second = User(wanted), User(wanted)
    assert first.inside.wait(10)
    assert second.inside.wait(10)
    first.leave()  # before the one that came after it
    assert torch.backends.cudnn.allow_tf32 is wanted
    second.leave()
    assert torch.backends.cudnn.allow_tf32 is before


def test_a_thread_that_wants_the_other_position_waits(before):
    first = User(False)
    assert first.inside.wait(10)
    second = User(True)
    assert not second.inside.wait(0.1)
    assert torch.backends.cudnn.allow_tf32 is False
    first.leave()
    assert second.inside.wait(10)
    assert torch.backends.cudnn.allow_tf32 is True
    second.leave()
    assert torch.backends.cudnn.allow_tf32 is before


def test_a_failure_inside_puts_the_switch_back(before):
    with pytest.raises(KeyError), networks._TF32.allowed(not before):
        raise KeyError
    assert torch.backends.cudnn.allow_tf32 is before


def test_the_order_of_pixels_in_memory_changes_no_vector():
    net = backbones.create("test_resnet", random_weights=True, precision="fp32", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (3, *net.transform.input_size), np.uint8)
    wanted = net.embed(pixels)
    last = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)  # as extraction reads them
    np.testing.assert_array_equal(net.embed(last), wanted)
    np.testing.assert_array_equal(net.embed(pixels[::-1, :, ::-1, ::-1][::-1, :, ::-1, ::-1]), wanted)
    np.testing.assert_array_equal(net.embed(pixels[:, :, ::-1]), net.embed(pixels[:, :, ::-1].copy()))
