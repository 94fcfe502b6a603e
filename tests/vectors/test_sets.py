"""Vectors in several files: a save that ends between two of them is never read as if it had not."""

import contextlib
import errno
import itertools
import json
import os
import resource

import numpy as np
import pytest

from helpers.killing import in_a_process_killed_at
from rowwise.errors import VectorsFileError
from rowwise.vectors import Vectors, load

# What is saved, and what the numbers stand in.
SETS = {
    "v.npy": "v.npy",
    "v.tsv": "v.tsv",
    "v.tsv.gz": "v.tsv.gz",
    "projector": "projector/vectors.tsv",
    "static": "static/model.safetensors",
}
OLD = Vectors(["tea", "cup", "pot"], np.arange(6, dtype=np.float32).reshape(3, 2))
NEW = Vectors(["sky", "sea", "tea"], np.arange(6, dtype=np.float32).reshape(3, 2) + 10)


@pytest.fixture(params=SETS)
def saved(request, folder_in_memory):
    """Give where a set is saved, how, and the file that names it."""
    name = request.param
    options = {"format": "projector"} if name == "projector" else {}
    return folder_in_memory / name, options, folder_in_memory / SETS[name]


def contents(path):
    vectors = load(path)
    return vectors.words, vectors.matrix.tolist()


OLD_CONTENTS, NEW_CONTENTS = ((v.words, v.matrix.tolist()) for v in (OLD, NEW))


def outcome_of_loading(path):
    """Return "old" or "new"; "refused" with the reason and the remedy. Anything else fails."""
    try:
        found = contents(path)
    except VectorsFileError as error:
        message = str(error)
    else:
        assert found in (OLD_CONTENTS, NEW_CONTENTS)
        return "old" if found == OLD_CONTENTS else "new"
    assert "a save was interrupted" in message
    assert "manifest.json" in message
    return "refused"


@pytest.mark.parametrize("has_manifest", [True, False], ids=["ours", "of another program"])
def test_killed_at_every_call_a_set_is_whole_or_refused(saved, has_manifest):
    path, options, numbers = saved
    outcomes = []
    for number in itertools.count():
        OLD.save(path, **options)
        if not has_manifest:
            numbers.with_name(numbers.name + ".manifest.json").unlink()
        lived = in_a_process_killed_at(number, lambda: NEW.save(path, **options))
        outcomes.append(outcome_of_loading(path))
        if lived:
            break
    assert [outcome for outcome, _ in itertools.groupby(outcomes)] == ["old", "refused", "new"]


def test_after_a_kill_the_set_can_be_saved_again(saved):
    path, options, _ = saved
    for number in itertools.count():
        OLD.save(path, **options)
        in_a_process_killed_at(number, lambda: NEW.save(path, **options))
        if outcome_of_loading(path) == "refused":
            break
    NEW.save(path, **options)
    assert contents(path) == NEW_CONTENTS


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_any_call_leaves_a_set_whole_or_refused(saved, call, monkeypatch):
    path, options, _ = saved
    original = getattr(os, call)
    for nth in itertools.count():
        OLD.save(path, **options)
        count = itertools.count()

        def full(*args, count=count, nth=nth):
            if next(count) == nth:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(*args)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with contextlib.suppress(OSError):
                NEW.save(path, **options)
        outcome = outcome_of_loading(path)
        assert nth > 0 or outcome == "old"  # the first call comes before any file is replaced
        if next(count) <= nth:
            assert outcome == "new"
            break


def test_a_file_that_may_not_be_so_long_leaves_the_old_set(saved):
    path, options, numbers = saved
    OLD.save(path, **options)
    files = sorted(os.listdir(numbers.parent))
    large = Vectors(
        [f"word{i}" for i in range(40_000)], np.random.default_rng(0).random((40_000, 8))
    )
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            large.save(path, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(path) == OLD_CONTENTS
    assert sorted(os.listdir(numbers.parent)) == files


def test_a_file_of_another_save_is_refused_whichever_it_is(saved):
    path, options, numbers = saved
    OLD.save(path, **options)
    folder = numbers.parent
    old = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
    NEW.save(path, **options)
    changed = 0
    for name, content in old.items():
        new = (folder / name).read_bytes()
        if new == content:
            continue
        (folder / name).write_bytes(content)
        assert outcome_of_loading(path) == "refused"
        (folder / name).write_bytes(new)
        changed += 1
    assert changed >= 3  # numbers, words and manifest
    assert outcome_of_loading(path) == "new"


def test_a_missing_file_is_refused(saved):
    path, options, numbers = saved
    OLD.save(path, **options)
    manifest = numbers.with_name(numbers.name + ".manifest.json")
    for name in json.loads(manifest.read_text())["files"]:
        if name != numbers.name:
            (numbers.parent / name).unlink()
            with pytest.raises(VectorsFileError, match=r"no such file|no words"):
                load(path)
            OLD.save(path, **options)


def test_sets_of_other_programs_load_without_a_manifest(saved):
    path, options, numbers = saved
    OLD.save(path, **options)
    numbers.with_name(numbers.name + ".manifest.json").unlink()
    assert contents(path) == OLD_CONTENTS


def test_a_set_saved_anew_while_it_is_read_is_refused(saved, monkeypatch):
    path, options, _ = saved
    from rowwise.vectors import _collector

    OLD.save(path, **options)
    original = _collector.Collector.add

    def add(self, *args, **more):
        NEW.save(path, **options)
        return original(self, *args, **more)

    monkeypatch.setattr(_collector.Collector, "add", add)
    with pytest.raises(VectorsFileError, match=r"saved anew|interrupted"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{}", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"format": "x", "files": {}}',
        *(b'{"format": "rowwise vectors manifest 1", "files": ' + files + b"}" for files in (
            b"3", b'{"../x": {}}', b'{"..": {}}', b'{"/etc/passwd": {}}', b'{"v.npy": 3}',
        )),
    ],
)  # fmt: skip
def test_a_damaged_manifest_is_an_error_that_says_so(tmp_path, content):
    OLD.save(tmp_path / "v.npy")
    (tmp_path / "v.npy.manifest.json").write_bytes(content)
    with pytest.raises(VectorsFileError, match="manifest"):
        load(tmp_path / "v.npy")


def test_other_programs_read_the_files_of_a_set(tmp_path):
    OLD.save(tmp_path / "v.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "v.npy"), OLD.matrix)
    assert (tmp_path / "v.words.txt").read_text().splitlines() == OLD.words
    OLD.save(tmp_path / "p", format="projector")
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "p" / "vectors.tsv"), OLD.matrix)
    assert (tmp_path / "p" / "metadata.tsv").read_text().splitlines() == OLD.words
    from safetensors.numpy import load_file

    OLD.save(tmp_path / "s")
    tensors = load_file(tmp_path / "s" / "model.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"][:3], OLD.matrix)


def test_a_folder_in_the_place_of_a_file_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "v.words.txt").mkdir()
    with pytest.raises(IsADirectoryError, match=r"v\.words\.txt"):
        OLD.save(tmp_path / "v.npy")
    for name in ("v.txt", "v.safetensors", "v.npz", "v.bin"):
        (tmp_path / name).mkdir()
        with pytest.raises(IsADirectoryError, match="is a folder"):
            OLD.save(tmp_path / name)
    assert all(path.is_dir() for path in tmp_path.iterdir())
