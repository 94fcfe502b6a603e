"""The record of which optimizer steps a table."""

import copy
import gc
import pickle
import warnings

import pytest

from rowwise._binding import OptimizerBinding


class Optimizer:
    """Anything that weak references can be made of."""


def test_a_table_is_stepped_densely_without_an_optimizer():
    binding, optimizer = OptimizerBinding(), Optimizer()
    assert (binding.owner, binding.mode) == (None, "dense")
    binding.attach(optimizer)
    assert (binding.owner, binding.mode) == (optimizer, "sparse")
    del optimizer
    gc.collect()
    assert (binding.owner, binding.mode) == (None, "dense")


def test_one_warning_names_the_first_reason():
    binding, optimizer = OptimizerBinding(), Optimizer()
    binding.attach(optimizer)
    with pytest.warns(UserWarning, match="weight decay; every step visits all 5 rows of words"):
        binding.fall_back_to_dense("weight decay", rows=5, name="words")
    assert (binding.owner, binding.mode) == (optimizer, "dense")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        binding.fall_back_to_dense("momentum", rows=5)


def test_another_optimizer_takes_over_and_detach_forgets_it():
    binding, first, second = OptimizerBinding(), Optimizer(), Optimizer()
    binding.attach(first)
    binding.attach(second, "dense")
    assert (binding.owner, binding.mode) == (second, "dense")
    binding.attach(second)
    assert binding.mode == "sparse"
    binding.detach()
    assert binding.owner is None


@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))]
)
def test_a_copy_has_no_optimizer(copied):
    binding, optimizer = OptimizerBinding(), Optimizer()
    binding.attach(optimizer)
    assert copied(binding).owner is None
