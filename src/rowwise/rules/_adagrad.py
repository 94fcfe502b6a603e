"""Adagrad."""

from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule


@dataclass(frozen=True, kw_only=True)
class Adagrad(Rule):
    """Gradient descent by the gradient over the root of all its squares so far.

        acc <- acc + g^2
        w   <- w - lr g / sqrt(acc + epsilon)

    A missed step changes nothing (but for weight decay).

    Args:
        learning_rate: lr of a step that is given no other.
        initial_accumulator_value: what acc starts with, at least 0.
        epsilon: added under the root, above 0.
        weight_decay: decoupled, see `Rule`.

    Source: Duchi, Hazan, Singer, Adaptive subgradient methods, JMLR 2011; in Keras's form.

    Example:
        >>> Adagrad().slot_starts
        (0.1,)
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    initial_accumulator_value: float = 0.1
    epsilon: float = 1e-7
    name = "adagrad"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("initial_accumulator_value", 0.0, float("inf"))
        self._check("epsilon", 0.0, float("inf"), above=True)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "adagrad"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The accumulator."""
        return ("accumulator",)

    @property
    def slot_starts(self) -> tuple[float, ...]:
        """The accumulator's first value."""
        return (self.initial_accumulator_value,)

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Nothing moves."""
        return LaggedUpdate(slot_decay=(1.0,))
