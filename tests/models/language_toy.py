"""A sentence encoder of a few numbers, in the files of the published ones."""

from __future__ import annotations

import json

import torch
from safetensors.torch import save_file

WORDS = (
    *("open", "the", "drawer", "close", "press", "button", "cube", "lift", "up", "go", "left", "right", "e"),
    *("##s", "##ing", "##l", ",", "!"),
)
WIDTH, LAYERS, HEADS, INNER, PLACES = 12, 2, 3, 24, 16


def write_tokenizer(path, **normalizer):
    pieces = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS)
    described = {
        "model": {
            "type": "WordPiece",
            "vocab": {piece: i for i, piece in enumerate(pieces)},
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
        },
        "normalizer": {"type": "BertNormalizer", "lowercase": True, "strip_accents": None, **normalizer},
    }
    path.write_text(json.dumps(described))
    return path


def write_sentence_encoder(folder, seed=0, pool="mean"):
    """The folder, as published: BERT's names, a pooler that is not used, and the pool beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder / "tokenizer.json")
    sizes = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "intermediate_size": INNER,
        "max_position_embeddings": PLACES,
        "vocab_size": 4 + len(WORDS),
        "initializer_range": 0.02,
    }
    (folder / "config.json").write_text(json.dumps(sizes))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    chosen = {"pooling_mode_mean_tokens": pool == "mean", "pooling_mode_cls_token": pool == "cls"}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": WIDTH, **chosen}))
    draw = torch.Generator().manual_seed(seed)
    shapes = {
        "embeddings.word_embeddings.weight": (4 + len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": (PLACES, WIDTH),
        "embeddings.token_type_embeddings.weight": (2, WIDTH),
        "embeddings.LayerNorm.weight": (WIDTH,),
        "embeddings.LayerNorm.bias": (WIDTH,),
        "pooler.dense.weight": (WIDTH, WIDTH),
        "pooler.dense.bias": (WIDTH,),
    }
    for i in range(LAYERS):
        place = f"encoder.layer.{i}."
        for name, out, inner in (
            *((f"attention.self.{part}", WIDTH, WIDTH) for part in ("query", "key", "value")),
            ("attention.output.dense", WIDTH, WIDTH),
            ("intermediate.dense", INNER, WIDTH),
            ("output.dense", WIDTH, INNER),
        ):
            shapes |= {f"{place}{name}.weight": (out, inner), f"{place}{name}.bias": (out,)}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{place}{name}.weight": (WIDTH,), f"{place}{name}.bias": (WIDTH,)}
    tensors = {name: torch.randn(shape, generator=draw) * 0.5 for name, shape in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder
