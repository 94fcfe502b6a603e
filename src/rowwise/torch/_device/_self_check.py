"""A check of a device's kernels at their first use in a process: the CPU's bits, or no table there.

A rule's kernels step small tables on the device and beside them on the CPU. What fails, or gives
other bits, is the reason for which embeddings on that device are trained densely.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rowwise import _native, rules
from rowwise.rules import Rule, StepParams
from rowwise.store import Bags, HostStore, RowGradient
from rowwise.torch._device._engine import engine_of
from rowwise.torch._device._memory import refuse_capture
from rowwise.torch._device._store import DeviceStore

_ROWS = 40
_DIMS = (8, 5)  # kernels of four numbers at a time, and of one
_IDS = 150  # some ids stand more than 64 times, the length of a block of sums

_found: dict[tuple[torch.device, str], str | None] = {}
_lock = threading.Lock()


def why_unusable(device: torch.device, rule: Rule | None = None) -> str | None:
    """Return why no table may lie on a device under a rule; None if it may.

    The first call for a device and a family of rules compiles the kernels and checks them, and
    waits for the device; later ones return the same.

    Args:
        device: with its number, as tensors have it.
        rule: None: a table that has none yet.

    Raises:
        torch.OutOfMemoryError: the device has no room for small tables now.
        RuntimeError: a CUDA graph is being captured, of which the check can be no part.
    """
    known = rules.SGD() if rule is None else rule
    key = device, known.family
    with _lock:
        if key not in _found:
            refuse_capture(device)
            _found[key] = _checked(known, device)
        return _found[key]


def _checked(rule: Rule, device: torch.device) -> str | None:
    try:
        with ThreadPoolExecutor(1) as apart:  # from the caller's traces, transforms and modes
            difference = apart.submit(_check_here, rule, device).result()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return f"{device} cannot run rowwise's kernels ({error})"
    return None if difference is None else f"{device} failed rowwise's check ({difference})"


def _check_here(rule: Rule, device: torch.device) -> str | None:
    engine = engine_of(device)
    with torch.cuda.device(-1 if device.index is None else device.index):  # -1: as it is
        return self_check(rule, device, engine)


@torch.no_grad()
def self_check(rule: Rule, device: torch.device, engine: _native.Engine) -> str | None:
    """Return in what small tables on a device differ from the CPU's; None: all bits are the same.

    Raises:
        RuntimeError: the kernels cannot be had, or their launch fails.
    """
    if isinstance(rule, rules.Ftrl):  # with another power it has the CPU's numbers to rounding
        rule = replace(rule, learning_rate_power=-0.5)
    for dim in _DIMS:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a rule without lazy updates: its table will say so
            host = HostStore(_ROWS, dim, rule, init="normal", seed=1)
        place: dict[str, Any] = {"device": device, "engine": engine}
        store = DeviceStore(_ROWS, dim, rule, init="normal", seed=1, **place)
        pairs = zip(_results(host, rule), _results(store, rule), strict=True)
        for (name, ours), (_, theirs) in pairs:
            if ours.tobytes() != theirs.tobytes():
                return f"{name} under {rule.family} have other bits than on the CPU"
        if not _notes_bad_id(store):
            return "an id outside the table was not noticed"
    return None


def _results(
    store: HostStore | DeviceStore, rule: Rule
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield what lookups, bags and steps of a new table give, by name."""
    random = np.random.default_rng(0)
    dim = store.shape[1]
    every = np.arange(_ROWS)
    offsets = np.array([0, 3, 3, 90, _IDS])
    for number in range(1, 5):
        # Every other batch leaves most rows behind, which the next one brings up to date.
        ids = random.integers(0, 2 if number % 2 else _ROWS - 3, _IDS)
        bags = Bags(ids, offsets, random.standard_normal(_IDS).astype(np.float32))
        pooled, largest = (np.empty((4, dim), np.float32) for _ in range(2))
        argmax = np.empty((4, dim), np.int64)
        store.gather_bags(bags, pooled)
        store.gather_bags_max(bags, largest, argmax)
        yield "sums of bags", pooled
        yield "maxima of bags", largest
        values = random.standard_normal((4, dim)).astype(np.float32)
        yield "gradients of weights in bags", _host(store.bag_weight_gradient(bags, values))
        by_max = store.coalesce(store.bag_max_gradient(bags, argmax, values))
        yield "gradients of maxima", _host(by_max.values)
        gradients = random.standard_normal((_IDS, dim)).astype(np.float32)
        by_row = RowGradient(ids, gradients)
        yield "summed gradients", _host(store.coalesce(by_row).values)
        params = rule.step_params(0.01, number)
        if number == 2 and isinstance(store, DeviceStore):
            _step_after_a_skipped_one(store, by_row, number)
        else:
            store.apply(store.bag_gradient(bags, values) if number == 3 else by_row, params)
        rows = np.empty((_ROWS, dim), np.float32)
        store.gather(every, rows)
        yield "weights", rows
    store.materialize(every[:5])
    for name in store.slot_names:
        yield f"the slots {name}", store.read_slot(name)
    store.materialize()
    yield "weights brought up to date", _host(store.memory())
    yield "counts of updates", store.update_counts


def _step_after_a_skipped_one(store: DeviceStore, gradient: RowGradient, number: int) -> None:
    """Make step `number`, after a step that was none as its gradients were not finite."""
    rule: Any = store.rule
    none_before = store.skipped_steps
    for given, found_inf in enumerate([1.0, 0.0]):

        def step(skipped: int, given: int = given) -> StepParams:
            made = given - (store.skipped_steps - none_before) - skipped
            params: StepParams = rule.step_params(0.01, number + made)
            return params

        found = torch.full((), found_inf, device=store.tensor_device)
        store.apply_unread(gradient, step, found_inf=found)


def _host(values: Any) -> np.ndarray[Any, Any]:
    found = values.cpu().numpy() if isinstance(values, torch.Tensor) else values
    return np.ascontiguousarray(found)


def _notes_bad_id(store: DeviceStore) -> bool:
    """Return whether the call after one with an id outside the table raises its error."""
    place = store.tensor_device
    out = torch.empty((1, store.shape[1]), dtype=torch.float32, device=place)
    store.gather(torch.tensor([_ROWS], device=place), out)
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    try:
        store.gather(torch.tensor([0], device=place), out)
    except IndexError:
        return True
    return False
