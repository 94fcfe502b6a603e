"""RMSprop, with and without momentum, centered or not."""

from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule, StepScales


@dataclass(frozen=True, kw_only=True)
class RMSprop(Rule):
    """Gradient descent by the gradient over its running root mean square.

        v <- rho v + (1 - rho) g^2
        centered:       a <- rho a + (1 - rho) g,   d = v - a^2;   else d = v
        i  = lr g / sqrt(d + epsilon)
        momentum = 0:   w <- w - i
        momentum > 0:   b <- momentum b + i,   w <- w - b

    A missed step multiplies v and a by `rho`; with momentum, b by `momentum`, and w moves by it.

    Args:
        learning_rate: lr of a step that is given no other.
        rho: decay of the running means, in [0, 1).
        momentum: in [0, 1).
        epsilon: added under the root, above 0.
        centered: divide by the estimated variance instead of the mean square.
        weight_decay: decoupled, see `Rule`.

    Source: Hinton, Neural Networks for Machine Learning, lecture 6e, 2012; centered: Graves,
    Generating sequences with recurrent neural networks, 2013; in Keras's form.

    Example:
        >>> RMSprop(momentum=0.9, centered=True).slot_names
        ('velocity', 'momentum', 'average_gradient')
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    rho: float = 0.9
    momentum: float = 0.0
    epsilon: float = 1e-7
    centered: bool = False
    name = "rmsprop"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("rho", 0.0, 1.0)
        self._check("momentum", 0.0, 1.0)
        self._check("epsilon", 0.0, float("inf"), above=True)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return (
            "rmsprop" + ("_centered" if self.centered else "") + ("_momentum" * bool(self.momentum))
        )

    @property
    def slot_names(self) -> tuple[str, ...]:
        """v, b if there is momentum, a if centered."""
        return (
            "velocity",
            *(("momentum",) if self.momentum else ()),
            *(("average_gradient",) if self.centered else ()),
        )

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: v and a decay by `rho`, b by `momentum`; w moves along b."""
        return LaggedUpdate(
            slot_decay=(
                self.rho,
                *((self.momentum,) if self.momentum else ()),
                *((self.rho,) if self.centered else ()),
            ),
            ratio=self.momentum,
            terms=1 if self.momentum else 0,
        )

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return 1: the learning rate is in b already."""
        return StepScales(1.0)
