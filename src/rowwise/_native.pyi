"""rowwise's kernels; use rowwise.Table."""

from collections.abc import Sequence
from typing import Annotated, Any, overload

import numpy
from numpy.typing import NDArray


def set_leak_warnings(warn: bool) -> None:
    """Set whether objects that outlive the interpreter are reported."""

def zeros(bytes: int) -> Annotated[NDArray[numpy.uint8], dict(shape=(None,))]:
    """Return (bytes,) zeros, on huge pages where there are any."""

def empty(rows: int, dim: int) -> Annotated[NDArray[numpy.float32], dict(shape=(None, None))]:
    """
    Return (rows, dim) numbers not yet written, in memory that is used again.
    """

def first_nonfinite(values: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)]) -> int:
    """Return the flat position of the first NaN or infinity, or -1."""

def check_offsets(offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], n: int) -> None:
    """Refuse offsets (bags + 1,) that do not ascend from 0 to n."""

def fill_uniform(weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], seed: int, low: float, high: float, *, first_id: int = 0, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> None:
    """
    Fill weights (rows, dim) with uniform numbers in low..high.

    Row i gets the numbers of id first_id + i, or of ids[i] where ids (rows,) are given.
    They depend on (seed, id, column) alone: neither on the number of rows or threads nor
    on the processor, to the bit. Philox4x32-10 by counter.
    """

def fill_normal(weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], seed: int, mean: float, deviation: float, *, first_id: int = 0, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)] | None = None) -> None:
    """
    Fill weights (rows, dim) with normal numbers, within 6.3 deviations of the mean.

    As `fill_uniform`. The inverse distribution function is computed by +, -, *, / and the
    square root alone, so that every processor gives the same bits.
    """

def set_num_threads(threads: int) -> None:
    """Set how many threads the kernels use."""

def get_num_threads() -> int:
    """
    Return how many threads the kernels use: as set, or OMP_NUM_THREADS, or as many as the
    process may use processors.
    """

def kernels() -> str:
    """Return the name of the copy of the kernels in use."""

def select_kernels(name: str) -> bool:
    """
    Choose a copy of the kernels; return False where this processor does not run it.
    """

class Rule:
    """The arithmetic of a rule, with its hyperparameters."""

def rule(family: str, *, momentum: float = 0.0, rho: float = 0.0, beta_1: float = 0.0, beta_2: float = 0.0, epsilon: float = 0.0, learning_rate_power: float = 0.0, l1: float = 0.0, l2: float = 0.0, beta: float = 0.0, shrink: float = 1.0, horizon: int = 1) -> Rule:
    """
    Return the rule of a family.

    A missed step multiplies the denominator of a movement by `shrink`; `horizon` missed
    steps matter to the movement.
    """

class BatchPlan:
    """
    A batch of bags, sorted: its distinct ids and where their gradients lie.
    """

class StepParams:
    """The numbers of one step."""

    def __init__(self, iteration: int, learning_rate: float, decay_factor: float, scale: float, gradient_scale: float, epsilon_factor: float) -> None: ...

class Table:
    """
    The rows of a table, their optimizer state and clock, in arrays of the caller's.

    Readers run beside each other, a writer alone. Methods that return an int return -1, or
    the flat position of an id outside the table; then nothing was read or written.
    """

    @overload
    def __init__(self, weights: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], states: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """
        Lay a table over weights (rows, dim) and the bytes of (rows,) row states.
        """

    @overload
    def __init__(self, weights: Annotated[NDArray[numpy.uint16], dict(shape=(None, None), order='C', device='cpu')], states: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], dtype: str) -> None:
        """
        Lay a table over weights (rows, dim) stored as dtype, "bfloat16" or "float16".
        """

    def round_at_random(self, seed: int) -> None:
        """Round weights of 16 bits at random from now on, and not to nearest."""

    def set_rule(self, rule: Rule, slots: Sequence[Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]], *, slot_starts: Sequence[float], slots_pristine: bool, advances: bool, ratio: float, growth: float, terms: int, unbounded: bool, horizon: int, slot_decay: Sequence[float], slot_names: str = '') -> None:
        """
        Update rows by `rule` from now on; every row must be up to date.

        slots are (rows, dim) each, or (rows, 1) where the rule keeps a number a row.
        slots_pristine: slots of rows without an update hold slot_starts. advances: whether
        a step changes rows that it does not touch; the rest says how, see native/clock.hpp.
        """

    def gather(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')]) -> int:
        """Write the present vectors (n, dim) of rows ids (n,) to out."""

    def gather_bags(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)] | None, out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')]) -> int:
        """
        Write each bag's weighted sum (bags, dim) to out; 0 where it is empty.

        Bag b holds ids[offsets[b]:offsets[b + 1]].
        """

    def gather_bags_max(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')], argmax: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu')]) -> int:
        """
        Write the largest of each bag's values (bags, dim) to out, and the first position
        that has it to argmax; 0 and -1 where the bag is empty.
        """

    def bag_weight_gradient(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], gradients: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')]) -> int:
        """
        Write the gradients (n,) of the bags' weights to out, from gradients (bags, dim).
        """

    def plan_bags(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], weights: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)] | None) -> BatchPlan:
        """Sort a batch of bags for `sum_gradients` or `update_bags`."""

    def sum_gradients(self, bags: BatchPlan, gradients: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)]) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """
        Return the distinct ids (m,), ascending, and their summed gradients (m, dim), from
        the gradients (bags, dim) of `gather_bags`.
        """

    def gather_bags_max_gradient(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], offsets: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], argmax: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], gradients: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)]) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """Return what `sum_gradients` does, for `gather_bags_max`."""

    def update(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], gradients: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)], params: StepParams) -> int:
        """
        Make one step of the whole table with gradients (n, dim) of rows ids (n,).
        """

    def update_bags(self, bags: BatchPlan, gradients: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)], params: StepParams) -> None:
        """Make one step of the whole table with gradients (bags, dim)."""

    def materialize(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)] | None = None) -> int:
        """Bring rows ids (n,), or all of them, up to date in place."""

    def renew(self, ids: Annotated[NDArray[numpy.int64], dict(order='C', device='cpu', writable=False)], starts: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)]) -> int:
        """
        Start rows ids (n,) anew with weights starts (n, dim), fresh slots and no updates.
        """

    def read_slot(self, slot: int, out: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')]) -> None:
        """Write the present values of a slot to out, of its shape."""

    def step_history(self) -> tuple[Annotated[NDArray[numpy.float64], dict(shape=(None, None))], Annotated[NDArray[numpy.float64], dict(shape=(None,))]]:
        """
        Return the clock's steps (steps, 3): scale, decay factor, epsilon factor; and its
        closed coefficients (m,).
        """

    def restore(self, history: tuple[Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)]]) -> None:
        """Take up what `step_history` gave; the rows' last steps are of it."""

    @property
    def steps(self) -> int:
        """
        Updates so far. A step counts itself: whatever interrupts Python, both have happened
        or neither.
        """

    @steps.setter
    def steps(self, arg: int, /) -> None: ...

    @property
    def version(self) -> int:
        """Raised by every writer once it has written."""

    @version.setter
    def version(self, arg: int, /) -> None: ...

    @property
    def clocks(self) -> int:
        """How often all rows were brought up to date, with a new clock."""

    @property
    def slots_pristine(self) -> bool:
        """Whether slots of rows without an update hold what they start with."""

    @slots_pristine.setter
    def slots_pristine(self, arg: bool, /) -> None: ...

def widen(stored: Annotated[NDArray[numpy.uint16], dict(order='C', device='cpu', writable=False)], dtype: str, out: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu')]) -> None:
    """Write numbers that are stored as dtype to out, float32."""

def narrow(values: Annotated[NDArray[numpy.float32], dict(order='C', device='cpu', writable=False)], dtype: str, out: Annotated[NDArray[numpy.uint16], dict(order='C', device='cpu')]) -> None:
    """
    Write values float32, rounded to nearest, ties to even, to out, stored as dtype.
    """

TERMS: int = 8

MOST_STEPS: int = 65535

class Engine:
    """Runs the kernels of tables on a device."""

    def has_kernels(self, rule: Rule) -> bool:
        """Return whether the kernels of a rule's family are there."""

    def load_kernels(self, rule: Rule, binary: bytes) -> None:
        """Load the compiled kernels of a rule's family."""

DEVICE_BLOCK: int = 64

DEVICE_PARTIALS: int = 16

DEVICE_OPEN_STEPS: int = 8

def device_texts() -> list[tuple[str, str]]:
    """
    Return the source of the device's kernels: (name, content) of each file; NVRTC compiles
    the last one.
    """

def rule_class(rule: Rule) -> str:
    """Return the class of a rule's family in that source."""

def serial_engine(order: str = 'forwards') -> Engine:
    """
    Return the engine that runs the device's kernels on this processor, item by item.

    order: forwards, backwards or shuffled; results have the same bits for each.
    """

def cuda_engine(device: int) -> Engine:
    """
    Return the engine of a GPU, by its number.

    Raises RuntimeError where there is no driver or no such GPU.
    """

class DeviceBatch:
    """
    A batch in a device's memory, by addresses. `arrays` may hold what lies there.
    """

    def __init__(self) -> None: ...

    @property
    def n(self) -> int:
        """Number of ids."""

    @n.setter
    def n(self, arg: int, /) -> None: ...

    @property
    def bags(self) -> int:
        """Number of bags."""

    @bags.setter
    def bags(self, arg: int, /) -> None: ...

    @property
    def skipped_row(self) -> int:
        """
        A row that an update leaves out, or -1; the number of rows stands for none.
        """

    @skipped_row.setter
    def skipped_row(self, arg: int, /) -> None: ...

    @property
    def batch(self) -> int:
        """(n,) ids."""

    @batch.setter
    def batch(self, arg: int, /) -> None: ...

    @property
    def ids(self) -> int:
        """(n,) the same, ascending."""

    @ids.setter
    def ids(self, arg: int, /) -> None: ...

    @property
    def sources(self) -> int:
        """(n,) which gradient each of ids gets; -1: none."""

    @sources.setter
    def sources(self, arg: int, /) -> None: ...

    @property
    def offsets(self) -> int:
        """(bags + 1,)."""

    @offsets.setter
    def offsets(self, arg: int, /) -> None: ...

    @property
    def weights(self) -> int:
        """(n,), or 0."""

    @weights.setter
    def weights(self, arg: int, /) -> None: ...

    @property
    def gradients(self) -> int:
        """(n or bags, dim)."""

    @gradients.setter
    def gradients(self, arg: int, /) -> None: ...

    @property
    def out(self) -> int:
        """What is written."""

    @out.setter
    def out(self, arg: int, /) -> None: ...

    @property
    def blocks(self) -> int:
        """Working memory of sums."""

    @blocks.setter
    def blocks(self, arg: int, /) -> None: ...

    @property
    def partials(self) -> int:
        """(n, 16) working memory."""

    @partials.setter
    def partials(self, arg: int, /) -> None: ...

    @property
    def argmax(self) -> int:
        """(bags, dim)."""

    @argmax.setter
    def argmax(self, arg: int, /) -> None: ...

    @property
    def found_inf(self) -> int:
        """(1,) not 0: the step is skipped; or 0."""

    @found_inf.setter
    def found_inf(self, arg: int, /) -> None: ...

    @property
    def others(self) -> int:
        """(1,) NaN: the gradient of all other rows; or 0."""

    @others.setter
    def others(self, arg: int, /) -> None: ...

class DeviceTable:
    """
    A table in a device's memory. Calls happen in the order of a stream; none waits for the
    device but `trouble`. See native/device/device_table.hpp.
    """

    def __init__(self, engine: Engine, rows: int, dim: int, weights: int, states: int, trouble: int, alarm: int, stream: int) -> None: ...

    def set_rule(self, rule: Rule, slots: Sequence[int], *, slot_starts: Sequence[float], slots_pristine: bool, advances: bool, ratio: float, growth: float, terms: int, unbounded: bool, horizon: int, slot_decay: Sequence[float], slot_names: str = '') -> None:
        """Update rows by `rule` from now on; every row must be up to date."""

    def clock_bytes(self, capacity: int) -> int:
        """Return the bytes of the clock's arrays for so many steps."""

    @staticmethod
    def clock_bytes_of(capacity: int, *, ratio: float, growth: float, terms: int, unbounded: bool, horizon: int, slot_decay: Sequence[float], slot_starts: Sequence[float], advances: bool, slot_names: str) -> int:
        """
        Return the same for a rule that the table does not have yet: see `set_rule`.
        """

    def place_clock(self, memory: int, capacity: int, stream: int) -> None:
        """Copy the clock's arrays to the device."""

    @property
    def is_full(self) -> bool:
        """Whether the clock's arrays have no room for another step."""

    @property
    def capacity(self) -> int:
        """The steps that they have room for."""

    def gather(self, batch: DeviceBatch, stream: int) -> None:
        """
        Write the present vectors (n, dim) of rows batch (n,) to out; 0 for an id outside.
        """

    def gather_bags(self, batch: DeviceBatch, stream: int) -> None:
        """Write each bag's weighted sum (bags, dim) to out."""

    def gather_bags_max(self, batch: DeviceBatch, stream: int) -> None:
        """
        Write the largest of each bag's values to out, and its position to argmax.
        """

    def bag_weight_gradient(self, batch: DeviceBatch, stream: int) -> None:
        """Write the gradients (n,) of the bags' weights to out."""

    def spread_max(self, batch: DeviceBatch, stream: int) -> None:
        """
        Write each position's part of a gradient of `gather_bags_max` to out (n, dim).
        """

    def sum_runs(self, batch: DeviceBatch, stream: int) -> None:
        """
        Write the sum of each id's gradients to out (n, dim), where the id first stands.
        """

    def materialize(self, batch: DeviceBatch, stream: int) -> None:
        """Bring rows ids (n,) up to date in place."""

    def write_rows(self, batch: DeviceBatch, stream: int) -> None:
        """
        Bring rows ids (n,) up to date, then set them to their gradients (n, dim): for an id
        that stands twice, to the first.
        """

    def read_slot(self, slot: int, out: int, stream: int) -> None:
        """Write the present values of a slot to out."""

    def restarts(self, params: StepParams) -> bool:
        """Return whether an update brings every row up to date as well."""

    def update(self, batch: DeviceBatch, choices: Sequence[StepParams], stream: int) -> None:
        """
        Make one step of the whole table, or skip it if the batch's found_inf is not 0.

        choices: its numbers if 0, 1, ... of the open steps turn out to be skipped.
        """

    def settle(self) -> None:
        """Take up what is known by now of the open steps."""

    @property
    def open_steps(self) -> int:
        """Steps of which it is not known yet whether they were skipped."""

    @property
    def skipped(self) -> int:
        """Steps that are known to be skipped."""

    def materialize_all(self, stream: int) -> None:
        """Bring every row up to date in place, and start the clock anew."""

    def step_history(self) -> tuple[Annotated[NDArray[numpy.float64], dict(shape=(None, None))], Annotated[NDArray[numpy.float64], dict(shape=(None,))]]:
        """Return the clock's steps, see `Table.step_history`."""

    def restore(self, history: tuple[Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.float64], dict(shape=(None,), order='C', device='cpu', writable=False)]]) -> None:
        """Take up what `step_history` gave; then place the clock."""

    @property
    def now(self) -> int:
        """Steps that the clock remembers."""

    @property
    def steps(self) -> int:
        """Updates so far."""

    @steps.setter
    def steps(self, arg: int, /) -> None: ...

    @property
    def slots_pristine(self) -> bool:
        """Whether slots of rows without an update hold what they start with."""

    @slots_pristine.setter
    def slots_pristine(self, arg: bool, /) -> None: ...

    @property
    def calls(self) -> int:
        """Number of the last call."""

    @property
    def alarmed(self) -> bool:
        """Whether an id outside the table is known of; it may show late."""

    def trouble(self, stream: int) -> tuple[int, int, int] | None:
        """
        Wait for the device. Return the call, position and id of the first id outside, or
        None; the table is then as before that call.
        """

def read_records(file: int, stride: int, block: int, parts: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]], at: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], frames: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], depth: int) -> int:
    """
    Read the records that begin at bytes at (n,) into frames (n,) of the parts.

    A record is the parts' rows (frames, bytes) side by side, in `stride` bytes of the file,
    whose requests are multiples of `block`. Return 0, or an errno.
    """

def pack_records(parts: Sequence[Annotated[NDArray[numpy.uint8], dict(shape=(None, None), order='C', device='cpu')]], stride: int, frames: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], to: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], out: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Write frames (n,) of the parts as records, which begin at bytes to (n,) of out.
    """

def write_pieces(file: int, memory: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], from_: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], bytes: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], at: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], depth: int) -> int:
    """
    Write bytes (n,) at from_ (n,) of memory to at (n,) of the file. Return 0, or an errno.
    """

def merge_records(file: int, stride: int, home: tuple[int, int], log: tuple[int, int], logged: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], logged_from: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], packed: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], newest: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], newest_from: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]) -> int:
    """
    Put newer records among those of a stretch (begin, bytes) of the file, home.

    Those of numbers logged (n,) lie at bytes logged_from (n,) of another stretch, log.
    Those of numbers newest (m,), newer still, lie at newest_from (m,) of packed.
    Return 0, or an errno.
    """

class IdIndex:
    def __init__(self, *, capacity: int, unknown_rows: int, admit_after: int, by_count: bool, ttl: int, evict_at_once: int, in_flight: int, strings: bool) -> None: ...

    @overload
    def find(self, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None: ...

    @overload
    def find(self, ids: tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]], rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
        """
        Write the row of each id to rows (n,); an unknown row where it has none.
        """

    @overload
    def observe(self, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], step: int, rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], made: list[Any]) -> None: ...

    @overload
    def observe(self, ids: tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]], step: int, rows: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')], made: list[Any]) -> None:
        """
        Count a batch, evict and admit, then do as `find`.

        Append to the list `made`: admitted rows, their ids (of strings the hashes), evicted
        rows, their ids, and how many ids were due a row and got none.
        """

    @overload
    def restore(self, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], seen: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], candidates: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], candidate_counts: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], sketch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], since_halving: int, swept: int) -> None: ...

    @overload
    def restore(self, ids: tuple[Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)]], seen: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], counts: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], candidates: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], candidate_counts: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], sketch: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], since_halving: int, swept: int) -> None:
        """Take up what `state` gave."""

    def state(self) -> dict[str, Any]:
        """Return copies of all that the index holds."""

    def __len__(self) -> int: ...

    @property
    def nbytes(self) -> int:
        """Bytes of memory."""

class ReentrantLock:
    """A lock that a thread may take several times, and native code too."""

    def __init__(self) -> None: ...

    def acquire(self, timeout: float = -1.0) -> bool:
        """
        Wait for the lock, so many seconds if not below 0; return whether it was got.
        """

    def release(self) -> None:
        """Let the next one in."""

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...

class Program:
    """
    A table as compiled programs call it, by its key.

    Failures wait here for whoever runs the programs, and so do gradients for
    the step that applies them. See native/programs.hpp.
    """

    def __init__(self, path: str, lasting_key: int = 0) -> None:
        """
        Begin without a table; path names it in messages. Programs that call by lasting_key,
        which is that of the Program before, call this one from now on.
        """

    @property
    def key(self) -> int:
        """The key by which programs call it."""

    @property
    def lasting_key(self) -> int:
        """
        The key by which programs call it, and then the next Program made with that key.
        """

    def bind(self, table: object, turn: ReentrantLock) -> None:
        """Call `table` from now on, whose writers take turns."""

    def bind_rows(self, rows: int) -> None:
        """Validate ids of so many rows; there is no table."""

    def freeze_row(self, row: int) -> None:
        """Let steps leave a row as it is; -1: none."""

    def be_strict(self, capacity: int) -> None:
        """
        End programs whose calls fail, and check the sums of weights of gradients, of which
        so many can wait.
        """

    def add_rule(self, rule: Rule, *, slot_starts: Sequence[float], advances: bool, ratio: float, growth: float, terms: int, unbounded: bool, horizon: int, slot_decay: Sequence[float], slot_names: str, kind: str, scale: float, gradient_scale: float, epsilon_factor: float, beta_1: float, beta_2: float, weight_decay: float, momentum_decay: float, divides_by_rate: bool, supports_lazy: bool) -> int:
        """
        Return the number of a rule, for steps: as `Table.set_rule` takes it, with the formula
        of a step's numbers, see native/step_formula.hpp.
        """

    def use_rule(self, rule: int) -> None:
        """Record that the table has this rule now."""

    def pop_changed_rule(self) -> int:
        """Return the rule that a step has set since the last call, or -1."""

    def step_params(self, rule: int, learning_rate: float, iteration: int) -> tuple[float, float, float, float, float]:
        """Return what `Rule.step_params` does, by the rule's formula."""

    @property
    def version(self) -> int:
        """The table's version, in the whole numbers of a float32."""

    @property
    def failed(self) -> bool:
        """Whether a call has failed, or `fail` was called."""

    def fail(self) -> None:
        """Let calls write zeros, as after a failure."""

    def pop_failures(self) -> list[tuple[str, str, float, int, str, list[int], bytes]]:
        """
        Return the failures and forget them: kind, text, rate, iteration, and the array of ids
        as the name of its dtype, its shape and its bytes.
        """

    def push(self, order: int, ids: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], gradients: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)]) -> tuple[int, float]:
        """
        Keep gradients (n, dim) of distinct rows ids (n,); return their place, and the last
        weight beside them alone, as they came.
        """

    def summed(self, weights: Annotated[NDArray[numpy.float32], dict(shape=(None,), order='C', device='cpu', writable=False)], dim: int) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None,))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))]]:
        """
        Return the gradients that wait, weighted by (size,): ids (m,), sums (m, dim).
        """

    @property
    def waiting(self) -> int:
        """How many gradients wait."""

    def hold(self, places: Sequence[int]) -> None:
        """Leave the gradients at these places waiting, after a step too."""

    def clear(self) -> None:
        """Drop all gradients that wait."""

def call_program(key: int, method: str, out: tuple[int, str, Sequence[int]], arguments: Sequence[tuple[int, str, Sequence[int]]], *, rule: int = -1, clip: float = -1.0, untrained: int = 0, raises: bool = False, keys: Sequence[int] = []) -> None:
    """
    Call a program's table as the program would: arrays are (address, dtype, shape).
    """

def xla_handlers() -> dict[str, Any]:
    """
    Return XLA's handlers of such calls, by method; none where the extension was built
    without XLA's header.
    """

PROGRAM_CAPACITY: int = 1023

PROGRAM_WHOLE: float = 1.152921504606847e+18

PROGRAM_TURNS: int = 3

class WriterTurn:
    """
    A writer's turn: while `with` it, others that want the lock wait.

    At its end the table's version rises, if values changed. Interrupted, it ends.
    """

    def __init__(self, table: object, lock: object, changes_values: bool = True) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *args: object) -> None: ...

class Wanted:
    """Words to keep, as bytes."""

    def __init__(self, words: Sequence[bytes]) -> None: ...

def rows_of_text(block: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], size: int, dim: int, separator: str, has_word: bool, last: bool, limit: int, wanted: Wanted | None) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None, None))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))], tuple[int, int, int], tuple[int, int, int, int]]:
    """
    Return the rows of text in the first `size` bytes of a block.

    As (spans, numbers, progress, fault): spans (rows, 3) are where a word begins and ends
    and its line, numbers are (rows, dim), progress is bytes consumed, lines read and lines
    that were not empty, fault is its kind, line, byte and value; see
    native/formats/vectors.hpp.
    """

def rows_of_text_float64(block: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], size: int, dim: int, separator: str, has_word: bool, last: bool, limit: int, wanted: Wanted | None) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None, None))], Annotated[NDArray[numpy.float64], dict(shape=(None, None))], tuple[int, int, int], tuple[int, int, int, int]]:
    """Return what `rows_of_text` does, with numbers in float64."""

def rows_of_binary(block: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], size: int, dim: int, limit: int) -> tuple[Annotated[NDArray[numpy.int64], dict(shape=(None, None))], Annotated[NDArray[numpy.float32], dict(shape=(None, None))], int]:
    """
    Return the rows of word2vec's binary format in the first `size` bytes of a block: spans
    (rows, 3), where a word begins and ends and where its row ends; numbers (rows, dim); and
    the bytes consumed.
    """

@overload
def text_of_rows(words: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], ends: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], numbers: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], separator: str, has_word: bool) -> bytes: ...

@overload
def text_of_rows(words: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], ends: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], numbers: Annotated[NDArray[numpy.float64], dict(shape=(None, None), order='C', device='cpu', writable=False)], separator: str, has_word: bool) -> bytes:
    """
    Return rows as text: word, numbers in the fewest digits that read back as the same, line
    break. Word i is words[ends[i - 1]:ends[i]].
    """

def subwords(word: bytes, min_length: int, max_length: int, buckets: int) -> list[int]:
    """
    Return which of the buckets hold fastText's character n-grams of a word.
    """

def mix_subwords(words: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu', writable=False)], ends: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], rows: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], buckets: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu', writable=False)], min_length: int, max_length: int, undo: bool) -> None:
    """
    Replace rows (n, dim) by the means of themselves and their n-grams' rows, or with `undo`
    by what they were before.
    """

def train_word2vec(*, input: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], output: Annotated[NDArray[numpy.float32], dict(shape=(None, None), order='C', device='cpu')], states: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order='C', device='cpu')], keep: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], accept: Annotated[NDArray[numpy.uint32], dict(shape=(None,), order='C', device='cpu', writable=False)], alias: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], ids: Annotated[NDArray[numpy.int32], dict(shape=(None,), order='C', device='cpu', writable=False)], ends: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu', writable=False)], begin: int, end: int, window: int, negative: int, cbow: bool, seed: int, words_done: int, lr: float, lr_slope: float, min_lr: float, single_thread: bool, sentences_done: Annotated[NDArray[numpy.int64], dict(shape=(None,), order='C', device='cpu')]) -> None:
    """
    Train word2vec on sentences begin..end of a text and add their number to
    sentences_done.

    input and output are (V, dim), states the bytes of (V,) row states; keep, accept and
    alias (V,) say how words are drawn, see native/word2vec/word2vec.hpp. Sentence s is
    ids[ends[s - 1]:ends[s]]; words_done counts the words of earlier passes.
    """
