"""`rowwise bench`: both layers are trained, and what they learned is compared."""

import json

import pytest

pytest.importorskip("keras")
app = pytest.importorskip("rowwise.cli._app").app
CliRunner = pytest.importorskip("typer.testing").CliRunner

SMALL = ["--rows", "500", "--dim", "4", "--batch-size", "32", "--length", "3", "--steps", "4"]


def run(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


def test_both_layers_make_the_steps_and_learn_the_same():
    result = run(*SMALL, "--optimizer", "rmsprop", "--json")
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert {name: len(times) for name, times in answer["seconds"].items()} == {
        "rowwise": 4,
        "keras": 4,
    }
    assert all(seconds > 0 for times in answer["seconds"].values() for seconds in times)
    assert 0 <= answer["largest_difference"] < 1e-6


def test_what_a_person_reads():
    told = run(*SMALL).output
    assert "500 rows of 4, adam, 96 ids a step:" in told
    assert "times as fast; weights differ by" in told


def test_an_optimizer_that_keras_does_not_have_is_named():
    result = run(*SMALL, "--optimizer", "adamant")
    assert result.exit_code == 2
    assert "--optimizer 'adamant' is not one of Keras's" in result.output
