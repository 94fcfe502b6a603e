"""The launcher of the device's kernels, beside a driver that runs them on this processor."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rowwise import _native

REPOSITORY = Path(__file__).parent.parent.parent
COMPILER = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")

PROGRAM = """
import os
import numpy as np, torch
from rowwise import _native, rules
from rowwise.store import HostStore, RowGradient
from rowwise.torch._device import DeviceStore
from rowwise.torch._device._self_check import self_check

try:
    _native.cuda_engine(1)
except RuntimeError as error:
    assert "cuDeviceGet failed: invalid device" in str(error), error
else:
    raise AssertionError("a GPU that is not there")
engine, rule = _native.cuda_engine(0), rules.Adam(weight_decay=0.01)
assert not engine.has_kernels(rule.native())
try:
    engine.load_kernels(rule.native(), b"damaged")
except RuntimeError as error:
    assert "cuModuleLoadData" in str(error), error
for known in (rule, rules.SGD()):
    engine.load_kernels(known.native(), b"module")
assert engine.has_kernels(rule.native())
random = np.random.default_rng(0)
for dim in (6, 132):
    host = HostStore(90, dim, rule, init="normal", seed=1)
    device = DeviceStore(90, dim, rule, init="normal", seed=1, device="cpu", engine=engine)
    for step in range(30):
        ids = random.integers(0, 80 if step % 2 else 3, 300)
        gradients = random.standard_normal((300, dim)).astype(np.float32)
        for store in (host, device):
            store.apply(RowGradient(ids, gradients), rule.step_params(0.1, step + 1))
    found = [np.empty((90, dim), np.float32) for _ in range(2)]
    for store, out in zip((host, device), found):
        store.gather(np.arange(90), out)
    assert (found[0].view(np.int32) == found[1].view(np.int32)).all()
    device.gather(torch.tensor([4, 90]), torch.empty(2, dim))
    try:
        device.synchronize()
    except IndexError as error:
        assert "id 90 at position 1" in str(error)
    else:
        raise AssertionError("no error")
print("same bits")
assert self_check(rule, torch.device("cpu"), engine) is None
os.environ["FAKE_DRIVER"] = "does nothing"
print(self_check(rule, torch.device("cpu"), engine))
os.environ["FAKE_DRIVER"] = "fails"
try:
    self_check(rule, torch.device("cpu"), engine)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux" or COMPILER is None, reason="compiles a library")
def test_launches_through_the_driver_have_the_cpu_s_bits(tmp_path):
    # -Bsymbolic: a kernel may have the name of a function of C's library.
    options = ["-std=c++20", "-O1", "-shared", "-fPIC", "-ffp-contract=off", "-w", "-Wl,-Bsymbolic"]
    source, library = REPOSITORY / "tests/native/fake_driver.cpp", tmp_path / "libcuda.so.1"
    given = [f"-I{REPOSITORY / 'native'}", "-DROWWISE_RULE=Adam<false>", source, "-o", library]
    subprocess.run([COMPILER, *options, *given], check=True)
    paths = f"{tmp_path}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "LD_LIBRARY_PATH": paths},
        capture_output=True,
        text=True,
    )
    assert run.stdout.splitlines() == [
        "same bits",
        "sums of bags under adam have other bits than on the CPU",
        "CUDA's cuLaunchKernel failed: invalid device ordinal or context",
    ], run.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_driver_the_error_says_so():
    with pytest.raises(RuntimeError, match=r"driver was not found|no CUDA-capable device"):
        _native.cuda_engine(0)
