"""The table file: what it keeps, and what it promises. docs/file-format.md says both in words."""

import contextlib
import copy
import errno
import itertools
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest

import rowwise
from helpers.killing import SAVING, in_a_process_killed_at
from helpers.rules import every_family
from rowwise.files import _atomic
from rowwise.files import _container as container
from rowwise.files._atomic import replacing
from rowwise.files._container import Container, DamagedFileError

ROWS, DIM = 40, 3


def train(table, first, last, seed=0):
    """Steps first..last of a training whose batches leave most rows alone for long."""
    for step in range(first, last):
        rng = np.random.default_rng((seed, step))
        ids = rng.integers(0, table.rows, 2)
        table.update(ids, rng.standard_normal((2, table.dim)), 0.01 * (1 + step % 5))
    return table


def small(steps=7, rule="adam"):
    return train(rowwise.Table(6, 2, rule, seed=0), 0, steps)


def contents(table):
    """Everything, bit for bit as it lies in memory."""
    state = table.state()
    arrays = [state.weights, *state.slots, state.row_states, *state.step_history]
    return [array.tobytes() for array in arrays], state.steps, state.rule


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.safetensors"


# ---------------------------------------------------------------------- what it keeps


@every_family
@pytest.mark.filterwarnings("ignore:.*every step visits every row")
def test_a_table_goes_on_to_the_same_bits(rule, path):
    never_saved = train(rowwise.Table(ROWS, DIM, rule, seed=0), 0, 300)
    saved = rowwise.Table(ROWS, DIM, rule, seed=0)
    opened = []
    for step in (0, 1, 200):
        train(saved, saved.steps, step)
        saved.save(path)
        opened += [rowwise.Table.load(path), rowwise.Table.load(path, mmap=True)]
    expected = contents(never_saved)
    for table in (saved, *opened):
        assert contents(train(table, table.steps, 300)) == expected


def test_its_vocabulary_is_in_the_file(path):
    table = small()
    vocabulary = rowwise.Vocabulary(["tea", "\ud800", ""], mask_token=None, oov_token="?")
    table.vocabulary = vocabulary
    table.save(path)
    assert rowwise.Table.load(path).vocabulary == vocabulary
    assert rowwise.Table.load(path, mmap=True).vocabulary == vocabulary
    table.grow(8)
    assert table.vocabulary == vocabulary
    table.remap([1, 0])
    assert table.vocabulary is None
    with pytest.raises(ValueError, match=r"4 tokens and the table 2 rows; grow\(4\)"):
        table.vocabulary = vocabulary


def test_safetensors_opens_it(path):
    safetensors = pytest.importorskip("safetensors")
    table = small()
    table.save(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["table"])["steps"] == 7
        np.testing.assert_array_equal(file.get_tensor("weights"), table.store.memory())
        np.testing.assert_array_equal(
            file.get_tensor("slot.velocity"), table.store.memory("velocity")
        )
        assert (
            file.get_tensor("states")[:, 0].tolist()
            == table.state().row_states["last_step"].tolist()
        )


# ---------------------------------------------------------------------- larger than memory


def test_a_mapped_table_leaves_the_file_alone_and_reads_what_it_needs(path):
    table = rowwise.Table(400_000, 64, seed=0)  # 100 MB
    table.save(path)
    before = path.stat().st_mtime_ns
    expected = table.lookup([7, 399_999])
    del table
    code = f"""
import numpy as np, re, rowwise
table = rowwise.Table.load({str(path)!r}, mmap=True)
np.save({str(path) + ".npy"!r}, table.lookup([7, 399_999]))
table.rule = "sgd"
table.update([7], np.ones((1, 64)))
maps = open("/proc/self/smaps").read().split("{path.name}")[1:]
print(sum(int(re.search(r"Rss: +(\\d+) kB", part)[1]) for part in maps))
"""
    kilobytes = int(subprocess.check_output([sys.executable, "-c", code]))
    assert kilobytes < 10_000  # of the file's 100,000
    np.testing.assert_array_equal(np.load(f"{path}.npy"), expected)
    assert path.stat().st_mtime_ns == before
    assert rowwise.Table.load(path).rule is None


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA leaves mapped files out there")
def test_a_table_larger_than_memory_is_trained_on_a_disk(tmp_path, path):
    code = f"""
import resource, numpy as np, rowwise
from rowwise.store._memory import available_bytes
small = rowwise.Table(1000, 64, "adam", seed=0)
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (40 << 20),) * 2)
try:
    rowwise.Table(200_000, 64, "adam", seed=0)
except MemoryError:
    print("too large for memory")
table = rowwise.Table(200_000, 64, "adam", seed=0, scratch={str(tmp_path)!r})
table.update([5, 7], np.ones((2, 64)))
table.save({str(path)!r})
table = rowwise.Table.load({str(path)!r}, scratch={str(tmp_path)!r})
table.update([5, 9], np.ones((2, 64)))
print(table.lookup([5, 7])[:, 0].tolist())
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    table = rowwise.Table(200_000, 64, "adam", seed=0)
    table.update([5, 7], np.ones((2, 64)))
    table.update([5, 9], np.ones((2, 64)))
    assert said == ["too large for memory", str(table.lookup([5, 7])[:, 0].tolist())]
    assert os.listdir(tmp_path) == [path.name]


def test_scratch_has_its_room_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")
    table = rowwise.Table(3000, 16, "adam", init="zeros", scratch=tmp_path)
    table.update([2999], np.ones((1, 16)), learning_rate=1.0)
    assert np.allclose(table.lookup([0, 2999])[:, 0], [0, -1], atol=1e-6)
    with pytest.raises(OSError, match="bytes of scratch do not fit"):
        rowwise.Table(10**9, 10**6, scratch=tmp_path)


def test_scratch_that_does_not_fit_is_said_before_anything_is_made(tmp_path):
    with pytest.raises(OSError, match=r"4,000,000,000,000,000 bytes of scratch do not fit"):
        rowwise.Table(10**9, 10**6, scratch=tmp_path)
    small().save(tmp_path / "t")
    with pytest.raises(ValueError, match="mmap=True leaves the rows in the file"):
        rowwise.Table.load(tmp_path / "t", mmap=True, scratch=tmp_path)


def test_a_reader_keeps_the_table_it_opened(path):
    old, new = small(3), small(9)
    old.save(path)
    reader = rowwise.Table.load(path, mmap=True)
    new.save(path)
    np.testing.assert_array_equal(reader.to_numpy(), old.to_numpy())
    np.testing.assert_array_equal(rowwise.Table.load(path).to_numpy(), new.to_numpy())


MAPPED_USES = {
    "lookup": lambda table: table.lookup([5]),
    "pool": lambda table: table.pool([[5]], combiner="max"),
    "slot": lambda table: table.slot("velocity"),
    "update": lambda table: table.update([5], np.ones((1, 2))),
    "materialize": lambda table: table.materialize(),
    "update_counts": lambda table: table.update_counts,
    "last_update": lambda table: table.last_update,
    "is_trained": lambda table: table.is_trained([5]),
    "mark_trained": lambda table: table.mark_trained(),
    "grow": lambda table: table.grow(9),
    "copy": copy.copy,
    "save": lambda table: table.save("elsewhere"),
}


@pytest.mark.parametrize("use", MAPPED_USES.values(), ids=MAPPED_USES)
def test_a_file_cut_while_it_is_mapped_is_an_error(use, path, monkeypatch):
    monkeypatch.chdir(path.parent)
    small().save(path)
    table = rowwise.Table.load(path, mmap=True)
    os.truncate(path, 10)
    with pytest.raises(DamagedFileError, match=r"has 10 now; .* rename"):
        use(table)
    assert os.listdir() == [path.name]


# ---------------------------------------------------------------------- whole or not at all


@pytest.mark.parametrize("there_was_one", [True, False])
def test_killed_at_every_call_it_is_the_old_table_or_the_new_one(
    there_was_one, folder_in_memory, monkeypatch
):
    path = folder_in_memory / "table.safetensors"
    monkeypatch.setattr(container, "_AT_ONCE", 16)  # many writes
    old, new = small(3), small(9)
    seen = set()
    for number in itertools.count():
        path.unlink(missing_ok=True)
        if there_was_one:
            old.save(path)
        lived = in_a_process_killed_at(number, lambda: new.save(path))
        found = contents(rowwise.Table.load(path)) if path.exists() else None
        assert found in (contents(new), contents(old) if there_was_one else None)
        seen.add(found == contents(new))
        if lived:
            assert found == contents(new)
            break
    assert number > 20
    assert seen == {True, False}


def test_killed_at_any_time_it_is_one_of_the_tables_saved(path):
    """Kill a process that saves all the time, at moments nobody chose."""
    code = f"""
import numpy as np, rowwise
table = rowwise.Table(20_000, 8, "adam", init="zeros")
while True:
    table.update(np.arange(20_000), np.ones((20_000, 8)))
    table.save({str(path)!r})
    print(flush=True)
"""
    for moment in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        for _ in range(1 + 3 * moment):
            process.stdout.readline()
        process.kill()
        process.communicate()
        table = rowwise.Table.load(path)
        twin = rowwise.Table(1, 8, "adam", init="zeros")
        for _ in range(table.steps):
            twin.update([0], np.ones((1, 8)))
        assert (table.to_numpy() == twin.to_numpy()).all()


def test_data_is_on_the_disk_before_the_name_changes_and_the_name_before_it_returns(
    path, monkeypatch
):
    calls = []
    for name in SAVING:
        original = getattr(os, name)

        def noted(*args, name=name, original=original):
            calls.append((name, os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else ""))
            return original(*args)

        monkeypatch.setattr(os, name, noted)
    small().save(path)
    names = [name for name, _ in calls]
    assert names[-3:] == ["fsync", "replace", "fsync"]
    assert "fsync" not in names[:-3]
    assert calls[-3][1].startswith(str(path.parent / f".{path.name}."))
    assert calls[-1][1] == str(path.parent)


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
@pytest.mark.parametrize("nth", [0, 5, 11])
def test_a_full_disk_leaves_the_old_table_and_nothing_else(call, nth, path, monkeypatch):
    old, new = small(3), small(9)
    old.save(path)
    expected, count, original = contents(new), itertools.count(), getattr(os, call)

    def full(*args):
        if next(count) >= nth * (call == "write"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(*args)

    monkeypatch.setattr(os, call, full)
    monkeypatch.setattr(container, "_AT_ONCE", 16)
    with pytest.raises(OSError, match="No space left"):
        new.save(path)
    monkeypatch.undo()
    assert contents(rowwise.Table.load(path)) == contents(old)
    assert os.listdir(path.parent) == [path.name]
    assert contents(new) == expected


def test_a_file_that_may_not_be_so_long_is_an_error(path):
    small().save(path)
    before = path.read_bytes()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4200, 4200))
        try:
            small(9).save(path)
        except OSError as error:
            os._exit(0 if error.errno == errno.EFBIG else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_may_not_be_written_is_an_error():
    folder = Path(tempfile.mkdtemp())  # pytest's own may be entered by one user alone
    path = folder / "table"
    small(3).save(path)
    before = path.read_bytes()
    os.chmod(folder, 0o555)
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setuid(65534)  # what is forbidden does not bind root
        try:
            small(9).save(path)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert path.read_bytes() == before
    assert os.listdir(folder) == [path.name]
    shutil.rmtree(folder)


# ---------------------------------------------------------------------- damaged and hostile files

LOADS = {"read": {}, "mapped": {"mmap": True}}
every_way = pytest.mark.parametrize("how", LOADS.values(), ids=LOADS)


@every_way
def test_cut_short_anywhere_it_is_a_damaged_file(how, path):
    small().save(path)
    whole = path.read_bytes()
    for end in range(len(whole)):
        os.truncate(path, len(whole) - 1 - end)
        with pytest.raises(DamagedFileError, match=r"table\.safetensors"):
            rowwise.Table.load(path, **how)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedFileError, match="its arrays end at"):
        rowwise.Table.load(path, **how)


@every_way
def test_any_byte_changed_in_the_header_is_noticed(how, path):
    small().save(path)
    whole = path.read_bytes()
    for position in range(8 + int.from_bytes(whole[:8], "little")):
        for flip in (1, 0x20, 0x80):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError):
                rowwise.Table.load(path, **how)


def test_any_byte_changed_in_the_data_is_noticed(path):
    table = small()
    table.vocabulary = rowwise.Vocabulary(["tea"])
    table.save(path)
    whole = path.read_bytes()
    for position in range(8 + int.from_bytes(whole[:8], "little"), len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError, match="checksum"):
            rowwise.Table.load(path)


def hostile(path, about=(), **arrays):
    """Writes a file with right checksums, and other contents than a table would have."""
    small().save(path)
    with Container(path) as file:
        own = {name: file.read(name) for name in file.entries} | arrays
        own = {name: array for name, array in own.items() if array is not None}
        told = json.loads(file.about["table"]) | dict(about)
        container.write(path, own, {"format": "rowwise table 1", "table": json.dumps(told)})


U, F, D = np.uint32, np.float32, np.float64
HOSTILE = {
    "stamps of the future": {"states": np.full((6, 4), 2**32 - 1, U)},
    "no weights": {"weights": None},
    "no rows": {"weights": np.empty((0, 2), F)},
    "a vector of weights": {"weights": np.ones(12, F)},
    "weights in float64": {"weights": np.ones((6, 2), D)},
    "a slot of another shape": {"slot.velocity": np.ones((6, 3), F)},
    "a slot that is missing": {"slot.velocity": None},
    "states of fewer rows": {"states": np.ones((5, 4), U)},
    "a clock of other width": {"clock": np.ones((7, 4))},
    "a clock of NaN": {"clock": np.full((7, 3), np.nan)},
    "a clock of zeros": {"clock": np.zeros((7, 3))},
    "too long a clock": {"clock": np.ones((70_000, 3))},
    "a clock that is too young": {"clock": np.ones((2, 3))},
    "coefficients too many": {"clock.closed": np.ones(9)},
    "a vocabulary of nothing": {"vocabulary": np.empty(0, np.uint8)},
    "a vocabulary of garbage": {"vocabulary": np.arange(99, dtype=np.uint8)},
    "an unknown rule": {"about": {"rule": {"name": "magic"}}},
    "a rule that is a list": {"about": {"rule": [1]}},
    "a hyperparameter that is text": {"about": {"rule": {"name": "adam", "beta_1": "x"}}},
    "a hyperparameter nobody knows": {"about": {"rule": {"name": "adam", "x": 1}}},
    "another rule": {"about": {"rule": {"name": "ftrl"}}},
    "steps below zero": {"about": {"steps": -1}},
    "steps beyond counting": {"about": {"steps": 10**400}},
    "a rate that is none": {"about": {"learning_rate": "fast"}},
    "a rate below zero": {"about": {"learning_rate": -1}},
}


# What cannot be seen without reading all rows, or is a number like any other: it does no harm.
HARMLESS = {
    *itertools.product(("stamps of the future", "a clock that is too young"), ["mapped"]),
    *itertools.product(("a clock of NaN", "a clock of zeros"), LOADS),
}


@pytest.mark.parametrize("how", LOADS)
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_file_is_an_error_or_a_table_that_works(what, how, path):
    hostile(path, **HOSTILE[what])
    if (what, how) not in HARMLESS:
        with pytest.raises(DamagedFileError, match=r"table\.safetensors"):
            rowwise.Table.load(path, **LOADS[how])
        return
    table = rowwise.Table.load(path, **LOADS[how])
    assert table.lookup(np.arange(6)).shape == (6, 2)
    table.update([0, 5], np.ones((2, 2)))
    table.materialize()
    with contextlib.suppress(ValueError):  # what cannot be opened again is not written
        table.save(path)
        rowwise.Table.load(path)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{}",
        b"nonsense",
        b"[" * 100_000,
        b'{"__metadata__": 3}',
        b'{"__metadata__": {"crc32": 5}}',
        b'{"__metadata__": {"crc32": "00000000"}, "weights": []}',
        b'{"__metadata__": {"crc32": "SUM"}, "weights": []}',
        b'{"__metadata__": {"crc32": "SUM", "crc32 of w": "xyz"}, "w": {}}',
        b'{"__metadata__": {"crc32": "SUM", "crc32 of w": "0"}, "w": {"dtype": "F32"}}',
        b'{"__metadata__": {"crc32": "SUM", "crc32 of w": "0"}, "w": {"dtype": "F32", '
        b'"shape": [1000000000000, 64], "data_offsets": [0, 256000000000000]}}',
        b'{"__metadata__": {"crc32": "SUM", "crc32 of w": "0"}, "w": {"dtype": "F32", '
        b'"shape": [-1, -1], "data_offsets": [0, 4]}}',
        b'{"__metadata__": {"crc32": "SUM", "crc32 of w": "0"}, "w": {"dtype": "F32", '
        b'"shape": [true], "data_offsets": [0, 4]}}',
    ],
    ids=range(14),
)
@every_way
def test_a_header_of_somebody_elses_making_is_a_damaged_file(header, how, path):
    start = len(header).to_bytes(8, "little")
    own = zlib.crc32(start + header.replace(b"SUM", b"00000000"))
    path.write_bytes(start + header.replace(b"SUM", b"%08x" % own) + b"abcd")
    with pytest.raises(DamagedFileError):
        rowwise.Table.load(path, **how)


def test_a_file_written_by_version_0_1_0_opens_and_trains_on():
    """The file holds five AdamW steps of batches of 4 among rows 0..5, and row 8 marked."""
    data = Path(__file__).parent / "data"
    table = rowwise.Table.load(data / "format-1.safetensors")
    assert (table.shape, table.steps, table.rule) == ((9, 4), 5, rowwise.rules.AdamW(0.01))
    np.testing.assert_array_equal(table.to_numpy(), np.load(data / "format-1.npy"))
    assert table.untrained().tolist() == [6, 7]
    assert table.vocabulary.encode_batch(["nice to see you"])[0].tolist() == [2, 3, 4, 5]
    table.update([8], np.ones((1, 4)))
    assert table.update_counts[8] == 1


# ---------------------------------------------------------------------- manners of a save


def test_a_save_removes_what_killed_saves_left_and_nothing_else(path):
    (path.parent / f".{path.name}.mine").write_text("not ours")
    for number in range(3):
        in_a_process_killed_at(number, lambda: small().save(path))
    assert len(list(path.parent.iterdir())) > 1
    small().save(path)
    assert {p.name for p in path.parent.iterdir()} == {path.name, f".{path.name}.mine"}


def test_a_save_leaves_another_save_that_is_under_way_alone(path):
    with replacing(path) as temporary:
        small().save(path)
        Path(temporary).write_text("the later one")
    assert path.read_text() == "the later one"


def test_without_file_locks_a_save_renames_a_file_that_is_closed(path, monkeypatch):
    monkeypatch.setattr(_atomic, "fcntl", None)  # as on Windows, where no open file is renamed
    open_files = Path("/proc/self/fd")
    rename = os.replace

    def rename_if_closed(source, target):
        names = [os.path.realpath(link) for link in open_files.iterdir()]
        assert os.path.realpath(source) not in names
        rename(source, target)

    monkeypatch.setattr(os, "replace", rename_if_closed)
    small().save(path)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert np.array_equal(rowwise.Table.load(path), small())


def test_tables_are_written_as_binary_files(path, monkeypatch):
    binary, asked, real = 1 << 30, [], os.open  # Windows has a flag for it
    monkeypatch.setattr(_atomic, "_BINARY", binary)

    def open_file(name, flags, *rest):
        asked.append(bool(flags & binary))
        return real(name, flags & ~binary, *rest)

    monkeypatch.setattr(os, "open", open_file)
    small().save(path)
    assert any(asked)
    assert np.array_equal(rowwise.Table.load(path), small())


@pytest.mark.parametrize("mode", [0o600, 0o444, 0o664])
def test_a_file_keeps_its_permissions(mode, path):
    small().save(path)
    path.chmod(mode)
    small().save(path)
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_that_the_process_gives(path):
    plain = path.with_name("plain")
    plain.touch()
    small().save(path)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_link_stays_and_the_file_that_it_names_is_replaced(path):
    link = path.with_name("link")
    small(steps=1).save(path)
    link.symlink_to(path.name)
    small(steps=2).save(link)
    assert link.is_symlink()
    assert rowwise.Table.load(path).steps == 2


def test_what_is_no_file_is_refused_before_anything_is_written(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for target, kind in ((tmp_path, "a folder"), (tmp_path / "pipe", "a pipe")):
        with pytest.raises(OSError, match=kind):
            small().save(target)
    with pytest.raises(OSError, match="a device"):
        small().save("/dev/full")
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_a_save_beside_an_updating_thread_is_of_one_moment(path):
    table = rowwise.Table(500, 8, "sgd", init="zeros")
    ids, done = np.arange(500), threading.Event()

    def train():
        while not done.is_set():
            table.update(ids, np.ones((500, 8)))

    thread = threading.Thread(target=train)
    thread.start()
    try:
        for _ in range(40):
            table.save(path)
            for one in (rowwise.Table.load(path), copy.deepcopy(table)):
                assert len(set(one.update_counts.tolist()) | {one.steps}) == 1
                assert (one.to_numpy() == one.to_numpy()[0, 0]).all()
    finally:
        done.set()
        thread.join()


def test_a_child_cannot_train_its_parents_scratch_table(tmp_path):
    table = rowwise.Table(10, 2, "sgd", init="zeros", scratch=tmp_path)
    child = os.fork()
    if child == 0:
        try:
            table.update([1], np.ones((1, 2)))
        except RuntimeError as error:
            os._exit(7 if "shared with the process" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert not table.to_numpy().any()


@pytest.mark.parametrize(
    ("about", "says"),
    [
        ({"num_oov_indices": 10**9}, "above"),
        ({"words": ["a"] * 3}, "occurs twice"),
    ],
)
def test_a_small_file_cannot_ask_for_much(about, says, path):
    table = small()
    table.vocabulary = rowwise.Vocabulary(["tea"], oov_token="?")
    fields = json.loads(table.vocabulary.to_json()) | about
    words = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    table.save(path)
    with container.Container(path) as file:
        arrays = {name: file.read(name) for name in file.entries} | {"vocabulary": words}
        told = file.about
    container.write(path, arrays, {name: told[name] for name in ("format", "table")})
    with pytest.raises(rowwise.errors.DamagedFileError, match=says):
        rowwise.Table.load(path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs RLIMIT_DATA")
def test_memory_that_runs_out_is_an_error_that_names_the_file(path):
    text = b'{"__metadata__": {}, "a": [' + b"1.5," * 5_000_000 + b"0]}"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    code = f"""
import resource, rowwise
used = int(next(l for l in open("/proc/self/status") if l.startswith("VmData")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (60 << 20),) * 2)
try:
    rowwise.Table.load({str(path)!r})
except MemoryError as error:
    print(error)
"""
    said = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert said == f"there is not enough memory to open {str(path)!r}\n"
