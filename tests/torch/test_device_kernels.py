"""The device's kernels, run here in three orders or on a GPU, beside the CPU's: bit for bit."""

import numpy as np
import pytest
import torch

from helpers.device import DEVICE, ON_GPU, ORDERS, engine, finished, here, host
from helpers.rules import RULES, every_rule
from rowwise.store import Bags, HostStore, RowGradient
from rowwise.torch._device import DeviceStore, _memory

ROWS = 150


def both(rule, dim, order):
    place = {"device": DEVICE, "engine": engine(order)}
    return (
        HostStore(ROWS, dim, rule, init="normal", seed=7),
        DeviceStore(ROWS, dim, rule, init="normal", seed=7, **place),
    )


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


def require_same(ours, theirs):
    np.testing.assert_array_equal(bits(rows_of(ours)), bits(rows_of(theirs)))
    for name in ours.slot_names:
        np.testing.assert_array_equal(bits(ours.read_slot(name)), bits(theirs.read_slot(name)))
    np.testing.assert_array_equal(ours.update_counts, theirs.update_counts)
    np.testing.assert_array_equal(ours.last_update, theirs.last_update)


def train(rule, stores, given, iterations=0):
    for step, (ids, gradients, rate) in enumerate(given):
        params = rule.step_params(rate, iterations + step + 1)
        for store in stores:
            store.apply(RowGradient(ids, gradients), params)


def skip_a_step(rule, device, iteration, rate=0.01):
    """Give a device a step of which it finds that its gradients are not finite."""
    gradient = RowGradient(np.array([5, 7]), np.ones((2, 4), np.float32))
    params = rule.step_params(rate, iteration + 1)
    device.apply_unread(gradient, lambda skipped: params, found_inf=torch.ones((), device=DEVICE))


@every_rule
def test_a_device_has_the_bits_of_the_cpu(rule):
    for order, dim in zip(ORDERS, (12, 5, 3), strict=True):
        cpu, device = both(rule, dim, order)
        train(rule, (cpu, device), batches(dim, 14))
        np.testing.assert_array_equal(bits(rows_of(cpu)), bits(rows_of(device)))
        some = np.array([3, 149, 3, 20])
        for store in (cpu, device):
            store.materialize(some)
        train(rule, (cpu, device), batches(dim, 250, seed=1), iterations=14)
        require_same(cpu, device)
        for store in (cpu, device):
            store.materialize()
        train(rule, (cpu, device), batches(dim, 3, seed=2), iterations=264)
        require_same(cpu, device)


@pytest.mark.parametrize("name", ["adamw", "lion-decay", "rowwise-adagrad"])
def test_a_clock_grows_and_starts_anew(name):
    rule = RULES[name]
    cpu, device = both(rule, 4, "shuffled")
    ids = np.array([5, 9, 5])
    for step in range(1100):  # more than the device's arrays hold at first
        if step % 64 == 0:
            skip_a_step(rule, device, step)
        train(rule, (cpu, device), [(ids + step % 90, np.ones((3, 4), np.float32), 0.01)], step)
    require_same(cpu, device)
    # set back: the clock cannot go on; a rate so large that a decay leaves nothing
    for rate, iteration in ((0.01, 0), (100.0, 1), (0.01, 2)):
        skip_a_step(rule, device, iteration, rate)
        train(rule, (cpu, device), [(ids, np.ones((3, 4), np.float32), rate)], iteration)
    require_same(cpu, device)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_bags_have_the_bits_of_the_cpu(order, weighted):
    rule, dim = RULES["pytorch-adamw"], 20
    cpu, device = both(rule, dim, order)
    random = np.random.default_rng(3)
    for step in range(6):
        ids = random.integers(0, 30 if step % 2 else ROWS, 400)
        offsets = np.sort(np.r_[0, random.integers(0, 401, 60), 400])  # some are empty
        weights = random.standard_normal(400).astype(np.float32) if weighted else None
        bags = Bags(ids, offsets, weights)
        values = random.standard_normal((61, dim)).astype(np.float32)
        results = []
        for store in (cpu, device):
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
            np.testing.assert_array_equal(bits(host(theirs)), bits(host(ours)))
    require_same(cpu, device)


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
    cpu, device = stores
    assert (cpu.is_trained() == device.is_trained()).all()
    again = DeviceStore.from_state(device.state(), DEVICE, engine())
    back = HostStore.from_state(device.state())
    train(rule, (cpu, again, back), [(ids % 90, ones, 0.1)] * 2, iterations=5)
    require_same(cpu, again)
    require_same(cpu, back)


@pytest.mark.parametrize("name", ["adam", "sgd", "adam-beta-1-longer-than-beta-2"])
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_a_bad_id_changes_nothing_and_is_raised_by_the_next_call(name):
    rule = RULES[name]
    cpu, device = both(rule, 4, "forwards")
    good, ones = np.array([1, 2, 2, 149]), here(torch.ones(4, 4))
    train(rule, (cpu, device), [(good, host(ones), 0.1)] * 3)
    out = here(torch.empty(2, 3, 4))
    device.gather(here(torch.tensor([[1, 2, 3], [4, ROWS + 6, -1]])), out)  # says nothing yet
    assert not out[1, 1:].any()
    finished()
    with pytest.raises(IndexError, match=r"id 156 at position \(1, 1\) is outside .* 150 rows"):
        device.gather(here(torch.from_numpy(good)), here(torch.empty(4, 4)))
    device.apply(RowGradient(here(torch.tensor([1, 2, -7, 5])), ones), rule.step_params(0.1, 4))
    with pytest.raises(IndexError, match="id -7 at position 2 is"):
        device.synchronize()
    assert device.steps == 3
    device.synchronize()
    train(rule, (cpu, device), [(good, host(ones), 0.1)] * 2, iterations=3)
    require_same(cpu, device)


@pytest.mark.skipif(ON_GPU, reason="the alarm comes when it comes")
def test_what_comes_after_a_bad_id_unnoticed_changes_nothing():
    """On a GPU the alarm comes late: here it is held back."""
    rule = RULES["adam"]
    cpu, device = both(rule, 4, "shuffled")
    good, ones = np.array([1, 2, 2, 149]), torch.ones(4, 4)
    train(rule, (cpu, device), [(good, host(ones), 0.1)] * 3)
    present = torch.empty(ROWS, 4)
    device.apply(RowGradient(torch.tensor([1, 2, ROWS, 5]), ones), rule.step_params(0.1, 4))
    for step in range(4, 8):
        device._alarm.zero_()
        device.apply(RowGradient(torch.from_numpy(good), ones), rule.step_params(0.1, step))
    device._alarm.zero_()
    device.gather(torch.arange(ROWS), present)
    np.testing.assert_array_equal(bits(rows_of(cpu)), bits(present.numpy()))
    with pytest.raises(IndexError, match="id 150 at position 2"):
        device.synchronize()
    train(rule, (cpu, device), [(good, host(ones), 0.1)] * 2, iterations=3)
    require_same(cpu, device)


def test_no_write_comes_after_a_call_that_an_error_takes_back():
    rule = RULES["adam"]
    cpu, device = both(rule, 4, "forwards")
    ones = torch.ones(2, 4)
    bad = RowGradient(here(torch.tensor([1, ROWS])), here(ones))
    train(rule, (cpu, device), [(np.array([0, 1]), host(ones), 0.1)])
    train(rule, (cpu, device), [(np.array([1, 2]), host(ones), 0.1)], iterations=1)  # row 0 lags

    def step():
        device.apply(bad, rule.step_params(0.1, 3), frozen_row=0)
        device.synchronize()

    with pytest.raises(IndexError, match="id 150 at position 1"):
        step()
    require_same(cpu, device)
    train(rule, (cpu, device), [(np.array([1, 2]), host(ones), 0.1)], iterations=2)
    device.apply(bad, rule.step_params(0.1, 4))
    if not ON_GPU:
        device._alarm.zero_()  # as on a GPU that has not come so far
    with pytest.raises(IndexError, match="id 150 at position 1"):
        device.write(here(ones[:1]), here(torch.tensor([0])))
    with pytest.raises(IndexError, match="id -1 at position 0"):
        device.write(here(ones[:1]), here(torch.tensor([-1])))
    require_same(cpu, device)


@pytest.mark.parametrize("order", ORDERS[: 1 if ON_GPU else None])
def test_positions_outside_every_bag_get_nothing_and_give_nothing(order):
    rule = RULES["rowwise-adagrad"]
    _, device = both(rule, 4, order)
    before = rows_of(device)
    ids, offsets = here(torch.arange(6)), here(torch.tensor([1, 3, 99, 4]))  # the last as if 6
    clamped = Bags(ids, here(torch.tensor([1, 3, 4])), here(torch.full((6,), 2.0)))
    gradients = here(torch.full((2, 4), float("nan")))
    gradients[:] = torch.tensor([[1.0], [2.0]])
    device.apply(device.bag_gradient(clamped, gradients), rule.step_params(0.1, 1))
    moved = (rows_of(device) != before).any(1).nonzero()[0].tolist()
    assert moved == [1, 2, 3]
    gradients[:] = float("nan")
    of_weights = host(device.bag_weight_gradient(clamped, gradients))
    assert np.isnan(of_weights).tolist() == [False, True, True, True, False, False]
    argmax = here(torch.zeros(2, 4, dtype=torch.int64))
    spread = host(device.bag_max_gradient(clamped, argmax, gradients).values)
    assert not spread.any()
    pooled = here(torch.empty(3, 4))
    device.gather_bags(Bags(ids, offsets), pooled)
    assert not host(pooled)[2].any()


@pytest.mark.skipif(ON_GPU, reason="memory runs out by a stand-in")
def test_a_rule_for_which_there_is_no_memory_changes_nothing(monkeypatch):
    adam = RULES["adam"]
    cpu, device = both(RULES["sgd"], 4, "forwards")
    batch = np.array([1, 2]), np.ones((2, 4), np.float32), 0.1
    train(RULES["sgd"], (cpu, device), [batch])

    def out_of_memory(size):
        raise torch.OutOfMemoryError(f"no {size} bytes")

    with monkeypatch.context() as patched:
        patched.setattr(device, "_bytes", out_of_memory)
        with pytest.raises(torch.OutOfMemoryError) as error:
            device.set_rule(adam)
    (note,) = error.value.__notes__
    assert "150 rows of 4 with 2 slots take 9600 bytes" in note
    assert device.rule == cpu.rule
    train(RULES["sgd"], (cpu, device), [batch], iterations=1)
    for store in (cpu, device):
        store.set_rule(adam)
    train(adam, (cpu, device), [batch] * 2)
    require_same(cpu, device)


@pytest.mark.skipif(ON_GPU, reason="no graph is captured")
def test_a_call_while_a_cuda_graph_is_captured_is_refused(monkeypatch):
    _, device = both(RULES["sgd"], 4, "forwards")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    device.tensor_device = torch.device("cuda")
    with pytest.raises(RuntimeError, match="while a CUDA graph is captured"):
        device.materialize()


def test_a_rule_without_lazy_updates_is_told_of_as_on_the_cpu():
    for store in both(RULES["sgd"], 4, "forwards"):
        with pytest.warns(UserWarning, match="every step visits every row"):
            store.set_rule(RULES["adam-beta-1-longer-than-beta-2"])


def test_ids_elsewhere_than_the_table_are_refused():
    _, device = both(RULES["sgd"], 4, "forwards")
    with pytest.raises(
        ValueError, match=f"table is on {device.device} and a tensor of the batch on meta"
    ):
        device.gather(torch.zeros(3, dtype=torch.int64, device="meta"), torch.empty(3, 4))
    with pytest.raises(IndexError, match="id 150"):
        device.gather(np.array([150]), np.empty((1, 4), np.float32))


def test_a_default_device_moves_nothing_that_belongs_to_the_host(monkeypatch):
    monkeypatch.setattr(_memory, "_alarms", {False: [], True: []})
    with torch.device("meta"):
        assert _memory._new_alarm(pinned=False).device.type == "cpu"
