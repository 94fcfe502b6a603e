"""The oracle: dense training, every row at every step, written to be read.

`Dense(weights, rule)` in float64 is the truth. `Dense(weights, rule, np.float32)` is what a dense
float32 run gives: the same formulas with every array operation rounded to float32. Scalars such as
Adam's bias correction are computed in float64 in both, so the float32 run is as good as a float32
run can be, and better than a library which computes them in float32.

Each rule is one function in Keras's form. Its arguments, in this order: the hyperparameters, the
step t (1-based), its learning rate lr, the gradient g (V, D), the weights w (V, D), and the slots.
w and the slots are changed in place.
"""

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


def adam(rule, t, lr, g, w, slots):
    b1, b2, m, v = rule.beta_1, rule.beta_2, slots["momentum"], slots["velocity"]
    m[:] = b1 * m + (1 - b1) * g
    v[:] = b2 * v + (1 - b2) * (g * g)
    alpha = lr * sqrt(1 - b2**t) / (1 - b1**t)
    w -= alpha * m / (np.sqrt(v) + rule.epsilon)


STEP = {"SGD": sgd, "RMSprop": rmsprop, "Adagrad": adagrad, "Adam": adam, "AdamW": adam}


def slots_of(rule):
    """The slots of a rule, as {name: (start, factor by which it decays in a step)}."""
    match type(rule).__name__:
        case "SGD":
            return {"momentum": (0.0, rule.momentum)} if rule.momentum else {}
        case "RMSprop":
            slots = {"velocity": (0.0, rule.rho)}
            if rule.momentum:
                slots["momentum"] = (0.0, rule.momentum)
            if rule.centered:
                slots["average_gradient"] = (0.0, rule.rho)
            return slots
        case "Adagrad":
            return {"accumulator": (rule.initial_accumulator_value, 1.0)}
        case "Adam" | "AdamW":
            return {"momentum": (0.0, rule.beta_1), "velocity": (0.0, rule.beta_2)}
        case name:
            raise ValueError(f"the oracle knows no rule {name}")


class Dense:
    """A table of V rows of D numbers, trained by running the rule over all of it at every step.

    >>> import rowwise
    >>> dense = Dense(np.zeros((3, 1)), rowwise.SGD(learning_rate=0.5))
    >>> dense.step(ids=[2, 2], gradients=[[1.0], [3.0]])
    >>> dense.weights.ravel().tolist()
    [0.0, 0.0, -2.0]
    """

    def __init__(self, weights, rule, dtype=np.float64):
        self.rule = rule
        self.dtype = dtype
        self.steps = 0
        self.weights = np.array(weights, dtype)
        self.slots = {
            name: np.full(self.weights.shape, start, dtype)
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
        STEP[type(rule).__name__](rule, self.steps, lr, g, self.weights, self.slots)

    def dense_gradient(self, ids, gradients):
        """(V, D): each row's gradients summed in the order they stand, zeros where there are none.

        The sum is taken in this run's dtype, of gradients that have been rounded to float32.
        """
        total = np.zeros_like(self.weights)
        ids = np.asarray(ids, np.int64).ravel()
        gradients = np.asarray(gradients, np.float32).reshape(len(ids), total.shape[1])
        np.add.at(total, ids, gradients.astype(self.dtype))
        return total
