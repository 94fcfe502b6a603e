"""The numbers of a step in native code: those of the rules."""

import numpy as np
import pytest

from rowwise import rules
from rowwise.jax import Embedding
from rowwise.jax._step_formula import step_formula
from rowwise.rules import pytorch

RULES = [
    rules.SGD(weight_decay=0.01),
    rules.SGD(momentum=0.9),
    rules.SGD(momentum=0.9, nesterov=True),
    rules.RMSprop(momentum=0.5, centered=True),
    rules.Adagrad(),
    rules.RowwiseAdagrad(),
    rules.Adadelta(),
    rules.Adam(),
    rules.Adam(amsgrad=True, beta_1=0.0),
    rules.AdamW(),
    rules.Adamax(weight_decay=0.1),
    rules.Nadam(),
    rules.Lion(),
    rules.Ftrl(),
    pytorch.SGD(),
    pytorch.SGD(momentum=0.9, nesterov=True),
    pytorch.RMSprop(momentum=0.5, centered=True),
    pytorch.Adagrad(),
    pytorch.RowwiseAdagrad(),
    pytorch.Adadelta(),
    pytorch.Adam(amsgrad=True),
    pytorch.AdamW(),
    pytorch.Adamax(),
    pytorch.NAdam(),
]


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_native_code_makes_of_rate_and_iteration_what_the_rule_does(rule):
    program = Embedding(5, 2).program
    number = program.add_rule(rule.native(), **rule.clock(), **step_formula(rule))
    for iteration in (1, 2, 37, 10**4, 10**7):
        for rate in (1.0, float(np.float32(0.01)), 1e-12):
            ours = program.step_params(number, rate, iteration)
            expected = rule.step_params(rate, iteration)
            if isinstance(rule, rules.Nadam):  # a product, which NumPy takes in another order
                np.testing.assert_allclose(ours, expected, rtol=1e-13)
            else:
                assert ours == tuple(expected)


def test_a_rule_without_a_formula_is_refused():
    with pytest.raises(TypeError, match="no formula for the steps of SGD"):
        step_formula(pytorch.SGD(momentum=0.9, dampening=0.5))
