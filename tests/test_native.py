"""The extension as built: its stub, its copies of the kernels."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rowwise
from rowwise import _native


def test_the_stub_says_what_the_extension_has(tmp_path):
    pytest.importorskip("nanobind")
    fresh = tmp_path / "_native.pyi"
    command = [sys.executable, "-m", "nanobind.stubgen", "-m", "rowwise._native", "-o", fresh]
    subprocess.run(command, check=True, capture_output=True)
    kept = Path(__file__).parent.parent / "src" / "rowwise" / "_native.pyi"
    assert fresh.read_text() == kept.read_text()


def test_a_program_that_has_no_table_or_gets_short_weights_says_so():
    ids, gradients, weights = np.zeros(1, np.int64), np.ones((1, 2), np.float32), np.zeros(3)
    program = _native.Program("rows")
    for call in (
        lambda: program.push(0, ids, gradients),
        lambda: program.summed(weights.astype(np.float32), 2),
        lambda: program.use_rule(0),
    ):
        with pytest.raises(RuntimeError, match="rows: there is no table"):
            call()
    table = rowwise.Table(4, 2)
    table.store.serve(program)
    program.push(0, ids, gradients)
    with pytest.raises(ValueError, match="weights of 3 places"):
        program.summed(weights.astype(np.float32), 2)


def test_importing_rowwise_brings_in_no_framework():
    code = (
        "import sys, rowwise;"
        "heavy = {'keras', 'torch', 'jax', 'tensorflow', 'pandas', 'typer', 'safetensors'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    )
    assert output.stdout.strip() == "[]"


@pytest.mark.parametrize("copy", ["portable", "avx2", "avx512"])
@pytest.mark.parametrize("dim", [1, 3, 8, 50, 64, 300])
def test_every_copy_of_the_kernels_gives_the_same_bits(copy, dim):
    chosen = _native.kernels()
    try:
        if not _native.select_kernels(copy):
            pytest.skip(f"this processor does not run {copy}")
        results = train(dim)
        assert _native.select_kernels("portable")
        np.testing.assert_array_equal(results, train(dim))
    finally:
        _native.select_kernels(chosen)


def train(dim):
    table = rowwise.Table(40, dim, rowwise.rules.AdamW(0.01), seed=0)
    rng = np.random.default_rng(0)
    for _ in range(300):
        ids = rng.integers(0, rng.integers(1, 41), 9)
        table.update(ids, rng.standard_normal((9, dim)))
    return table.to_numpy()


def test_a_child_process_after_a_fork_can_train():
    code = """
import os, numpy as np, rowwise
table = rowwise.Table(5000, 8, "adam", seed=0)
ids = np.arange(5000)
rowwise.set_num_threads(2)
table.update(ids, np.ones((5000, 8)))
child = os.fork()
if child == 0:
    table.update(ids, np.ones((5000, 8)))
    os._exit(0 if table.steps == 2 else 1)
_, status = os.waitpid(child, 0)
table.update(ids, np.ones((5000, 8)))
assert os.waitstatus_to_exitcode(status) == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


def test_tables_leave_nothing_behind():
    code = """
import numpy as np, rowwise
from rowwise import _native
_native.set_leak_warnings(True)
for _ in range(3):
    table = rowwise.Table(50, 4, "adam")
    table.update([1, 2], np.ones((2, 4)))
    table.lookup([3]), table.slot("momentum"), table.materialize()
    table.rule = "sgd"
"""
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "leaked" not in run.stdout + run.stderr
