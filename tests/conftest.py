"""Preparations of every test: the Keras backend, and repeatable properties."""

import gc
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "torch")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test get Ctrl-C

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "repeatable",
    derandomize=True,  # the same examples on every run
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("repeatable")

# JAX has threads, and warns where its process forks, as other tests do.
collect_ignore = [] if os.environ["KERAS_BACKEND"] == "jax" else ["jax"]


def pytest_addoption(parser):
    """`--every N`, for backends whose compilers take a second per test."""
    parser.addoption("--every", type=int, default=1, help="of a test of Keras, run every N-th case")


def pytest_collection_modifyitems(config, items):
    """Leaves each test its first case, and every N-th after that."""
    seen, kept = Counter(), []
    for item in items:
        name = item.nodeid.partition("[")[0]
        every = config.getoption("every") if item.nodeid.startswith("tests/keras") else 1
        if seen[name] % every == 0:
            kept.append(item)
        seen[name] += 1
    items[:] = kept


@pytest.fixture(scope="session", autouse=True)
def _modules_left_out_of_collections():
    """Have the collections that Keras asks for, as a layer is quantized, pass over all modules."""
    if "side_by_side" in sys.modules:
        sys.modules["keras"].utils.set_random_seed(0)  # imports TensorFlow, whatever the backend
    gc.collect()
    gc.freeze()


@pytest.fixture
def folder_in_memory(tmp_path):
    """Give a folder for saves by the hundred, where they do not wait for a disk if that can be."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)
