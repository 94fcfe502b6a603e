"""The numbers of `keras.random` on TensorFlow, of any part of an array.

TensorFlow makes four numbers at a time from the seed and a counter, by the Philox hash; of a
truncated normal distribution it sets 256 counts of the counter aside for them.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from keras.src.backend.tensorflow import random
from keras.src.random.seed_generator import draw_seed

from rowwise.keras._initial_values import Draw, Sampler

_AUTO_SELECT = 3  # of the algorithms: the device's own, Philox on a CPU
_COUNTS = {
    "uniform": (tf.raw_ops.StatelessRandomUniformV2, 1),
    "normal": (tf.raw_ops.StatelessRandomNormalV2, 1),
    "truncated_normal": (tf.raw_ops.StatelessTruncatedNormalV2, 256),
}


def sampler(draw: Draw, dtype: str) -> Sampler | None:
    """Return what draws Keras's numbers block by block; None where there is a GPU to draw them."""
    if tf.config.list_logical_devices("GPU"):
        return None
    with tf.init_scope():
        key, counter = tf.raw_ops.StatelessRandomGetKeyCounter(seed=_seed_of(draw))
        a, b = tf.constant(draw.a, dtype), tf.constant(draw.b, dtype)
        scale = b - a if draw.distribution == "uniform" else b
    make, counts = _COUNTS[draw.distribution]

    def sample(first: int, shape: tuple[int, int]) -> Any:
        with tf.init_scope():
            begin = counter + tf.constant([first // 4 * counts, 0], counter.dtype)
            numbers = make(shape=shape, key=key, counter=begin, alg=_AUTO_SELECT, dtype=a.dtype)
            return (numbers * scale + a).numpy()

    return sample


def _seed_of(draw: Draw) -> Any:
    """Return the seed as older and newer versions of Keras hand it to TensorFlow."""
    if hasattr(random, "tf_draw_seed"):
        return random.tf_draw_seed(draw.seed)
    return random._cast_seed(draw_seed(draw.seed))
