"""`rowwise bench`: measure our layer beside Keras's."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from rowwise.cli._errors import exit_on_error
from rowwise.cli._read import UsageError
from rowwise.cli._spinner import spinner


def bench(
    rows: Annotated[int, typer.Option(min=1, help="Number of rows of the table.")] = 1_000_000,
    dim: Annotated[int, typer.Option(min=1, help="Numbers per row.")] = 64,
    batch_size: Annotated[int, typer.Option(min=1, help="Number of examples per step.")] = 4096,
    length: Annotated[int, typer.Option(min=1, help="Number of ids per example.")] = 16,
    optimizer: Annotated[str, typer.Option(help="Name of a Keras optimizer.")] = "adam",
    steps: Annotated[int, typer.Option(min=1, help="Number of measured steps per layer.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for ids and initial weights.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Measure a training step with our layer and with Keras's, and compare the weights.

    The model is Embedding -> mean -> Dense. The ids are uniform. Both models make the same steps
    in turn.

    Example: rowwise bench --rows 4000000 --optimizer rmsprop
    """
    with exit_on_error("bench"):
        _check_optimizer(optimizer)
        import keras

        import rowwise.keras

        layers = {"rowwise": rowwise.keras.Embedding, "keras": keras.layers.Embedding}
        models = {
            name: _model(keras, layer, rows, dim, optimizer, seed) for name, layer in layers.items()
        }
        with spinner("training both models"):
            rng = np.random.default_rng(seed)
            times = _measure(models, rng, rows, (batch_size, length), steps)
            weights = [_weights_of(model) for model in models.values()]
            difference = max(
                float(np.abs(a - b).max(initial=0)) for a, b in zip(*weights, strict=True)
            )
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    ratio = medians["keras"] / medians["rowwise"]
    if as_json:
        answer = {"seconds": times, "ratio": ratio, "largest_difference": difference}
        typer.echo(json.dumps(answer))
        return
    typer.echo(f"{rows:,} rows of {dim}, {optimizer}, {batch_size * length:,} ids a step:")
    for name, seconds in medians.items():
        typer.echo(f"  {name:<8} {seconds * 1000:10.2f} ms a step, median of {steps}")
    typer.echo(f"  rowwise is {ratio:.1f} times as fast; weights differ by {difference:.1e}")


def _model(
    keras: Any, layer: Callable[..., Any], rows: int, dim: int, optimizer: str, seed: int
) -> Any:
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((None,), dtype="int64"),
            layer(rows, dim),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )
    model.compile(optimizer, "mse")
    return model


def _measure(
    models: dict[str, Any],
    rng: np.random.Generator,
    rows: int,
    shape: tuple[int, int],
    steps: int,
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in models}
    for step in range(steps + 2):
        ids = rng.integers(0, rows, shape)
        answers = rng.standard_normal((shape[0], 1), dtype=np.float32)
        for name, model in models.items():
            begin = time.perf_counter()
            model.train_on_batch(ids, answers)
            if step >= 2:  # before, memory and optimizer are still being set up
                times[name].append(time.perf_counter() - begin)
    return times


def _weights_of(model: Any) -> list[np.ndarray]:
    return [np.asarray(weight) for weight in model.get_weights()]


def _check_optimizer(name: str) -> None:
    """Import Keras, on PyTorch unless told otherwise, and check that it has an optimizer."""
    os.environ.setdefault("KERAS_BACKEND", "torch")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    try:
        keras.optimizers.get(name)
    except ValueError as error:
        raise UsageError(f"--optimizer {name!r} is not one of Keras's") from error
