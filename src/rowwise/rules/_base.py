"""The base of all rules: hyperparameters, slots, and the lagged update."""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from rowwise import _native


@dataclass(frozen=True)
class LaggedUpdate:
    """How a row moves in a step that did not touch it.

    Missed step j moves the weight by `scale_j * x * ratio**j / (1 + y * (growth**j - 1))`, where x
    and y belong to the row, and multiplies slot i by `slot_decay[i]`; see `native/clock.hpp`.
    `shrink` is what it does to the denominator that x is divided by. `unbounded`: ratio is 1, so
    that no missed step is too long ago to matter.
    """

    slot_decay: tuple[float, ...] = ()
    ratio: float = 0.0
    growth: float = 1.0
    terms: int = 0
    shrink: float = 1.0
    unbounded: bool = False


class StepScales(NamedTuple):
    """The factors of one step, from its learning rate and iteration."""

    scale: float = 0.0  # factor of the movement along the slots, in a missed step too
    gradient_scale: float = 0.0  # factor of the gradient itself, where the formula has one
    epsilon_factor: float = 1.0  # factor of epsilon


class StepParams(NamedTuple):
    """The numbers of one step, as the kernels take them."""

    learning_rate: float
    decay_factor: float  # what the weight decay multiplies every weight by
    scale: float
    gradient_scale: float
    epsilon_factor: float


# Missed steps after which what remains of the movement is below 2^-30 of it are not summed.
_NEGLIGIBLE = 2.0**-30
# For an unbounded sum: how many of the latest steps are summed one by one, not by difference.
_LATEST = 64
# A sum longer than this is not worth its upkeep: such a rule brings all rows along at every step.
_LONGEST_HORIZON = 1 << 14


@dataclass(frozen=True, kw_only=True)
class Rule:
    """An update rule; the base of all of them, in Keras's form or in PyTorch's.

    The learning rate comes first, everything else by keyword.

    Every rule multiplies the weight by `1 - lr * weight_decay` first, where `weight_decay` is
    given. It belongs to every row at every step, touched or not, as in dense training.
    """

    learning_rate: float = field(default=0.001, kw_only=False)
    weight_decay: float | None = None

    name: ClassVar[str] = ""

    def __post_init__(self) -> None:
        self._check("learning_rate", 0.0, math.inf)
        if self.weight_decay is not None:
            self._check("weight_decay", 0.0, math.inf)

    @property
    def family(self) -> str:
        """Name of the native kernel."""
        raise NotImplementedError

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Names of the slots, in Keras's order."""
        return ()

    @property
    def slot_starts(self) -> tuple[float, ...]:
        """The number that each slot starts with."""
        return (0.0,) * len(self.slot_names)

    def slot_dim(self, dim: int) -> int:
        """Return how many numbers a slot has for a row of dim: as many, or one."""
        return dim

    @property
    def lagged_update(self) -> LaggedUpdate:
        """The effect of a missed step on a row."""
        return LaggedUpdate()

    def step_scales(self, learning_rate: float, iteration: int) -> StepScales:
        """Return the factors of step `iteration` (counted from 1)."""
        return StepScales()

    def step_params(self, learning_rate: float, iteration: int) -> StepParams:
        """Return the numbers of step `iteration` (counted from 1)."""
        return StepParams(
            learning_rate,
            self.decay_factor(learning_rate),
            *self.step_scales(learning_rate, iteration),
        )

    def decay_factor(self, learning_rate: float) -> float:
        """Return the factor of the decoupled weight decay: 1 - lr * weight_decay."""
        return 1.0 if self.weight_decay is None else 1.0 - learning_rate * self.weight_decay

    @property
    def is_stationary(self) -> bool:
        """Whether a missed step changes nothing at all."""
        lagged = self.lagged_update
        return not self.weight_decay and not lagged.terms and set(lagged.slot_decay) <= {1.0}

    @property
    def horizon(self) -> int:
        """Missed steps after which the movement is over, to 2**-30 of it."""
        lagged = self.lagged_update
        if lagged.unbounded:
            return _LATEST
        if not lagged.terms or lagged.ratio <= 0:
            return 1
        if lagged.ratio >= 1:
            return _LONGEST_HORIZON + 1
        return max(1, math.ceil(math.log(_NEGLIGIBLE) / math.log(lagged.ratio)))

    @cached_property
    def supports_lazy(self) -> bool:
        """Whether missed steps can be made up for later; if not, every step visits every row."""
        return self.horizon <= _LONGEST_HORIZON

    def native(self) -> _native.Rule:
        """Return the rule as the kernels read it."""
        known = ("momentum", "rho", "beta_1", "beta_2", "epsilon")
        given = {f.name for f in dataclasses.fields(self)}
        return _native.rule(
            self.family,
            shrink=self.lagged_update.shrink,
            horizon=self._horizon,
            **{name: getattr(self, name) for name in known if name in given},
            **self.hyperparameters,
        )

    @property
    def hyperparameters(self) -> dict[str, float]:
        """Hyperparameters that are no field of the rule, by the kernels' names."""
        return {}

    def clock(self) -> dict[str, Any]:
        """Return what a table with this rule needs to know of its slots and lagged updates."""
        lagged = dataclasses.asdict(self.lagged_update)
        del lagged["shrink"]
        return {
            **lagged,
            "horizon": self._horizon,
            "slot_names": " ".join(self.slot_names),
            "slot_starts": self.slot_starts,
            "advances": not self.is_stationary,
        }

    @property
    def _horizon(self) -> int:
        # Without laziness a row never misses more than the step just made.
        return self.horizon if self.supports_lazy else 1

    def config(self) -> dict[str, object]:
        """Return the rule as plain data; `rules.get(config)` makes it again."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def _check(self, argument: str, low: float, high: float, *, above: bool = False) -> None:
        """Refuse a hyperparameter outside [low, high), or (low, high) if `above`."""
        value = getattr(self, argument)
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{argument} must be a number, not {value!r}")
        try:
            as_float = float(value)
        except OverflowError:
            raise ValueError(f"{argument} is a whole number too large for a float") from None
        if not isinstance(value, int | float):  # NumPy's
            object.__setattr__(self, argument, value := as_float)
        if not (low < value if above else low <= value) or not value < high:
            bracket = "(" if above else "["
            raise ValueError(f"{argument}={value} is outside {bracket}{low:g}, {high:g})")


def get(rule: Rule | str | dict[str, object] | None) -> Rule | None:
    """Return a rule from its name, its config, or itself.

    Args:
        rule: a `Rule`; the lower-case name of one ("sgd", "adam"...) for its defaults; what
            `Rule.config()` gave; or None.

    Raises:
        TypeError: the class of a rule, or anything else that is none of these.
        ValueError: no rule has that name.

    Example:
        >>> import rowwise
        >>> rowwise.rules.get("sgd")
        SGD(learning_rate=0.01, weight_decay=None, momentum=0.0, nesterov=False)
    """
    if rule is None or isinstance(rule, Rule):
        return rule
    if isinstance(rule, type) and issubclass(rule, Rule):
        raise TypeError(
            f"{rule.__name__} is the class of a rule; give {rule.__name__}(...), or {rule.name!r}"
        )
    if not isinstance(rule, str | dict):
        raise TypeError(f"a rule is a Rule, its name or its config, not {rule!r}")
    kinds = {kind.name: kind for kind in _subclasses(Rule) if kind.name}
    config = {"name": rule} if isinstance(rule, str) else dict(rule)
    name = str(config.pop("name", None)).lower()
    if name not in kinds:
        raise ValueError(f"no rule is called {name!r}; there are {', '.join(sorted(kinds))}")
    return kinds[name](**config)  # type: ignore[arg-type]


def _subclasses(kind: type[Rule]) -> list[type[Rule]]:
    below = kind.__subclasses__()
    return below + [deeper for sub in below for deeper in _subclasses(sub)]
