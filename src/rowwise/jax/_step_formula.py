"""Formulas by which native code computes a step's numbers from learning rate and iteration."""

from __future__ import annotations

from typing import Any

from rowwise import rules
from rowwise.rules import Rule, pytorch

# The formulas that depend on the rate or the iteration; see native/step_formula.hpp.
_KINDS: dict[type[Rule], str] = {
    rules.Adam: "adam",
    rules.AdamW: "adam",
    rules.Adamax: "adamax",
    rules.Nadam: "nadam",
    rules.Lion: "rate",
    rules.Ftrl: "rate",
    pytorch.SGD: "rate",
    pytorch.RMSprop: "rate",
    pytorch.Adam: "adam_hat",
    pytorch.AdamW: "adam_hat",
    pytorch.Adamax: "adamax",
    pytorch.NAdam: "nadam",
}


def step_formula(rule: Rule) -> dict[str, Any]:
    """Return what `Program.add_rule` takes, so that native code has `Rule.step_params`."""
    kind, scales = _KINDS.get(type(rule), "constant"), rule.step_scales(1.0, 1)
    others = rule.step_scales(0.5, 7)
    if kind == "rate":
        others = others._replace(scale=others.scale * 2)
    if kind in ("constant", "rate") and scales != others:
        raise TypeError(f"native code has no formula for the steps of {rule!r}")
    return {
        "kind": kind,
        **scales._asdict(),
        "beta_1": getattr(rule, "beta_1", 0.0),
        "beta_2": getattr(rule, "beta_2", 0.0),
        "weight_decay": rule.weight_decay or 0.0,
        "momentum_decay": getattr(rule, "momentum_decay", 1.0),
        "divides_by_rate": isinstance(rule, rules.Ftrl),
        "supports_lazy": rule.supports_lazy,
    }
