"""Row-wise Adagrad over dense tensors, which `torch.optim` does not have."""

from __future__ import annotations

from typing import Any

import torch


class RowwiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one accumulator for each vector along a tensor's last axis.

    acc <- acc + mean_d g_d^2
    w_d <- w_d - lr / (1 + (t - 1) lr_decay) g_d / (sqrt(acc) + eps)
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-8,
        *,
        maximize: bool = False,
    ) -> None:
        options = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
        }
        for name, value in options.items():
            if not value >= 0:
                raise ValueError(f"{name} must be at least 0, not {value}")
        super().__init__(params, {**options, "maximize": maximize})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one step of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss, which is returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, group, self.state[parameter])
        return loss

    def _step(self, parameter: torch.Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        if not state:
            state["step"] = torch.tensor(0.0, dtype=torch.float32)
            rows = (*parameter.shape[:-1], 1) if parameter.ndim else ()
            state["sum"] = parameter.new_full(rows, group["initial_accumulator_value"])
        state["step"] += 1
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        if group["maximize"]:
            gradient = -gradient
        if group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        squares = gradient.square()
        state["sum"] += squares.mean(dim=-1, keepdim=True) if squares.ndim else squares
        rate = group["lr"] / (1 + (float(state["step"]) - 1) * group["lr_decay"])
        parameter.sub_(rate * gradient / (state["sum"].sqrt() + group["eps"]))
