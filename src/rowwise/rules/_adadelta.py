"""Adadelta."""

import math
from dataclasses import dataclass, field

from rowwise.rules._base import LaggedUpdate, Rule


@dataclass(frozen=True, kw_only=True)
class Adadelta(Rule):
    """Gradient descent in steps as large as those before, whatever the gradient's size.

        v <- rho v + (1 - rho) g^2
        u  = g sqrt(d + epsilon) / sqrt(v + epsilon)
        d <- rho d + (1 - rho) u^2
        w <- w - lr u

    A missed step multiplies v and d by `rho`, and leaves w alone (but for weight decay).

    Args:
        learning_rate: lr of a step that is given no other.
        rho: decay of the running means, in [0, 1).
        epsilon: added under the roots, above 0.
        weight_decay: decoupled, see `Rule`.

    Source: Zeiler, ADADELTA: an adaptive learning rate method, 2012; in Keras's form.

    Example:
        >>> Adadelta().slot_names
        ('accumulated_grad', 'accumulated_delta_var')
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    rho: float = 0.95
    epsilon: float = 1e-7
    name = "adadelta"

    def __post_init__(self) -> None:
        """Check the bounds."""
        super().__post_init__()
        self._check("rho", 0.0, 1.0)
        self._check("epsilon", 0.0, math.inf, above=True)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        return "adadelta"

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Slots: v and d."""
        return ("accumulated_grad", "accumulated_delta_var")

    @property
    def lagged_update(self) -> LaggedUpdate:
        """Decay: v and d decay by `rho`."""
        return LaggedUpdate(slot_decay=(self.rho, self.rho))
