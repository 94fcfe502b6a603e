"""The device's kernels as NVIDIA's compiler makes them, without a GPU; and the cache of them."""

import re
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from helpers.rules import RULES
from rowwise import _native
from rowwise.torch._device import _kernels, _nvrtc

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="NVRTC is tested on Linux")

FAMILIES = {rule.family: rule.native() for rule in RULES.values()}

# Every family's arithmetic, element by element.
ARITHMETIC = """
#define ROWWISE_ISA device
#include "rules.hpp"
using namespace rowwise;
using namespace rowwise::device;
template <class R>
__device__ void run(const LaggedUpdate& k, const Hyperparameters& h, const Step& step, float* x) {
    Slots<R::slots> s{};
    for (int i = 0; i < R::slots; ++i) s.z[i] = x[i + 2];
    R::lag_weight(k, h, x[0], s);
    R::lag_slots(k, h, s);
    if constexpr (R::row_slots)
        R::step(step, R::step_row(step, h, x[1], s), x[1], x[0]);
    else
        R::step(step, h, x[1], x[0], s);
    for (int i = 0; i < R::slots; ++i) x[i + 2] = s.z[i];
}
#define ENTRY(name, ...) \\
    extern "C" __global__ void name(LaggedUpdate k, Hyperparameters h, Step step, float* x) { \\
        run<__VA_ARGS__>(k, h, step, x); \\
    }
ROWWISE_FAMILIES(ENTRY)
"""


@pytest.mark.parametrize(
    ("family", "architecture"),
    [("adam", 80), ("torch_adamax", 90), ("rowwise_adagrad", 100), ("lion", 120)],
)
def test_kernels_compile_without_spilling_registers(family, architecture):
    binary, log = _kernels.compile_kernels(
        FAMILIES[family], architecture, more=("--ptxas-options=-v",)
    )
    assert binary[:4] == b"\x7fELF"
    entries = re.findall(r"Compiling entry function '(\w+)'", log)
    assert {"gather_1", "gather_4", "update_4", "finish", "advance"} <= set(entries)
    assert re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log) == [
        ("0", "0") for _ in entries
    ]


def test_no_family_fuses_a_multiply_add_but_the_power_of_ftrl():
    texts = dict(_native.device_texts())
    options = ["--gpu-architecture=compute_80", *_kernels._OPTIONS]
    ptx, _ = _nvrtc.nvrtc().compile(
        ARITHMETIC, {**_kernels._HEADERS, **texts}, options, binary=False
    )
    text = ptx.decode()
    starts = [match.start() for match in re.finditer(r"\.entry", text)]
    entries = {
        re.search(r"\.entry (\w+)", text[start:]).group(1): text[start:end]
        for start, end in pairwise([*starts, len(text)])
    }
    assert set(entries) == set(FAMILIES)
    fused = {name for name, body in entries.items() if re.search(r"\bfma\.", body)}
    approximate = {name for name, body in entries.items() if re.search(r"\.(ftz|approx)", body)}
    assert fused == {"ftrl"}
    assert approximate <= {"ftrl"}


def test_kernels_are_compiled_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compile_kernels(rule, architecture, *, ptx, compiler):
        calls.append((architecture, ptx))
        return b"compiled", ""

    monkeypatch.setattr(_kernels, "compile_kernels", compile_kernels)
    sgd = FAMILIES["sgd"]
    for _ in range(2):
        assert _kernels.cached_kernels(sgd, (9, 0)) == b"compiled"
    assert _kernels.cached_kernels(sgd, (99, 0)) == b"compiled"  # newer than the compiler
    assert calls == [(90, False), (max(_nvrtc.nvrtc().architectures), True)]
    kept = sorted(path.suffix for path in _kernels.cache_folder().iterdir())
    assert kept == [".cubin", ".ptx"]
    with pytest.raises(RuntimeError, match=r"compute capability 3\.5 is older"):
        _kernels.cached_kernels(sgd, (3, 5))
    for path in _kernels.cache_folder().iterdir():
        path.write_bytes(path.read_bytes()[:-1])  # as after a crash
    assert _kernels.cached_kernels(sgd, (9, 0)) == b"compiled"
    assert len(calls) == 3
    assert _kernels.cached_kernels(sgd, (9, 0)) == b"compiled"
    assert len(calls) == 3
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # where nothing can be written
    assert _kernels.cached_kernels(sgd, (9, 0)) == b"compiled"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody there").expanduser())  # without one
    assert _kernels.cached_kernels(sgd, (9, 0)) == b"compiled"
    assert len(calls) == 5


def test_without_the_compiler_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(_nvrtc, "_candidates", lambda: ["/nowhere/libnvrtc.so.13"])
    with pytest.raises(RuntimeError, match="pip install nvidia-cuda-nvrtc"):
        _nvrtc.nvrtc.__wrapped__()
