"""Calls beside other threads and processes, and memory that somebody else changes meanwhile."""

import os
import subprocess
import sys

import numpy as np
import pytest

import rowwise


def run(code, timeout=120, **environment):
    """The output of a program of its own, which must come to a good end in time."""
    finished = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout.strip()


def test_ids_that_change_during_a_call_reach_nothing_outside_the_table():
    run("""
import threading, time
import numpy as np, rowwise

rowwise.set_num_threads(2)
rows, dim, n = 3000, 8, 20_000
native = rowwise.Table(rows, dim, "adam", seed=0).store._native
ids, offsets = np.zeros(n, np.int64), np.arange(0, n + 1, 2)
argmax = np.zeros((n // 2, dim), np.int64)
out, bags, weight = np.empty((n, dim), "f"), np.empty((n // 2, dim), "f"), np.empty(n, "f")
done = threading.Event()
params = rowwise._native.StepParams(1, 0.01, 1.0, 0.01, 0.0, 1.0)

def scribble():
    arrays = ids, argmax.reshape(-1), offsets
    good = np.arange(n) % rows, np.zeros(argmax.size, np.int64), np.arange(0, n + 1, 2)
    wild = [array.copy() for array in good]
    for array in wild:
        array[::97] = np.resize([-1, 2**62, -(2**63), rows, 2**32 + 5], len(array[::97]))
    while not done.is_set():
        for values in (wild, good):
            for array, value in zip(arrays, values):
                array[:] = value
        done.wait(1e-4)  # good when a call checks it, wild when it reads on

calls = [
    lambda: native.gather(ids, out),
    lambda: native.update(ids, out, params),
    lambda: native.materialize(ids),
    lambda: native.renew(ids, out),
    lambda: native.gather_bags(ids, offsets, None, bags),
    lambda: native.gather_bags_max(ids, offsets, bags, argmax),
    lambda: native.bag_weight_gradient(ids, offsets, bags, weight),
    lambda: native.sum_gradients(native.plan_bags(ids, offsets, weight), bags),
    lambda: native.update_bags(native.plan_bags(ids, offsets, None), bags, params),
    lambda: native.gather_bags_max_gradient(ids, offsets, argmax, bags),
]
scribbler = threading.Thread(target=scribble)
scribbler.start()
end, went = time.monotonic() + 4, 0
while time.monotonic() < end:
    for call in calls:
        try:
            went += call() == -1
        except (IndexError, ValueError):
            pass
done.set()
scribbler.join()
assert went
assert np.isfinite(out).all()
""")


def test_threads_that_the_system_refuses_are_done_without():
    run("""
import resource, warnings
import numpy as np, rowwise

table = rowwise.Table(100_000, 4, seed=0)
ids = np.arange(100_000)
rowwise.set_num_threads(2)
expected = table.lookup(ids)
outs = [np.zeros_like(expected) for _ in range(3)]
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    rowwise.set_num_threads(1000)
    bad = [table.store._native.gather(ids, out) for out in outs]
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert bad == [-1, -1, -1]
for out in outs:
    np.testing.assert_array_equal(out, expected)
assert len(caught) == 1 and "refused" in str(caught[0].message), caught
""")


def test_a_fork_beside_an_updating_thread_leaves_a_child_that_works():
    run("""
import os, signal, threading
import numpy as np, rowwise

rowwise.set_num_threads(2)
table = rowwise.Table(20_000, 8, "adam", seed=0)
ids, gradients = np.arange(20_000), np.ones((20_000, 8), "f")
native, done = table.store._native, False
params = rowwise._native.StepParams(1, 0.01, 1.0, 0.01, 0.0, 1.0)

def work(call):
    while not done:
        call()

out = np.empty_like(gradients)
threads = [
    threading.Thread(target=work, args=(lambda: native.update(ids, gradients, params),)),
    threading.Thread(target=work, args=(lambda: native.gather(ids, out),)),
]
for thread in threads:
    thread.start()
statuses = []
for _ in range(30):
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # a child that hangs dies
        steps = len(native.step_history()[0])
        table.lookup(ids)
        native.update(ids, gradients, params)
        whole = (table.update_counts == steps + 1).all()  # the fork was between two updates
        os._exit(0 if whole else 1)
    statuses.append(os.waitpid(child, 0)[1])
done = True
for thread in threads:
    thread.join()
assert statuses == [0] * 30, statuses
""")


def test_a_fork_beside_a_thread_that_writes_to_two_tables_at_once():
    run("""
import os, signal, threading, time
import numpy as np, rowwise

one, other = (rowwise.Table(5, 2, "adam") for _ in range(2))
done = False

def write_to_both(a, b):
    while not done:
        time.sleep(0.001)
        with a.store.frozen():
            time.sleep(0.001)
            b.update([1], np.ones((1, 2)))

order = list(rowwise.store._locks._all)
if order[0] is one.store._lock:
    one, other = other, one  # the fork asks for them the other way round
threads = [threading.Thread(target=write_to_both, args=(one, other))]
for thread in threads:
    thread.start()
signal.alarm(20)
for _ in range(50):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        one.update([1], np.ones((1, 2)))
        other.update([1], np.ones((1, 2)))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
done = True
for thread in threads:
    thread.join()
""")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_process_that_multiprocessing_starts_can_read_and_train(method):
    run(f"""
import multiprocessing
import numpy as np, rowwise

rowwise.set_num_threads(2)
table = rowwise.Table(5_000, 8, "adam", seed=0)
ids, gradients = np.arange(5_000), np.ones((5_000, 8))
table.update(ids, gradients)
with multiprocessing.get_context({method!r}).Pool(2) as pool:
    assert pool.apply_async(rowwise.Table.update, (table, ids, gradients)).get(60) is None
    copies = [pool.apply_async(rowwise.Table.lookup, (table, ids)) for _ in range(4)]
    for copy in copies:
        np.testing.assert_array_equal(copy.get(60), table.lookup(ids))
    pool.close()
    pool.join()
table.update(ids, gradients)
assert table.steps == 2
""")


def test_another_interpreter_is_refused_and_does_no_harm():
    run("""
import sys
import numpy as np
import rowwise

if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    kinds = ["isolated", "legacy"]
else:
    import _xxsubinterpreters as interpreters
    kinds = [True, False]
table = rowwise.Table(5, 2, "adam")
for kind in kinds:
    other = interpreters.create(kind) if type(kind) is str else interpreters.create(isolated=kind)
    program = "import rowwise._native"
    try:
        failed = interpreters.run_string(other, program)  # returned since 3.13, and raised before
    except Exception as error:
        failed = error
    assert "ImportError" in str(failed), failed
    interpreters.destroy(other)
table.update([1], np.ones((1, 2)))
assert table.lookup([1]).any()
""")


def test_a_writer_gets_its_turn_beside_readers():
    run("""
import threading
import numpy as np, rowwise

table = rowwise.Table(50_000, 16, "adam", seed=0)
done = False

def read():
    ids = np.arange(5000)
    while not done:
        table.lookup(ids)

readers = [threading.Thread(target=read) for _ in range(8)]
for reader in readers:
    reader.start()
ids, gradients = np.arange(100), np.ones((100, 16), "f")
for _ in range(50):
    table.update(ids, gradients)
done = True
for reader in readers:
    reader.join()
""")


@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("5,2", 5), ("0", 1), ("many", 1), ("", 1)]
)
def test_the_threads_are_omp_num_threads_or_the_processors_allowed(given, threads):
    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("processors cannot be chosen here")
    code = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import rowwise
print(rowwise.get_num_threads())
"""
    assert run(code, OMP_NUM_THREADS=given) == str(threads)


@pytest.mark.parametrize("ids", [[1, 0, 1], [2, 2, 2], [0, 1, 2]])
@pytest.mark.parametrize("slot", [None, "momentum"])
def test_gradients_that_lie_in_the_table_are_read_before_it_changes(ids, slot):
    rule = rowwise.rules.SGD(1.0, momentum=0.9)
    table, twin = (rowwise.Table(3, 4, rule, init="normal", seed=0) for _ in range(2))
    for one in (table, twin):
        one.update([0, 1, 2], np.ones((3, 4)))
        one.materialize()
    gradients = twin.store.memory(slot).copy()
    table.update(ids, table.store.memory(slot))
    twin.update(ids, gradients)
    np.testing.assert_array_equal(table.to_numpy(), twin.to_numpy())


def test_the_count_of_updates_stays_at_its_largest_number():
    table = rowwise.Table(3, 2, "adam")
    table.update([0, 1], np.ones((2, 2)))
    table.store._row_states["update_count"][0] = 2**32 - 1
    table.update([0, 1], np.ones((2, 2)))
    assert table.update_counts.tolist() == [2**32 - 1, 2, 0]
    assert table.is_trained().tolist() == [True, True, False]
