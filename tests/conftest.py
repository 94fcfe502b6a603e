"""Preparations of every test: the Keras backend, and repeatable properties."""

import gc
import os
import signal
from collections import Counter

os.environ.setdefault("KERAS_BACKEND", "torch")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
    signal.signal(signal.SIGINT, signal.default_int_handler)  # programs under test get Ctrl-C

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


def pytest_collection_finish():
    """Leaves the modules out of later collections: Keras asks for one at every clear_session."""
    gc.collect()
    gc.freeze()
