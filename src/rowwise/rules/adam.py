"""Adam and AdamW."""

import math
from dataclasses import dataclass, field

from rowwise import _native
from rowwise.rules.base import Motion, Rule


@dataclass(frozen=True, kw_only=True)
class Adam(Rule):
    """Gradient descent along a running mean of the gradient over its root mean square.

        m <- beta_1 m + (1 - beta_1) g
        v <- beta_2 v + (1 - beta_2) g^2
        alpha_t = lr sqrt(1 - beta_2^t) / (1 - beta_1^t)
        w <- w - alpha_t m / (sqrt(v) + epsilon)

    A missed step decays m and v and still moves w. With y = epsilon / (sqrt(v) + epsilon) and
    q = beta_2^(-1/2), the movement of the j-th missed step after step s is

        m / (sqrt(v) + epsilon) * alpha_{s+j} (beta_1 q)^j / (1 + y (q^j - 1)),

    whose sum over j is a polynomial in y with coefficients that depend on s alone.

    Args:
        learning_rate: lr of a step that is given no other.
        beta_1: decay of the mean m, in [0, 1).
        beta_2: decay of the mean square v, in [0, 1).
        epsilon: added to the root, above 0.
        weight_decay: decoupled, see `Rule`.

    Source: Kingma, Ba, Adam: a method for stochastic optimization, 2014; in Keras's form
    (epsilon is the paper's epsilon-hat).

    Example:
        >>> Adam(0.01).slot_names
        ('momentum', 'velocity')
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-7
    name = "adam"

    def __post_init__(self) -> None:
        """Checks the bounds."""
        super().__post_init__()
        self._check("beta_1", 0.0, 1.0)
        self._check("beta_2", 0.0, 1.0)
        self._check("epsilon", 0.0, float("inf"), above=True)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "adam"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """m and v."""
        return ("momentum", "velocity")

    @property
    def motion(self) -> Motion:
        """m and v decay by their betas; w moves along m over the root of v."""
        q = self.beta_2**-0.5 if self.beta_2 else math.inf
        return Motion(
            slot_decay=(self.beta_1, self.beta_2),
            ratio=self.beta_1 * q if self.beta_1 else 0.0,
            growth=q,
            terms=_native.TERMS,
        )

    def scale(self, learning_rate: float, iteration: int) -> float:
        """alpha_t."""
        return (
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
