"""A server of rows whose words are hostile, and of two snapshots."""

import threading

import numpy as np
import pytest

from rowwise.inspect.view import Explorer, Server, Snapshot

HOSTILE = ["<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "=1+1", ""]
COUNT = 60


def explorer():
    words = HOSTILE + [f"word{i}" for i in range(COUNT - len(HOSTILE))]
    start = np.random.default_rng(0).standard_normal((COUNT, 5)).astype(np.float32) * 0.1
    end = start + np.arange(COUNT, dtype=np.float32)[:, None] * [1, -1, 0.5, 0, 0]
    updates = np.arange(COUNT, dtype=np.uint32)
    kinds = {word: ("odd", "even")[i % 2] for i, word in enumerate(words)}
    snapshots = [
        Snapshot("start", start, words),
        Snapshot("end", end.astype(np.float32), words, updates),
    ]
    return Explorer(snapshots, {"<b>kind</b>": kinds})


@pytest.fixture(scope="module")
def server():
    with Server(explorer(), "<i>Rows</i>") as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
