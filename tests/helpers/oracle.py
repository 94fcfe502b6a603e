"""The oracle: dense training, every row at every step, written to be read.

`Dense(weights, rule)` in float64 is the truth. `Dense(weights, rule, np.float32)` is what a dense
float32 run gives: the same formulas with every array operation rounded to float32. Scalars such as
Adam's bias correction are computed in float64 in both, so the float32 run is as good as a float32
run can be, and better than a library which computes them in float32.

Each rule is one function, in Keras's form or, where it differs, in PyTorch's (from `torch_sgd` on).
Its arguments, in this order: the hyperparameters, the
step t (1-based), its learning rate lr, the gradient g (V, D), the weights w (V, D), and the slots.
w and the slots are changed in place.
"""

from functools import reduce
from math import sqrt

import numpy as np


def sgd(rule, t, lr, g, w, slots):
    mu = rule.momentum
    if mu == 0:
        w -= lr * g
        return
    b = slots["momentum"]
    b[:] = mu * b - lr * g
    w += mu * b - lr * g if rule.nesterov else b


def rmsprop(rule, t, lr, g, w, slots):
    rho, mu, v = rule.rho, rule.momentum, slots["velocity"]
    v[:] = rho * v + (1 - rho) * (g * g)
    d = v
    if rule.centered:
        a = slots["average_gradient"]
        a[:] = rho * a + (1 - rho) * g
        d = v - a * a
    increment = lr * g / np.sqrt(d + rule.epsilon)
    if mu > 0:
        b = slots["momentum"]
        b[:] = mu * b + increment
        increment = b
    w -= increment


def adagrad(rule, t, lr, g, w, slots):
    acc = slots["accumulator"]
    acc += g * g
    w -= lr * g / np.sqrt(acc + rule.epsilon)


def rowwise_adagrad(rule, t, lr, g, w, slots):
    acc = slots["accumulator"]  # (V, 1)
    acc += np.mean(g * g, axis=1, keepdims=True)
    w -= lr * g / (np.sqrt(acc) + rule.epsilon)


def adadelta(rule, t, lr, g, w, slots):
    rho, v, d = rule.rho, *slots.values()
    v[:] = rho * v + (1 - rho) * (g * g)
    u = g * np.sqrt(d + rule.epsilon) / np.sqrt(v + rule.epsilon)
    d[:] = rho * d + (1 - rho) * (u * u)
    w -= lr * u


def adam(rule, t, lr, g, w, slots):
    m, root = adam_means(rule, g, slots)
    alpha = lr * sqrt(1 - rule.beta_2**t) / (1 - rule.beta_1**t)
    w -= alpha * m / (root + rule.epsilon)


def adam_means(rule, g, slots):
    """Takes g into the running means; returns m, and the root that it is divided by."""
    b1, b2, (m, v, *largest) = rule.beta_1, rule.beta_2, slots.values()
    m[:] = b1 * m + (1 - b1) * g
    v[:] = b2 * v + (1 - b2) * (g * g)
    if not largest:
        return m, np.sqrt(v)
    np.maximum(largest[0], v, out=largest[0])
    return m, np.sqrt(largest[0])


def nadam(rule, t, lr, g, w, slots):
    m, root = adam_means(rule, g, slots)

    def u(i):
        return rule.beta_1 * (1 - 0.96 ** (i * getattr(rule, "momentum_decay", 1)) / 2)

    product = np.prod(u(np.arange(1.0, min(t, 3000) + 1)))  # 0 long before
    mean = u(t + 1) / (1 - product * u(t + 1)) * m + (1 - u(t)) / (1 - product) * g
    w -= lr * mean / (root / sqrt(1 - rule.beta_2**t) + rule.epsilon)


def adamax(rule, t, lr, g, w, slots):
    b1, b2, m, u = rule.beta_1, rule.beta_2, slots["momentum"], slots["norm"]
    m[:] = b1 * m + (1 - b1) * g
    u[:] = np.maximum(b2 * u, np.abs(g))
    w -= lr / (1 - b1**t) * m / (u + rule.epsilon)


def lion(rule, t, lr, g, w, slots):
    b1, b2, m = rule.beta_1, rule.beta_2, slots["momentum"]
    w -= lr * np.sign(b1 * m + (1 - b1) * g)
    m[:] = b2 * m + (1 - b2) * g


def ftrl(rule, t, lr, g, w, slots):
    acc, z, p = slots["accumulator"], slots["linear"], -rule.learning_rate_power
    l1, l2 = rule.l1_regularization_strength, rule.l2_regularization_strength
    n = acc + g * g
    z += g - (n**p - acc**p) / lr * w
    w[:] = (np.clip(z, -l1, l1) - z) / (n**p / lr + 2 * l2 + rule.beta / lr)
    acc[:] = n


def torch_sgd(rule, t, lr, g, w, slots):
    if rule.momentum == 0:
        w -= lr * g
        return
    mu, b = rule.momentum, slots["momentum_buffer"]
    b[:] = mu * b + (1 if t == 1 else 1 - rule.dampening) * g
    w -= lr * (g + mu * b if rule.nesterov else b)


def torch_rmsprop(rule, t, lr, g, w, slots):
    rho, mu, v = rule.rho, rule.momentum, slots["square_avg"]
    v[:] = rho * v + (1 - rho) * (g * g)
    d = v
    if rule.centered:
        a = slots["grad_avg"]
        a[:] = rho * a + (1 - rho) * g
        d = v - a * a
    increment = g / (np.sqrt(d) + rule.epsilon)
    if mu > 0:
        b = slots["momentum_buffer"]
        b[:] = mu * b + increment
        increment = b
    w -= lr * increment


def torch_adagrad(rule, t, lr, g, w, slots):
    acc = slots["sum"]
    acc += g * g
    w -= lr * g / (np.sqrt(acc) + rule.epsilon)


def torch_adam(rule, t, lr, g, w, slots):
    m, root = adam_means(rule, g, slots)
    w -= lr / (1 - rule.beta_1**t) * m / (root / sqrt(1 - rule.beta_2**t) + rule.epsilon)


def torch_adamax(rule, t, lr, g, w, slots):
    b1, b2, m, u = rule.beta_1, rule.beta_2, slots["exp_avg"], slots["exp_inf"]
    m[:] = b1 * m + (1 - b1) * g
    u[:] = np.maximum(b2 * u, np.abs(g) + rule.epsilon)
    w -= lr / (1 - b1**t) * m / u


STEP = {
    "sgd": sgd,
    "rmsprop": rmsprop,
    "adagrad": adagrad,
    "rowwise_adagrad": rowwise_adagrad,
    "adadelta": adadelta,
    "adam": adam,
    "adamw": adam,
    "nadam": nadam,
    "adamax": adamax,
    "lion": lion,
    "ftrl": ftrl,
    "pytorch.sgd": torch_sgd,
    "pytorch.rmsprop": torch_rmsprop,
    "pytorch.adagrad": torch_adagrad,
    "pytorch.adadelta": adadelta,
    "pytorch.adam": torch_adam,
    "pytorch.adamw": torch_adam,
    "pytorch.nadam": nadam,
    "pytorch.adamax": torch_adamax,
}


def slots_of(rule):
    """The slots of a rule, as {name: (start, factor by which it decays in a step)}."""
    match rule.name.removeprefix("pytorch."):
        case "sgd":
            decay = [rule.momentum] if rule.momentum else []
        case "rmsprop":
            decay = [rule.rho, rule.momentum, rule.rho]
            decay = [decay[i] for i in (0, *[1] * (rule.momentum > 0), *[2] * rule.centered)]
        case "adagrad" | "rowwise_adagrad":
            return {rule.slot_names[0]: (rule.initial_accumulator_value, 1.0)}
        case "adadelta":
            decay = [rule.rho, rule.rho]
        case "adam" | "adamw":
            decay = [rule.beta_1, rule.beta_2, 1.0][: 3 if rule.amsgrad else 2]
        case "nadam":
            decay = [rule.beta_1, rule.beta_2]
        case "adamax":  # PyTorch's largest gradient is at least epsilon, from the first step on
            start = rule.epsilon if rule.name.startswith("pytorch.") else 0.0
            return dict(
                zip(rule.slot_names, [(0.0, rule.beta_1), (start, rule.beta_2)], strict=True)
            )
        case "lion":
            decay = [rule.beta_2]
        case "ftrl":
            return {"accumulator": (rule.initial_accumulator_value, 1.0), "linear": (0.0, 1.0)}
        case name:
            raise ValueError(f"the oracle knows no rule {name}")
    return {name: (0.0, factor) for name, factor in zip(rule.slot_names, decay, strict=True)}


class Dense:
    """A table of V rows of D numbers, trained by running the rule over all of it at every step.

    >>> import rowwise
    >>> dense = Dense(np.zeros((3, 1)), rowwise.rules.SGD(learning_rate=0.5))
    >>> dense.step(ids=[2, 2], gradients=[[1.0], [3.0]])
    >>> dense.weights.ravel().tolist()
    [0.0, 0.0, -2.0]
    """

    def __init__(self, weights, rule, dtype=np.float64):
        self.rule = rule
        self.dtype = dtype
        self.steps = 0
        self.weights = np.array(weights, dtype)
        rows, dim = self.weights.shape
        self.slots = {
            name: np.full((rows, rule.slot_dim(dim)), start, dtype)
            for name, (start, _) in slots_of(rule).items()
        }

    def step(self, ids, gradients, learning_rate=None):
        """One step of the rule. ids (...,) int, gradients (..., D); duplicates are summed."""
        rule = self.rule
        self.steps += 1
        lr = rule.learning_rate if learning_rate is None else learning_rate
        lr = float(self.dtype(lr))
        if rule.weight_decay:
            self.weights *= 1 - lr * rule.weight_decay
        g = self.dense_gradient(ids, gradients)
        STEP[rule.name](rule, self.steps, lr, g, self.weights, self.slots)

    def dense_gradient(self, ids, gradients):
        """(V, D): each row's gradients summed in the order they stand, zeros where there are none.

        The sum is taken in this run's dtype, of gradients that have been rounded to float32.
        """
        total = np.zeros_like(self.weights)
        ids = np.asarray(ids, np.int64).ravel()
        gradients = np.asarray(gradients, np.float32).reshape(len(ids), total.shape[1])
        np.add.at(total, ids, gradients.astype(self.dtype))
        return total


def summed_in_blocks(gradients):
    """The float32 sum (D,) of an id's gradients (n, D): 64 at a time in their order, then these
    sums in theirs."""
    blocks = [gradients[first : first + 64] for first in range(0, len(gradients), 64)]
    return reduce(np.add, [reduce(np.add, block) for block in blocks])
