"""The examples run, on texts made here, and say what they are for."""

import re
import runpy
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def output(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def output_here(monkeypatch, capsys):
    """Run an example in this process, which has its imports, and return what it prints."""

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


def test_the_explaining_classifier_learns_cases_without_training(tmp_path, output_here):
    pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    kinds = {
        "fruit": ["apple", "pear", "plum", "melon"],
        "tools": ["saw", "drill", "hammer", "axe"],
    }
    for name, words in kinds.items():
        other = kinds["tools" if name == "fruit" else "fruit"]
        lines = []
        for _ in range(300):  # a tenth is in the wrong file: some mistakes must be made
            some = rng.choice(other if rng.random() < 0.1 else words, 3)
            lines.append(" ".join([*some, f"word{rng.integers(40)}"]))
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines))
    files = (tmp_path / "fruit.txt", tmp_path / "tools.txt")
    told = output_here("explaining_classifier.py", *files, "--epochs", 20, "--dim", 8)
    plain, cases = map(float, re.findall(r"(?:classifier|cases): +accuracy ([\d.]+)", told))
    assert plain > 0.8
    assert cases > 0.8
    assert re.search(r"  (fruit|tools) \(\d+% of the vote\), because of\n    [\d.]+ ", told)
    assert re.search(r"[1-9]\d* mistakes learned as cases", told)


def test_a_case_is_learned_without_training():
    keras = pytest.importorskip("keras")
    example = runpy.run_path(str(EXAMPLES / "explaining_classifier.py"))
    plane = {"a": [1, 0], "b": [0.9, 0.1], "c": [-1, 0], "d": [-0.9, 0.1], "new": [-0.8, 0.6]}
    model = keras.Sequential([keras.Input((2,)), keras.layers.UnitNormalization()])
    cases = example["Cases"](lambda texts: np.array([plane[text] for text in texts]), model)
    cases.add("abcd", [0, 0, 1, 1])
    ((label, share, reasons),) = cases.judge(["new"])
    assert (label, [text for _, _, text in reasons[:2]]) == (1, ["d", "c"])
    assert share > 0.99
    cases.add(["new"], [2])
    ((label, _, reasons),) = cases.judge(["new"])
    assert (label, reasons[0][1:]) == (2, (2, "new"))
    assert reasons[0][0] == pytest.approx(1)


def test_a_vocabulary_grows_day_after_day(output_here, monkeypatch):
    pytest.importorskip("keras")
    rng = np.random.default_rng(0)
    texts = []
    for length in range(4, 44):  # longer texts come later, and have words that came before, too
        for label in range(11):
            words = [f"label{label}word{rng.integers(length)}" for _ in range(length // 2)]
            common = [f"word{rng.integers(40)}" for _ in range(length - length // 2)]
            texts.append((" ".join(rng.permutation([*words, *common])), f"label {label}"))
    made = types.ModuleType("python_docs")
    made.documents = lambda: texts
    monkeypatch.setitem(sys.modules, "python_docs", made)
    first, second = output_here("day_after_day.py", 2).splitlines()[1:3]
    assert first.split()[-1] == "-"
    assert float(second.split()[-1].rstrip("%")) > 25  # one label in eleven by chance
    assert int(second.split()[3]) > int(first.split()[3])  # rows


def test_rows_trained_without_labels_help_a_classifier_with_few(tmp_path):
    pytest.importorskip("rowwise.sklearn")
    rng = np.random.default_rng(0)
    for name in ("fruit", "tools"):  # words whose letters say nothing of their kind
        words = ["".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], 7)) for _ in range(200)]
        lines = [" ".join(rng.choice(words, 6)) for _ in range(800)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines))
    files = (tmp_path / "fruit.txt", tmp_path / "tools.txt")
    told = output(EXAMPLES / "few_labels.py", *files, "--labels", 12, "--seeds", 1)
    random, started = map(float, re.findall(r"([\d.]+) \(", told))
    assert started > random + 0.05


def test_the_sharded_recommender_has_one_loss_curve_whatever_the_processes(tmp_path, output_here):
    torch = pytest.importorskip("torch")
    if not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    example = EXAMPLES / "sharded_recommender.py"
    sizes = ("--users", 3000, "--items", 800, "--steps", 8, "--every", 3)
    alone = output_here(example.name, *sizes, "--folder", tmp_path / "alone").splitlines()
    assert alone[-1].startswith("both tables: ")
    two = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [*two, example, *sizes, "--folder", tmp_path / "two", "--kill-at", 8]
    killed = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)
    assert killed.returncode != 0
    assert killed.stdout.splitlines() == alone[:7]
    again = output_here(example.name, *sizes, "--folder", tmp_path / "two").splitlines()
    assert again == alone[6:]


def test_rows_for_any_id_beat_the_hashing_trick():
    told = output(EXAMPLES / "click_log.py", "--days", 4, "--clicks", 20_000, "--rows", 2048)
    lines = [line.split() for line in told.splitlines()[-4:]]
    dynamic, hashing, larger, vocabulary = (float(line[4]) for line in lines)
    assert dynamic < larger
    assert dynamic < hashing
    assert dynamic < vocabulary + 0.005


def test_a_keras_model_takes_hashes_of_a_click_log(monkeypatch, output_here):
    pytest.importorskip("keras")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    options = ("--days", 3, "--clicks", 4000, "--rows", 1024)
    *days, loaded = output_here("click_log_in_keras.py", *options).splitlines()[1:]
    _, dynamic, hashing, ids, evicted = days[-1].split()
    assert float(dynamic) < float(hashing)
    assert int(ids) <= 1024
    assert int(evicted) > 0
    assert loaded.startswith("after load_model: True")
