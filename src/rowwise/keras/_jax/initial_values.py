"""The numbers of `keras.random` on JAX, of any part of an array.

JAX makes a number from the seed and the number's place in the array alone, by the Threefry hash.
A key that also holds the place at which a block begins makes the numbers of that block.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.extend.random import define_prng_impl, threefry_2x32
from keras.src.random.seed_generator import draw_seed

from rowwise.keras._initial_values import Draw, Sampler


def sampler(draw: Draw, dtype: str) -> Sampler | None:
    """Return what draws Keras's numbers block by block; None: JAX is set to draw otherwise."""
    config = jax.config
    if (
        not config.jax_threefry_partitionable
        or config.jax_default_prng_impl != "threefry2x32"
        or keras.distribution.distribution() is not None
    ):
        return None
    random = getattr(keras.random, draw.distribution)
    seed = np.asarray(draw_seed(draw.seed))

    def sample(first: int, shape: tuple[int, int]) -> Any:
        place = np.array([first % 2**32, first // 2**32], np.uint32)
        key = jax.random.wrap_key_data(np.concatenate([seed, place]), impl=_FROM_A_PLACE)
        return np.asarray(random(shape, draw.a, draw.b, dtype=dtype, seed=key))

    return sample


def _bits_from_a_place(key: Any, bit_width: int, shape: tuple[int, ...]) -> Any:
    """Return random bits as Threefry's own implementation does, for a block of an array."""
    if bit_width > 32:
        raise NotImplementedError(f"{bit_width} bits")
    size = math.prod(shape)
    low = key[2] + jax.lax.iota(jnp.uint32, size)
    high = key[3] + (low < key[2]).astype(jnp.uint32)
    hashed = threefry_2x32((key[0], key[1]), jnp.concatenate([high, low]))
    bits = (hashed[:size] ^ hashed[size:]).reshape(shape)
    return bits.astype(f"uint{bit_width}")


def _never(*_: Any) -> Any:
    raise NotImplementedError("a block's key makes numbers and nothing else")


_FROM_A_PLACE = define_prng_impl(
    key_shape=(4,),
    seed=_never,
    split=_never,
    fold_in=_never,
    random_bits=_bits_from_a_place,
    name="rowwise_block",
    tag="block",
)
