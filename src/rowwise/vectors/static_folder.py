"""The folder of a static embedding, as model2vec and sentence-transformers share it.

model.safetensors holds a row per token, tokenizer.json says which token a row is.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rowwise.files._atomic import replacing
from rowwise.vectors import blob
from rowwise.vectors.errors import VectorsFileError
from rowwise.vectors.options import Options
from rowwise.vectors.safetensors_file import Rows, tensors_of
from rowwise.vectors.vectors import Vectors

_TABLES = ("embeddings", "embedding.weight")
_UNKNOWN = "[UNK]"
_INNER = "0_StaticEmbedding"


def read_static(path: str, options: Options) -> Vectors:
    """Reads the folder, or the model.safetensors in it.

    Raises:
        VectorsFileError: see `rowwise.vectors.load`.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / "model.safetensors").is_file() and (folder / _INNER).is_dir():
        folder = folder / _INNER
    tokens = _tokens(folder / "tokenizer.json")
    added = _added(folder / "config.json")
    model = folder / "model.safetensors"
    with tensors_of(model) as file:
        names = set(file.keys())
        table = next((name for name in _TABLES if name in names), None)
        if table is None:
            raise VectorsFileError(
                model,
                found=f"tensors {', '.join(sorted(names)[:8]) or 'none'}",
                expected=" or ".join(map(repr, _TABLES)),
                fix="is it a static embedding? Others have no vector per token",
            )
        rows: Any = Rows(model, file, table)
        shape = rows.shape
        if len(shape) == 2 and names & {"mapping", "weights"}:
            rows = _reweighted(model, file, names, rows[:], len(tokens))
            shape = rows.shape
        if tokens and tokens[-1] == added:
            tokens, shape = tokens[:-1], (shape[0] - 1, *shape[1:])
        return blob.chosen(str(model), tokens, rows, shape, options)


def write_static(vectors: Vectors, path: str) -> None:
    """Writes the folder, with a tokenizer that splits at spaces and punctuation.

    Words are matched whole and as they are; others have no vector. Where no word is "[UNK]", a
    row of zeros is added for it, which `read_static` leaves out again.
    """
    from safetensors.numpy import save_file

    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    words, matrix = vectors.words, vectors.matrix
    about: dict[str, Any] = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": vectors.dim,
        "normalize": False,
    }
    if _UNKNOWN not in vectors:
        words = [*words, _UNKNOWN]
        matrix = np.concatenate([matrix, np.zeros((1, vectors.dim), matrix.dtype)])
        about["rowwise_added"] = _UNKNOWN
    unknown = words.index(_UNKNOWN)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": unknown,
                "content": _UNKNOWN,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {word: i for i, word in enumerate(words)},
            "unk_token": _UNKNOWN,
        },
    }
    modules = [
        {
            "idx": 0,
            "name": "0",
            "path": ".",
            "type": "sentence_transformers.models.StaticEmbedding",
        }
    ]
    texts = {}
    for name, content in (
        ("tokenizer.json", tokenizer),
        ("config.json", about),
        ("modules.json", modules),
    ):
        try:
            texts[name] = json.dumps(content, ensure_ascii=False, indent=1).encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a word holds a lone surrogate, which {name} cannot") from error
    with replacing(folder / "model.safetensors") as temporary:
        save_file({"embeddings": np.ascontiguousarray(matrix)}, temporary)
    for name, text in texts.items():
        with replacing(folder / name) as temporary:
            Path(temporary).write_bytes(text)


def _tokens(path: Path) -> list[str]:
    """The token of each row."""
    try:
        about = json.loads(path.read_bytes())
        vocabulary = about["model"]["vocab"]
        if isinstance(vocabulary, dict):
            ids = {i: token for token, i in vocabulary.items()}
        else:  # with a score each
            ids = {i: entry[0] for i, entry in enumerate(vocabulary)}
        for token in about.get("added_tokens") or ():
            ids[token["id"]] = token["content"]
        tokens = [ids[i] for i in range(len(ids))]
        if not all(isinstance(token, str) for token in tokens):
            raise TypeError("a token is no string")
    except FileNotFoundError:
        raise VectorsFileError(
            path, found="no such file", expected="the tokenizer beside model.safetensors"
        ) from None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, AttributeError) as error:
        raise VectorsFileError(
            path,
            found=f"no tokenizer with a vocabulary ({type(error).__name__}: {error})",
            expected="ids 0, 1, 2... each with a token",
        ) from error
    return tokens


def _added(path: Path) -> str | None:
    try:
        about = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return about.get("rowwise_added") if isinstance(about, dict) else None


def _reweighted(path: Path, file: Any, names: set[str], rows: Any, tokens: int) -> Any:
    """A row per token, where tokens share rows (`mapping`) or have weights of their own."""
    if "mapping" in names:
        places = np.asarray(file.get_tensor("mapping"))
        if places.ndim != 1 or not len(places) or places.min() < 0 or places.max() >= len(rows):
            raise VectorsFileError(path, found="a mapping to rows that are not there")
        rows = rows[places.astype(np.int64)]
    if "weights" in names:
        weights = np.asarray(file.get_tensor("weights"))
        if weights.shape != (len(rows),):
            raise VectorsFileError(
                path, found=f"weights of shape {weights.shape}", expected=f"({len(rows)},)"
            )
        rows = rows * weights[:, None].astype(np.float32)
    return rows
