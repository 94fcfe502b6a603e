"""Adam and its relatives: AdamW, Nadam, Adamax."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rowwise import _native
from rowwise.rules._base import LaggedUpdate, Rule, StepScales


@dataclass(frozen=True, kw_only=True)
class _TwoMeans(Rule):
    """The shared part of the family: two running means and an epsilon."""

    learning_rate: float = field(default=0.001, kw_only=False)
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check("beta_1", 0.0, 1.0)
        self._check("beta_2", 0.0, 1.0)
        self._check("epsilon", 0.0, math.inf, above=True)


@dataclass(frozen=True, kw_only=True)
class Adam(_TwoMeans):
    """Gradient descent along a running mean of the gradient over its root mean square.

        m <- beta_1 m + (1 - beta_1) g
        v <- beta_2 v + (1 - beta_2) g^2;   amsgrad: u <- max(u, v), else u = v
        alpha_t = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)
        w <- w - alpha_t m / (sqrt(u) + epsilon)

    A missed step decays m and v and still moves w. With y = epsilon / (sqrt(v) + epsilon) and
    q = beta_2^(-1/2), the movement of the j-th missed step after step s is

        m / (sqrt(v) + epsilon) * alpha_{s+j} (beta_1 q)^j / (1 + y (q^j - 1)),

    whose sum over j is a polynomial in y with coefficients that depend on s alone. With amsgrad
    the denominator stands still, and q = 1.

    Args:
        learning_rate: lr of a step that is given no other.
        beta_1: decay of the mean m, in [0, 1).
        beta_2: decay of the mean square v, in [0, 1).
        epsilon: added to the root, above 0.
        amsgrad: divide by the largest v so far.
        weight_decay: decoupled, see `Rule`.

    Source: Kingma, Ba, Adam: a method for stochastic optimization, 2014; in Keras's form
    (epsilon is the paper's epsilon-hat). amsgrad: Reddi, Kale, Kumar, On the convergence of Adam
    and beyond, ICLR 2018.

    Example:
        >>> Adam(0.01, amsgrad=True).slot_names
        ('momentum', 'velocity', 'velocity_hat')
    """

    amsgrad: bool = False
    name = "adam"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "adam_amsgrad" if self.amsgrad else "adam"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m, v, and with amsgrad u."""
        return ("momentum", "velocity", "velocity_hat")[: 3 if self.amsgrad else 2]

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: m and v decay by their betas; w moves along m over the root of v, or of u."""
        if self.amsgrad:
            return _lagged((self.beta_1, self.beta_2, 1.0), self.beta_1, 1.0)
        return _lagged((self.beta_1, self.beta_2), self.beta_1, math.sqrt(self.beta_2))

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return alpha_t."""
        return StepScales(
            learning_rate * math.sqrt(1.0 - self.beta_2**iteration) / (1.0 - self.beta_1**iteration)
        )


@dataclass(frozen=True, kw_only=True)
class AdamW(Adam):
    """Adam with decoupled weight decay of 0.004 unless another is given.

        w <- (1 - lr weight_decay) w, then as Adam

    Source: Loshchilov, Hutter, Decoupled weight decay regularization, ICLR 2019.

    Example:
        >>> AdamW().weight_decay
        0.004
    """

    weight_decay: float | None = 0.004
    name = "adamw"


@dataclass(frozen=True, kw_only=True)
class Nadam(_TwoMeans):
    """Adam with Nesterov's momentum.

        m, v as in Adam
        u_t = beta_1 (1 - 0.96^t / 2),   U_t = u_1 u_2 ... u_t
        w <- w - lr (u_{t+1} m / (1 - U_{t+1}) + (1 - u_t) g / (1 - U_t))
                    / (sqrt(v / (1 - beta_2^t)) + epsilon)

    With e_t = sqrt(1 - beta_2^t), a step divides by sqrt(v) + epsilon e_t, as Adam's does but
    for an epsilon that grows with t, and a missed step moves w by

        lr e_t u_{t+1} / (1 - U_{t+1}) * m / (sqrt(v) + epsilon e_t).

    Args:
        learning_rate, beta_1, beta_2, epsilon, weight_decay: as for `Adam`.

    Source: Dozat, Incorporating Nesterov momentum into Adam, ICLR workshop 2016; in Keras's form.

    Example:
        >>> Nadam().slot_names
        ('momentum', 'velocity')
    """

    name = "nadam"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "nadam"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m and v."""
        return ("momentum", "velocity")

    @property
    def lagged_update(self) -> LaggedUpdate:
        """As Adam's."""
        return _lagged((self.beta_1, self.beta_2), self.beta_1, math.sqrt(self.beta_2))

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Factors of m, of g and of epsilon."""
        rate = learning_rate * (root := math.sqrt(1.0 - self.beta_2**iteration))
        product = self.momentum_product(iteration)
        now, following = self.momentum_at(iteration), self.momentum_at(iteration + 1)
        return StepScales(
            rate * following / (1.0 - product * following),
            rate * (1.0 - now) / (1.0 - product),
            root,
        )

    def momentum_at(self, iteration: Any) -> Any:
        """u_t."""
        return self.beta_1 * (1.0 - 0.5 * 0.96**iteration)

    def momentum_product(self, iteration: int) -> float:
        """U_t; 0 from where it is below 2**-80, as u_t <= beta_1."""
        if self.beta_1**iteration < 2.0**-80:
            return 0.0
        return float(np.prod(self.momentum_at(np.arange(1.0, iteration + 1))))


@dataclass(frozen=True, kw_only=True)
class Adamax(_TwoMeans):
    """Adam with the largest gradient in place of the root mean square.

        m <- beta_1 m + (1 - beta_1) g
        u <- max(beta_2 u, |g|)
        w <- w - lr / (1 - beta_1^t) m / (u + epsilon)

    A missed step is one of Adam's with u, which shrinks by beta_2, for the root of v.

    Args:
        learning_rate, beta_1, beta_2, epsilon, weight_decay: as for `Adam`.

    Source: Kingma, Ba, Adam: a method for stochastic optimization, 2014, section 7.1; in Keras's
    form.

    Example:
        >>> Adamax().slot_names
        ('momentum', 'norm')
    """

    name = "adamax"

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "adamax"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m and u."""
        return ("momentum", "norm")

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: m and u decay by their betas; w moves along m over u."""
        return _lagged((self.beta_1, self.beta_2), self.beta_1, self.beta_2)

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return lr / (1 - beta_1^t)."""
        return StepScales(learning_rate / (1.0 - self.beta_1**iteration))


def _lagged(slot_decay: tuple[float, ...], beta_1: float, shrink: float) -> LaggedUpdate:
    """Along a mean that decays by beta_1, over a denominator that shrinks by `shrink`."""
    growth = 1.0 / shrink if shrink else math.inf
    return LaggedUpdate(
        slot_decay=slot_decay,
        ratio=beta_1 * growth if beta_1 else 0.0,
        growth=growth,
        terms=_native.TERMS,
        shrink=shrink,
    )
