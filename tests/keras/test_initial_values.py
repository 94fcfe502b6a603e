"""A layer starts with Keras's own numbers, and needs no memory for them but the table's."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras.initializers import (
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    RandomNormal,
    RandomUniform,
    TruncatedNormal,
    VarianceScaling,
)
from side_by_side import LAYERS

from rowwise.keras import _initial_values


class _Halves(keras.initializers.RandomUniform):
    """An initializer of one's own, which may draw anything."""

    def __call__(self, shape, dtype=None):
        return super().__call__(shape, dtype) / 2


INITIALIZERS = {
    "zeros": lambda: "zeros",
    "ones": lambda: "ones",
    "by name": lambda: "uniform",
    "constant": lambda: Constant(0.3),
    "uniform": lambda: RandomUniform(-0.3, 0.7, seed=1),
    "normal": lambda: RandomNormal(0.1, 0.3, seed=2),
    "truncated normal": lambda: TruncatedNormal(0.1, 0.3, seed=3),
    "Glorot, uniform": lambda: GlorotUniform(keras.random.SeedGenerator(4)),
    "Glorot, normal": lambda: GlorotNormal(5),
    "He": lambda: HeNormal(6),
    "scaled": lambda: VarianceScaling(2.0, "fan_out", "untruncated_normal", 7),
    "an array": lambda: Constant(np.arange(3.0, dtype=np.float32)),
    "one's own": lambda: _Halves(seed=8),
}


HALVES = [
    ("uniform", "bfloat16"),
    ("uniform", "float16"),
    ("normal", "float16"),
    ("truncated normal", "bfloat16"),
]


@pytest.mark.parametrize(("name", "dtype"), [*((n, "float32") for n in INITIALIZERS), *HALVES])
def test_rows_start_with_kerass_numbers_from_block_to_block(name, dtype, monkeypatch):
    monkeypatch.setattr(_initial_values, "_BLOCK", 1000)
    started = []
    for layer in LAYERS:
        keras.utils.set_random_seed(9)
        initializer = INITIALIZERS[name]()
        own = {"rounding": "nearest"} if layer is LAYERS[0] else {}
        options = {"embeddings_initializer": initializer, "dtype": dtype, **own}
        twice = [layer(rows, 3, **options) for rows in (1009, 5)]
        for one in twice:
            one.build()
        started.append([one.get_weights()[0] for one in twice])
    np.testing.assert_array_equal(started[0][0], started[1][0])
    np.testing.assert_array_equal(started[0][1], started[1][1])


@pytest.mark.parametrize("initializer", ["uniform", "glorot_normal"])
def test_a_large_layer_starts_in_the_memory_of_its_table(initializer):
    def memory(what):
        return int(re.search(rf"{what}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024

    LAYERS[0](100, 64, embeddings_initializer=initializer).build()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
    before = memory("VmRSS")
    layer = LAYERS[0](500_000, 64, embeddings_initializer=initializer)
    layer.build()
    assert memory("VmHWM") - before < 1.3 * layer.table.nbytes  # 3 to 9 times, were it drawn whole
