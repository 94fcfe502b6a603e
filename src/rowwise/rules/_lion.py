"""Lion."""

import math
from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule, StepScales


@dataclass(frozen=True, kw_only=True)
class Lion(Rule):
    """Steps of one size, along the sign of a running mean of the gradient.

        w <- w - lr sign(beta_1 m + (1 - beta_1) g)
        m <- beta_2 m + (1 - beta_2) g

    A missed step moves w by lr against the sign of m, which never changes by itself while both
    betas are above 1/2: the sum of the learning rates, however many steps were missed. With a
    smaller beta the product with m becomes 0 in float32 some day; every step visits every row.

    Args:
        learning_rate: lr of a step that is given no other.
        beta_1: of m against g in the step, in (0, 1].
        beta_2: decay of m, in (0, 1).
        weight_decay: decoupled, see `Rule`.

    Source: Chen et al., Symbolic discovery of optimization algorithms, 2023; in Keras's form.

    Example:
        >>> Lion().slot_names
        ('momentum',)
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    beta_1: float = 0.9
    beta_2: float = 0.99
    name = "lion"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("beta_1", 0.0, math.nextafter(1.0, 2.0), above=True)
        self._check("beta_2", 0.0, 1.0, above=True)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "lion"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: m."""
        return ("momentum",)

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: m decays by beta_2; w moves by lr at every step."""
        return LaggedUpdate(slot_decay=(self.beta_2,), ratio=1.0, terms=1, unbounded=True)

    @property
    def supports_lazy(self) -> bool:
        """Whether the sign of m lasts: half the smallest float32 is 0, more of it is itself."""
        return self.beta_1 > 0.5 and self.beta_2 > 0.5

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return lr."""
        return StepScales(learning_rate)
