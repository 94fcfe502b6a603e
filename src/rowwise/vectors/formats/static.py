"""The folder of a static embedding: model.safetensors and tokenizer.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from rowwise.vectors._safetensors import save_tensors
from rowwise.vectors._static_folder import ADDED, INNER, read_static_folder
from rowwise.vectors._word_matrix import WordMatrix
from rowwise.vectors._writer import writing_together
from rowwise.vectors.formats._format import Confidence, Format, Sample

_UNKNOWN = "[UNK]"


def _sniff(sample: Sample) -> Confidence:
    folders = (sample.file, sample.file / INNER) if sample.is_folder else ()
    found = any((folder / "model.safetensors").exists() for folder in folders)
    return Confidence.CERTAIN if found else Confidence.NO


def _write(vectors: WordMatrix, path: str) -> None:
    """Write the folder, with a tokenizer that splits at spaces and punctuation.

    Words are matched whole and as they are; others have no vector. Where no word is "[UNK]", a
    row of zeros is added for it, which reading leaves out again.
    """
    folder = Path(path)
    words, matrix = vectors.words, vectors.matrix
    about: dict[str, Any] = {
        "model_type": "model2vec",
        "architectures": ["StaticModel"],
        "hidden_dim": vectors.dim,
        "normalize": False,
    }
    if _UNKNOWN not in words:
        words = [*words, _UNKNOWN]
        matrix = np.concatenate([matrix, np.zeros((1, vectors.dim), matrix.dtype)])
        about[ADDED] = _UNKNOWN
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
    folder.mkdir(parents=True, exist_ok=True)
    targets = [folder / "model.safetensors", *(folder / name for name in texts)]
    with writing_together(targets) as (model, *others):
        save_tensors({"embeddings": np.ascontiguousarray(matrix)}, model)
        for temporary, text in zip(others, texts.values(), strict=True):
            Path(temporary).write_bytes(text)


FORMAT = Format(
    name="static",
    about="folder: model.safetensors, tokenizer.json",
    suffixes=("",),
    sniff=_sniff,
    read=read_static_folder,
    write=_write,
    is_folder=True,
)
