"""What every test needs before it starts: the Keras backend, and repeatable properties."""

import gc
import os

os.environ.setdefault("KERAS_BACKEND", "torch")

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


def pytest_collection_finish():
    """Leaves the modules out of later collections: Keras asks for one at every clear_session."""
    gc.collect()
    gc.freeze()
