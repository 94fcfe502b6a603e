"""The rules in PyTorch's form, where it differs from Keras's; slots are named as in PyTorch.

`weight_decay` is decoupled here too (AdamW's). PyTorch's other optimizers add it to the gradient,
which sets every row in motion at every step; only plain SGD's is the same thing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from rowwise.rules import _adadelta as adadelta
from rowwise.rules import _adagrad as adagrad
from rowwise.rules import _adam as adam
from rowwise.rules import _rmsprop as rmsprop
from rowwise.rules import _rowwise_adagrad as rowwise_adagrad
from rowwise.rules import _sgd as sgd
from rowwise.rules._base import StepScales


@dataclass(frozen=True, kw_only=True)
class SGD(sgd.SGD):
    """Stochastic gradient descent, the learning rate outside of the buffer.

        b <- momentum b + (1 - dampening) g,   at the very first step momentum b + g
        w <- w - lr b                          or, with nesterov, w - lr (g + momentum b)

    Args:
        dampening: for momentum.
        learning_rate, momentum, nesterov, weight_decay: as for `rowwise.rules.SGD`.

    Source: torch.optim.SGD.

    Example:
        >>> SGD(0.1, momentum=0.9).slot_names
        ('momentum_buffer',)
    """

    dampening: float = 0.0
    name = "pytorch.sgd"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "torch_" * bool(self.momentum) + super().family

    @property
    def slot_names(self) -> tuple[str, ...]:
        """b, if there is momentum."""
        return ("momentum_buffer",) if self.momentum else ()

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return lr along b, and what of the gradient goes into b."""
        return StepScales(
            learning_rate * (self.momentum if self.nesterov else 1.0),
            1.0 if iteration == 1 else 1.0 - self.dampening,
        )


@dataclass(frozen=True, kw_only=True)
class RMSprop(rmsprop.RMSprop):
    """RMSprop with epsilon outside the root and the learning rate outside the buffer.

        v <- rho v + (1 - rho) g^2
        centered:       a <- rho a + (1 - rho) g,   d = v - a^2;   else d = v
        i  = g / (sqrt(d) + epsilon)
        momentum = 0:   w <- w - lr i
        momentum > 0:   b <- momentum b + i,   w <- w - lr b

    Args:
        rho: PyTorch's alpha.
        learning_rate, momentum, epsilon, centered, weight_decay: as for `rowwise.rules.RMSprop`.

    Source: torch.optim.RMSprop.

    Example:
        >>> RMSprop(momentum=0.9).slot_names
        ('square_avg', 'momentum_buffer')
    """

    learning_rate: float = field(default=0.01, kw_only=False)
    rho: float = 0.99
    epsilon: float = 1e-8
    name = "pytorch.rmsprop"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "torch_" + super().family

    @property
    def slot_names(self) -> tuple[str, ...]:
        """v, b if there is momentum, a if centered."""
        return (
            "square_avg",
            *(("momentum_buffer",) if self.momentum else ()),
            *(("grad_avg",) if self.centered else ()),
        )

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return lr along b."""
        return StepScales(learning_rate)


@dataclass(frozen=True, kw_only=True)
class Adagrad(adagrad.Adagrad):
    """Adagrad with epsilon outside the root.

        acc <- acc + g^2
        w   <- w - lr g / (sqrt(acc) + epsilon)

    Args:
        learning_rate, initial_accumulator_value, epsilon, weight_decay: as for
            `rowwise.rules.Adagrad`.

    Source: torch.optim.Adagrad.

    Example:
        >>> Adagrad().slot_names
        ('sum',)
    """

    learning_rate: float = field(default=0.01, kw_only=False)
    initial_accumulator_value: float = 0.0
    epsilon: float = 1e-10
    name = "pytorch.adagrad"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "torch_adagrad"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: acc."""
        return ("sum",)


@dataclass(frozen=True, kw_only=True)
class RowwiseAdagrad(rowwise_adagrad.RowwiseAdagrad):
    """Row-wise Adagrad, as `rowwise.rules.RowwiseAdagrad`; its slot is named as Adagrad's here.

    Source: FBGEMM's `EXACT_ROWWISE_ADAGRAD`.

    Example:
        >>> RowwiseAdagrad().slot_names
        ('sum',)
    """

    name = "pytorch.rowwise_adagrad"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: acc."""
        return ("sum",)


@dataclass(frozen=True, kw_only=True)
class Adadelta(adadelta.Adadelta):
    """Adadelta, as `rowwise.rules.Adadelta` but for its defaults and the names of its slots.

    Source: torch.optim.Adadelta.

    Example:
        >>> Adadelta().slot_names
        ('square_avg', 'acc_delta')
    """

    learning_rate: float = field(default=1.0, kw_only=False)
    rho: float = 0.9
    epsilon: float = 1e-6
    name = "pytorch.adadelta"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: v and d."""
        return ("square_avg", "acc_delta")


@dataclass(frozen=True, kw_only=True)
class Adam(adam.Adam):
    """Adam with epsilon after the bias correction.

        m, v (and u for amsgrad) as in `rowwise.rules.Adam`
        w <- w - lr / (1 - beta_1^t) m / (sqrt(u / (1 - beta_2^t)) + epsilon)

    which is `rowwise.rules.Adam` with an epsilon that grows with t, epsilon sqrt(1 - beta_2^t).

    Source: torch.optim.Adam.

    Example:
        >>> Adam(amsgrad=True).slot_names
        ('exp_avg', 'exp_avg_sq', 'max_exp_avg_sq')
    """

    epsilon: float = 1e-8
    name = "pytorch.adam"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """m, v, and with amsgrad u."""
        return ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")[: 3 if self.amsgrad else 2]

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """alpha_t, and epsilon's factor."""
        scale = super().step_scales(learning_rate, iteration).scale
        return StepScales(scale, 0.0, math.sqrt(1.0 - self.beta_2**iteration))


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """`Adam` with decoupled weight decay of 0.01 unless another is given.

    Source: torch.optim.AdamW.

    Example:
        >>> AdamW().weight_decay
        0.01
    """

    weight_decay: float | None = 0.01
    name = "pytorch.adamw"


@dataclass(frozen=True, kw_only=True)
class NAdam(adam.Nadam):
    """Nadam whose momentum grows more slowly.

        u_t = beta_1 (1 - 0.96^(t momentum_decay) / 2);   the rest as in `rowwise.rules.Nadam`

    Args:
        momentum_decay: at least 0.
        learning_rate, beta_1, beta_2, epsilon, weight_decay: as for `rowwise.rules.Nadam`.

    Source: torch.optim.NAdam.

    Example:
        >>> NAdam().slot_names
        ('exp_avg', 'exp_avg_sq')
    """

    learning_rate: float = field(default=0.002, kw_only=False)
    epsilon: float = 1e-8
    momentum_decay: float = 4e-3
    name = "pytorch.nadam"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("momentum_decay", 0.0, math.inf)

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m and v."""
        return ("exp_avg", "exp_avg_sq")

    def momentum_at(self, iteration: Any) -> Any:
        """u_t."""
        return self.beta_1 * (1.0 - 0.5 * 0.96 ** (iteration * self.momentum_decay))


@dataclass(frozen=True, kw_only=True)
class Adamax(adam.Adamax):
    """Adamax with epsilon in the maximum.

        m <- beta_1 m + (1 - beta_1) g
        u <- max(beta_2 u, |g| + epsilon)
        w <- w - lr / (1 - beta_1^t) m / u

    A missed step multiplies u by beta_2 until it reaches epsilon.

    Source: torch.optim.Adamax.

    Example:
        >>> Adamax().slot_names
        ('exp_avg', 'exp_inf')
    """

    learning_rate: float = field(default=0.002, kw_only=False)
    epsilon: float = 1e-8
    name = "pytorch.adamax"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "torch_adamax"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m and u."""
        return ("exp_avg", "exp_inf")

    @property
    def slot_starts(self) -> tuple[float, ...]:
        """Start of u: it is epsilon after the first step, whatever it was."""
        return (0.0, self.epsilon)
