"""The one list of rules that drives every check shared by all rules.

`@every_rule` is for what a kernel computes. `@every_family` is for what Python does around it
(copies, files, growth): one rule of each native kernel is enough there.
"""

import pytest

import rowwise
from rowwise.rules import pytorch

RULES = {
    "sgd": rowwise.rules.SGD(),
    "sgd-decay": rowwise.rules.SGD(weight_decay=0.01),
    "sgd-momentum": rowwise.rules.SGD(momentum=0.9),
    "sgd-momentum-long-decay": rowwise.rules.SGD(momentum=0.99, weight_decay=0.1),
    "sgd-nesterov": rowwise.rules.SGD(momentum=0.9, nesterov=True),
    "sgd-nesterov-short-decay": rowwise.rules.SGD(momentum=0.3, nesterov=True, weight_decay=0.01),
    "rmsprop": rowwise.rules.RMSprop(),
    "rmsprop-decay": rowwise.rules.RMSprop(weight_decay=0.01),
    "rmsprop-rho-long-epsilon-large": rowwise.rules.RMSprop(rho=0.999, epsilon=1e-3),
    "rmsprop-momentum": rowwise.rules.RMSprop(momentum=0.9),
    "rmsprop-momentum-decay": rowwise.rules.RMSprop(momentum=0.5, rho=0.99, weight_decay=0.01),
    "rmsprop-centered": rowwise.rules.RMSprop(centered=True),
    "rmsprop-centered-momentum-decay": rowwise.rules.RMSprop(
        rho=0.95, momentum=0.9, centered=True, weight_decay=0.01
    ),
    "adagrad": rowwise.rules.Adagrad(),
    "adagrad-from-zero": rowwise.rules.Adagrad(initial_accumulator_value=0.0),
    "adagrad-epsilon-large-decay": rowwise.rules.Adagrad(epsilon=1e-3, weight_decay=0.01),
    "rowwise-adagrad": rowwise.rules.RowwiseAdagrad(),
    "rowwise-adagrad-started-decay": rowwise.rules.RowwiseAdagrad(
        initial_accumulator_value=0.1, epsilon=1e-3, weight_decay=0.01
    ),
    "adam": rowwise.rules.Adam(),
    "adam-decay": rowwise.rules.Adam(weight_decay=0.01),
    "adam-beta-1-zero": rowwise.rules.Adam(beta_1=0.0),
    "adam-beta-1-short": rowwise.rules.Adam(beta_1=0.5),
    "adam-beta-1-long": rowwise.rules.Adam(beta_1=0.95),
    "adam-beta-1-longest": rowwise.rules.Adam(beta_1=0.99),
    "adam-beta-2-short": rowwise.rules.Adam(beta_2=0.9),
    "adam-beta-2-middle": rowwise.rules.Adam(beta_2=0.99),
    "adam-beta-2-long": rowwise.rules.Adam(beta_2=0.9999),
    "adam-betas-equal": rowwise.rules.Adam(beta_1=0.95, beta_2=0.95),
    "adam-beta-1-longer-than-beta-2": rowwise.rules.Adam(beta_1=0.99, beta_2=0.9),
    "adam-betas-short-decay": rowwise.rules.Adam(beta_1=0.5, beta_2=0.5, weight_decay=0.1),
    "adam-beta-2-shorter-than-beta-1-decay": rowwise.rules.Adam(beta_2=0.5, weight_decay=0.1),
    "adam-beta-1-long-epsilon-one": rowwise.rules.Adam(beta_1=0.95, beta_2=0.99, epsilon=1.0),
    "adam-epsilon-large": rowwise.rules.Adam(epsilon=1e-3),
    "adam-epsilon-one": rowwise.rules.Adam(epsilon=1.0),
    "adam-epsilon-tiny": rowwise.rules.Adam(epsilon=1e-10),
    "adam-amsgrad": rowwise.rules.Adam(amsgrad=True),
    "adam-amsgrad-epsilon-large-decay": rowwise.rules.Adam(
        amsgrad=True, epsilon=1e-3, weight_decay=0.1
    ),
    "adamw": rowwise.rules.AdamW(),
    "adamw-decay-strong": rowwise.rules.AdamW(weight_decay=0.3, beta_1=0.95, beta_2=0.99),
    "adamw-decay-strong-epsilon-tiny": rowwise.rules.AdamW(weight_decay=0.1, epsilon=1e-10),
    "nadam": rowwise.rules.Nadam(),
    "nadam-epsilon-large-decay": rowwise.rules.Nadam(epsilon=1e-3, weight_decay=0.01),
    "nadam-betas-short": rowwise.rules.Nadam(beta_1=0.5, beta_2=0.9),
    "adamax": rowwise.rules.Adamax(),
    "adamax-betas-short-decay": rowwise.rules.Adamax(beta_1=0.5, beta_2=0.9, weight_decay=0.1),
    "adamax-epsilon-large": rowwise.rules.Adamax(beta_2=0.99, epsilon=1e-3),
    "adadelta": rowwise.rules.Adadelta(),
    "adadelta-decay": rowwise.rules.Adadelta(rho=0.9, epsilon=1e-5, weight_decay=0.01),
    "lion": rowwise.rules.Lion(),
    "lion-decay": rowwise.rules.Lion(beta_2=0.9, weight_decay=0.1),
    "ftrl": rowwise.rules.Ftrl(),
    "ftrl-regularized-decay": rowwise.rules.Ftrl(
        l1_regularization_strength=0.01,
        l2_regularization_strength=0.1,
        beta=0.1,
        weight_decay=0.1,
    ),
    "ftrl-power": rowwise.rules.Ftrl(learning_rate_power=-0.8, initial_accumulator_value=1.0),
    "pytorch-sgd": pytorch.SGD(weight_decay=0.01),
    "pytorch-sgd-momentum": pytorch.SGD(momentum=0.9, dampening=0.5),
    "pytorch-sgd-nesterov": pytorch.SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    "pytorch-rmsprop": pytorch.RMSprop(),
    "pytorch-rmsprop-momentum": pytorch.RMSprop(momentum=0.9, weight_decay=0.01),
    "pytorch-rmsprop-centered": pytorch.RMSprop(centered=True, epsilon=1e-5),
    "pytorch-rmsprop-centered-momentum": pytorch.RMSprop(centered=True, momentum=0.5),
    "pytorch-adagrad": pytorch.Adagrad(),
    "pytorch-adadelta": pytorch.Adadelta(),
    "pytorch-adam": pytorch.Adam(),
    "pytorch-adam-epsilon-large": pytorch.Adam(epsilon=1e-3),
    "pytorch-adam-betas-short-decay": pytorch.Adam(beta_1=0.5, beta_2=0.9, weight_decay=0.1),
    "pytorch-adam-amsgrad": pytorch.Adam(amsgrad=True, epsilon=1e-3),
    "pytorch-adamw": pytorch.AdamW(),
    "pytorch-nadam": pytorch.NAdam(),
    "pytorch-nadam-epsilon-large": pytorch.NAdam(epsilon=1e-2, weight_decay=0.01),
    "pytorch-adamax": pytorch.Adamax(),
    "pytorch-adamax-epsilon-large": pytorch.Adamax(epsilon=1e-2, weight_decay=0.1),
}

# Rules whose movement grows through a gap, beta_1 > sqrt(beta_2): rowwise may run them dense.
GROWING = [rule for rule in RULES.values() if rule.lagged_update.ratio > 1]


def each(names):
    """Run a test once for each of the named rules, which it takes as `rule`."""
    rules = [pytest.param(RULES[name], id=name) for name in names]

    def decorate(test):
        # a rule without a shortcut says so when its table is made, and must be right all the same
        test = pytest.mark.filterwarnings("ignore:.*every step visits every row")(test)
        return pytest.mark.parametrize("rule", rules)(test)

    return decorate


every_rule = each(RULES)
every_family = each({rule.family: name for name, rule in RULES.items()}.values())
