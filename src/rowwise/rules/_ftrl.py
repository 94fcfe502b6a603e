"""Follow the regularized leader."""

import math
from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule, StepScales


@dataclass(frozen=True, kw_only=True)
class Ftrl(Rule):
    """The weight that is best for the sum of all gradients so far, and two penalties.

        n  = acc + g^2,   p = -learning_rate_power
        z <- z + g - (n^p - acc^p) / lr w
        w <- (clip(z, -l1, l1) - z) / (n^p / lr + 2 l2 + beta / lr),   acc <- n

    A missed step leaves z and acc alone and sets w to what they say with that step's lr: an
    untouched row is zero after the first step.

    Args:
        learning_rate: lr of a step that is given no other, above 0.
        learning_rate_power: 0 or below.
        initial_accumulator_value: what acc starts with, at least 0.
        l1_regularization_strength: l1, at least 0.
        l2_regularization_strength: l2, at least 0.
        beta: at least 0.
        weight_decay: decoupled, see `Rule`.

    Source: McMahan et al., Ad click prediction: a view from the trenches, KDD 2013; in Keras's
    form (with no shrinkage).

    Example:
        >>> Ftrl(0.1).slot_names
        ('accumulator', 'linear')
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    learning_rate_power: float = -0.5
    initial_accumulator_value: float = 0.1
    l1_regularization_strength: float = 0.0
    l2_regularization_strength: float = 0.0
    beta: float = 0.0
    name = "ftrl"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("learning_rate_power", -math.inf, math.nextafter(0.0, 1.0), above=True)
        self._check("initial_accumulator_value", 0.0, math.inf)
        self._check("l1_regularization_strength", 0.0, math.inf)
        self._check("l2_regularization_strength", 0.0, math.inf)
        self._check("beta", 0.0, math.inf)
        if not self.initial_accumulator_value + self.l2_regularization_strength + self.beta:
            raise ValueError(
                "initial_accumulator_value=0 makes rows without a gradient 0 / 0; "
                "give it, l2_regularization_strength or beta a value above 0"
            )

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "ftrl"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: acc and z."""
        return ("accumulator", "linear")

    @property
    def slot_starts(self) -> tuple[float, ...]:
        """The accumulator's first value, and 0."""
        return (self.initial_accumulator_value, 0.0)

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: acc and z stay what they are."""
        return LaggedUpdate(slot_decay=(1.0, 1.0))

    @property
    def is_stationary(self) -> bool:
        """Never: w follows the learning rate."""
        return False

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Hyperparameters that are no field of the rule, by the kernels' names."""
        return {
            "learning_rate_power": self.learning_rate_power,
            "l1": self.l1_regularization_strength,
            "l2": self.l2_regularization_strength,
            "beta": self.beta,
        }

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return lr.

        Raises:
            ValueError: lr is 0, by which the formula divides.
        """
        if learning_rate == 0:
            raise ValueError("learning_rate=0 must be above 0: Ftrl divides by it")
        return StepScales(learning_rate)
