"""Gradient descent, plain, with momentum, with Nesterov's momentum."""

from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule, StepScales


@dataclass(frozen=True, kw_only=True)
class SGD(Rule):
    """Stochastic gradient descent.

        momentum = 0:   w <- w - lr g
        momentum > 0:   b <- momentum b - lr g
                        w <- w + b                    or, with nesterov,
                        w <- w + momentum b - lr g

    A missed step multiplies b by `momentum` and moves w by it: a geometric sum.

    Args:
        learning_rate: lr of a step that is given no other.
        momentum: in [0, 1).
        nesterov: look ahead along the buffer.
        weight_decay: decoupled, see `Rule`.

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning,
    ICML 2013; in Keras's form.

    Example:
        >>> SGD(0.1, momentum=0.9).slot_names
        ('momentum',)
    """

    learning_rate: float = field(default=0.01, kw_only=False)
    momentum: float = 0.0
    nesterov: bool = False
    name = "sgd"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("momentum", 0.0, 1.0)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        if not self.momentum:
            return "sgd"
        return "nesterov" if self.nesterov else "momentum"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """The buffer b, if there is momentum."""
        return ("momentum",) if self.momentum else ()

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: b decays by `momentum`; w moves along it."""
        if not self.momentum:
            return LaggedUpdate()
        return LaggedUpdate(slot_decay=(self.momentum,), ratio=self.momentum, terms=1)

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return -1, or -momentum: the learning rate is in b already, and w goes up along it."""
        return StepScales(-self.momentum if self.nesterov else -1.0)
