"""The device's kernels, run on this processor in three orders, beside the CPU's: bit for bit."""

import numpy as np
import pytest
import torch

from helpers.rules import RULES, every_rule
from rowwise.store import Bags, HostStore, RowGradient
from rowwise.torch._device import DeviceStore
from rowwise.torch._device._engine import serial_engine

ORDERS = ("forwards", "backwards", "shuffled")
ROWS = 150


def both(rule, dim, order, **options):
    host = HostStore(ROWS, dim, rule, init="normal", seed=7, **options)
    device = DeviceStore(
        ROWS, dim, rule, init="normal", seed=7, device="cpu", engine=serial_engine(order)
    )
    return host, device


def batches(dim, steps, seed=0):
    """Yield (ids, gradients, lr): duplicates, runs beyond 64, long gaps, sizes 0 and 1."""
    random = np.random.default_rng(seed)
    for step in range(steps):
        n = (0, 1, 7, 40, 200, 330)[step % 6]
        span = ROWS - 10 if step % 3 else 4
        ids = random.integers(0, span, n)
        size = 10.0 ** random.integers(-9, 2)
        yield ids, (random.standard_normal((n, dim)) * size).astype(np.float32), 0.1 / (1 + step)


def bits(array):
    return np.ascontiguousarray(array).view(np.int32)


def rows_of(store):
    out = np.empty(store.shape, np.float32)
    store.gather(np.arange(store.shape[0]), out)
    return out


def require_same(host, device):
    np.testing.assert_array_equal(bits(rows_of(host)), bits(rows_of(device)))
    for name in host.slot_names:
        np.testing.assert_array_equal(bits(host.read_slot(name)), bits(device.read_slot(name)))
    np.testing.assert_array_equal(host.update_counts, device.update_counts)
    np.testing.assert_array_equal(host.last_update, device.last_update)


def train(rule, stores, given, iterations=0):
    for step, (ids, gradients, rate) in enumerate(given):
        params = rule.step_params(rate, iterations + step + 1)
        for store in stores:
            store.apply(RowGradient(ids, gradients), params)


@every_rule
def test_a_device_has_the_bits_of_the_cpu(rule):
    for order, dim in zip(ORDERS, (12, 5, 3), strict=True):
        host, device = both(rule, dim, order)
        train(rule, (host, device), batches(dim, 14))
        np.testing.assert_array_equal(bits(rows_of(host)), bits(rows_of(device)))
        some = np.array([3, 149, 3, 20])
        for store in (host, device):
            store.materialize(some)
        train(rule, (host, device), batches(dim, 250, seed=1), iterations=14)
        require_same(host, device)
        for store in (host, device):
            store.materialize()
        train(rule, (host, device), batches(dim, 3, seed=2), iterations=264)
        require_same(host, device)


@pytest.mark.parametrize("name", ["adamw", "lion-decay", "rowwise-adagrad"])
def test_a_clock_grows_and_starts_anew(name):
    rule = RULES[name]
    host, device = both(rule, 4, "shuffled")
    ids = np.array([5, 9, 5])
    for step in range(1100):  # more than the device's arrays hold at first
        train(rule, (host, device), [(ids + step % 90, np.ones((3, 4), np.float32), 0.01)], step)
    require_same(host, device)
    # set back: the clock cannot go on; a rate so large that a decay leaves nothing
    for rate, iteration in ((0.01, 0), (100.0, 1), (0.01, 2)):
        train(rule, (host, device), [(ids, np.ones((3, 4), np.float32), rate)], iteration)
    require_same(host, device)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_have_the_bits_of_the_cpu(order, weighted):
    rule, dim = RULES["pytorch-adamw"], 20
    host, device = both(rule, dim, order)
    random = np.random.default_rng(3)
    for step in range(6):
        ids = random.integers(0, 30 if step % 2 else ROWS, 400)
        offsets = np.sort(np.r_[0, random.integers(0, 401, 60), 400])  # some are empty
        weights = random.standard_normal(400).astype(np.float32) if weighted else None
        bags = Bags(ids, offsets, weights)
        values = random.standard_normal((61, dim)).astype(np.float32)
        results = []
        for store in (host, device):
            pooled, largest = np.empty((61, dim), np.float32), np.empty((61, dim), np.float32)
            argmax = np.empty((61, dim), np.int64)
            store.gather_bags(bags, pooled)
            store.gather_bags_max(bags, largest, argmax)
            by_max = store.coalesce(store.bag_max_gradient(bags, argmax, values))
            summed = store.coalesce(store.bag_gradient(bags, values))
            of_weights = store.bag_weight_gradient(bags, values)
            sums = (by_max.ids, by_max.values, summed.ids, summed.values)
            results.append((pooled, largest, argmax, of_weights, *sums))
            store.apply(store.bag_gradient(bags, values), rule.step_params(0.1, step + 1))
        for ours, theirs in zip(*results, strict=True):
            np.testing.assert_array_equal(bits(np.asarray(theirs)), bits(np.asarray(ours)))
    require_same(host, device)


@pytest.mark.parametrize("name", ["adam", "rowwise-adagrad"])
def test_rows_are_written_renewed_moved_and_frozen_as_on_the_cpu(name):
    rule = RULES[name]
    stores = both(rule, 4, "backwards")
    ids, ones = np.array([3, 3, 8, 100]), np.ones((4, 4), np.float32)
    train(rule, stores, [(ids, ones, 0.1)] * 3)
    source = np.r_[np.arange(100)[::-1], -1, -1]
    for store in stores:
        store.write(np.full((2, 4), 0.5, np.float32), np.array([1, 3]))
        store.write_slot(store.slot_names[0], 2.0, np.array([8]))
        store.renew(np.array([100, 7]), np.full((2, 4), -1, np.float32))
        store.apply(RowGradient(ids, ones), rule.step_params(0.1, 4), frozen_row=8)
        store.mark_trained(np.array([0, 3]))
        store.remap(source, "uniform", seed=5)
        store.set_rule(rule, keep_state=True)
        store.apply(RowGradient(ids % 90, ones), rule.step_params(0.1, 5))
    require_same(*stores)
    host, device = stores
    assert (host.is_trained() == device.is_trained()).all()
    again = DeviceStore.from_state(device.state(), "cpu", serial_engine("forwards"))
    back = HostStore.from_state(device.state())
    train(rule, (host, again, back), [(ids % 90, ones, 0.1)] * 2, iterations=5)
    require_same(host, again)
    require_same(host, back)


@pytest.mark.parametrize("name", ["adam", "sgd", "adam-beta-1-longer-than-beta-2"])
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_a_bad_id_changes_nothing_and_is_raised_by_the_next_call(name):
    rule = RULES[name]
    host, device = both(rule, 4, "forwards")
    good, ones = np.array([1, 2, 2, 149]), torch.ones(4, 4)
    train(rule, (host, device), [(good, ones.numpy(), 0.1)] * 3)
    out = torch.empty(2, 3, 4)
    device.gather(torch.tensor([[1, 2, 3], [4, ROWS + 6, -1]]), out)  # says nothing yet
    assert not out[1, 1:].any()
    with pytest.raises(IndexError, match=r"id 156 at position \(1, 1\) is outside .* 150 rows"):
        device.gather(torch.from_numpy(good), torch.empty(4, 4))
    device.apply(RowGradient(torch.tensor([1, 2, -7, 5]), ones), rule.step_params(0.1, 4))
    with pytest.raises(IndexError, match="id -7 at position 2 is"):
        device.synchronize()
    assert device.steps == 3
    device.synchronize()
    train(rule, (host, device), [(good, ones.numpy(), 0.1)] * 2, iterations=3)
    require_same(host, device)


def test_what_comes_after_a_bad_id_unnoticed_changes_nothing():
    """On a GPU the alarm comes late: here it is held back."""
    rule = RULES["adam"]
    host, device = both(rule, 4, "shuffled")
    good, ones = np.array([1, 2, 2, 149]), torch.ones(4, 4)
    train(rule, (host, device), [(good, ones.numpy(), 0.1)] * 3)
    present = torch.empty(ROWS, 4)
    device.apply(RowGradient(torch.tensor([1, 2, ROWS, 5]), ones), rule.step_params(0.1, 4))
    for step in range(4, 8):
        device._alarm.zero_()
        device.apply(RowGradient(torch.from_numpy(good), ones), rule.step_params(0.1, step))
    device._alarm.zero_()
    device.gather(torch.arange(ROWS), present)
    np.testing.assert_array_equal(bits(rows_of(host)), bits(present.numpy()))
    with pytest.raises(IndexError, match="id 150 at position 2"):
        device.synchronize()
    train(rule, (host, device), [(good, ones.numpy(), 0.1)] * 2, iterations=3)
    require_same(host, device)


def test_ids_elsewhere_than_the_table_are_refused():
    _, device = both(RULES["sgd"], 4, "forwards")
    with pytest.raises(ValueError, match="table is on cpu and a tensor of the batch on meta"):
        device.gather(torch.zeros(3, dtype=torch.int64, device="meta"), torch.empty(3, 4))
    with pytest.raises(IndexError, match="id 150"):
        device.gather(np.array([150]), np.empty((1, 4), np.float32))
