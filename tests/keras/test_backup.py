"""A training that is killed goes on to the bits of one that was not."""

import itertools
import json
import os
import random
import signal

import keras
import numpy as np
import pytest
from side_by_side import only_torch

import rowwise
import rowwise.keras
from helpers.killing import in_a_process_killed_at
from rowwise.keras import BackupAndRestore, Embedding, EmbedReduce

ROWS, EPOCHS = 300, 4
TABLES = (".table-0.safetensors", ".table-1.safetensors")


def model_of(optimizer="adam", rows=ROWS):
    keras.utils.set_random_seed(7)
    ids = keras.Input((4,), dtype="int32")
    pooled = EmbedReduce(rows, 5, combiner="mean")(ids)
    flat = keras.layers.Flatten()(Embedding(rows, 3)(ids))
    both = keras.layers.Dropout(0.3)(keras.layers.Concatenate()([pooled, flat]))
    model = keras.Model(ids, keras.layers.Dense(1)(both))
    model.compile(optimizer, "mse")
    return model


def fit(model, *callbacks):
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, ROWS, (60, 4)), rng.standard_normal((60, 1))
    model.fit(
        ids, targets, epochs=EPOCHS, batch_size=4, shuffle=True, verbose=0, callbacks=callbacks
    )
    return model


def contents(model):
    """Return the bytes of variables and tables, and the random numbers that come next."""
    tables = [layer.table.state() for layer in model.layers if hasattr(layer, "table")]
    arrays = [v.numpy().tobytes() for v in (*model.variables, *model.optimizer.variables)]
    arrays += [
        array.tobytes() for state in tables for array in (state.row_states, *state.step_history)
    ]
    return arrays, [state.steps for state in tables], random.random(), np.random.random()


OPTIMIZERS = {
    "adam": lambda: "adam",
    "nadam": lambda: "nadam",
    "momentum, clipped": lambda: keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.5),
    "adamw, several batches": lambda: keras.optimizers.AdamW(gradient_accumulation_steps=4),
    "dense": keras.optimizers.Lamb,
}


@only_torch  # JAX and TensorFlow do not outlive a fork
@pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.filterwarnings("ignore:.*visits all")
def test_a_training_killed_while_it_saves_goes_on_to_the_same_bits(optimizer, folder_in_memory):
    uninterrupted = contents(fit(model_of(optimizer())))
    # Each process dies a few calls later than the one before, and all of them in the same folder.
    for number in itertools.count(step=9):
        backup = BackupAndRestore(folder_in_memory / "backup", delete_checkpoint=False)
        if in_a_process_killed_at(number, lambda b=backup: fit(model_of(optimizer()), b)):
            break
    assert number > 0
    model = fit(model_of(optimizer()), BackupAndRestore(folder_in_memory / "backup"))
    assert contents(model) == uninterrupted
    assert not (folder_in_memory / "backup").exists()


@only_torch
def test_a_training_killed_at_any_time_goes_on_to_the_same_bits(folder_in_memory):
    uninterrupted = contents(fit(model_of()))
    killed = 0
    for moment in range(40):
        child = os.fork()
        if child == 0:
            # Dies after so much processor time, however busy the machine is.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, 0.05 + 0.013 * moment)
            fit(model_of(), BackupAndRestore(folder_in_memory / "backup", delete_checkpoint=False))
            os._exit(0)
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        killed += 1
    assert killed
    assert contents(fit(model_of(), BackupAndRestore(folder_in_memory / "backup"))) == uninterrupted


def test_epochs_that_were_made_are_not_made_again(tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            epochs.append(epoch)
            if len(epochs) == 3:
                raise RuntimeError("broken off")

    epochs = []
    with pytest.raises(RuntimeError, match="broken off"):
        fit(model_of(), BackupAndRestore(tmp_path), Stop())
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "rowwise-backup-2.safetensors",
        "rowwise-backup-2.table-0.safetensors",
        "rowwise-backup-2.table-1.safetensors",
        "rowwise-backup.json",
    ]
    fit(model_of(), BackupAndRestore(tmp_path), Stop())
    assert epochs == [0, 1, 2, 2, 3]


def interrupted(folder):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise RuntimeError("broken off")

    with pytest.raises(RuntimeError, match="broken off"):
        fit(model_of(), BackupAndRestore(folder), Stop())


@pytest.mark.parametrize(
    "other", [{"optimizer": "sgd"}, {"rows": ROWS + 1}, {"optimizer": "nadam"}]
)
def test_a_checkpoint_of_another_training_is_refused_and_nothing_changes(other, tmp_path):
    interrupted(tmp_path)
    model = model_of(**other)
    before = model.get_weights()
    with pytest.raises(ValueError, match="is of another training: its "):
        fit(model, BackupAndRestore(tmp_path))
    for mine, was in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(mine, was)


def test_a_damaged_checkpoint_is_an_error(tmp_path):
    interrupted(tmp_path)
    latest = json.loads((tmp_path / "rowwise-backup.json").read_text())
    os.truncate(tmp_path / latest["tables"][0], 5000)
    with pytest.raises(rowwise.errors.DamagedFileError):
        fit(model_of(), BackupAndRestore(tmp_path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"state": "rowwise-backup-1.safetensors", "tables": [], "epoch": "1"}',
        b'{"state": "../rowwise-backup-1.safetensors", "tables": [], "epoch": 1}',
        b'{"state": "rowwise-backup-1.safetensors", "tables": [7], "epoch": 1}',
    ],
)
def test_a_damaged_list_of_the_checkpoint_is_an_error(content, tmp_path):
    (tmp_path / "rowwise-backup.json").write_bytes(content)
    with pytest.raises(rowwise.errors.DamagedFileError, match=r"rowwise-backup\.json"):
        fit(model_of(), BackupAndRestore(tmp_path))


@pytest.mark.parametrize("delete", [True, False])
def test_what_others_keep_in_the_folder_stays(delete, tmp_path):
    others = ["notes.txt", "epoch-1.safetensors", "latest.json", "rowwise-backup-1.keras"]
    for name in others:
        (tmp_path / name).write_text("of somebody else")
    for name in ("logs", "rowwise-backup-9.safetensors"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in it").touch()
    before = {path: path.is_dir() or path.read_bytes() for path in tmp_path.rglob("*")}
    fit(model_of(), BackupAndRestore(tmp_path, delete_checkpoint=delete))
    for path, content in before.items():
        assert content == (path.is_dir() or path.read_bytes())
    ours = {path.name for path in tmp_path.rglob("*") if path not in before}
    numbered = {f"rowwise-backup-4{end}" for end in (".safetensors", *TABLES)}
    assert ours == (set() if delete else {"rowwise-backup.json", *numbered})


def test_a_model_is_built_before_or_an_error_says_so(tmp_path):
    layers = [Embedding(5, 2), keras.layers.Flatten(), keras.layers.Dense(1)]
    model = keras.Sequential(layers)
    model.compile("adam", "mse")
    fit = {"verbose": 0, "callbacks": [BackupAndRestore(tmp_path)]}
    if keras.backend.backend() == "tensorflow":  # which learns shapes from the first batch
        with pytest.raises(ValueError, match=r"begin the model with keras\.Input"):
            model.fit(np.zeros((2, 3), int), np.zeros((2, 1)), **fit)
        model.build((None, 3))
    model.fit(np.zeros((2, 3), int), np.zeros((2, 1)), **fit)
    assert model.layers[0].table.steps == 1
