"""A frozen sentence encoder of the MiniLM kind from a local folder: BERT, then one vector of unit length.

The folder is as published: ``config.json``, ``model.safetensors``, ``tokenizer.json``, and for the pool
``1_Pooling/config.json`` (mean without it). Devlin et al. 2019 (arXiv 1810.04805); Reimers and Gurevych 2019
(arXiv 1908.10084). Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from robopolicy.errors import ConfigError, explain
from robopolicy.models.wordpiece import WordPiece
from robopolicy.schema import build

__all__ = ["BertConfig", "SentenceEncoder"]


@dataclass(frozen=True)
class BertConfig:
    """Sizes, under their names in ``config.json``."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    vocab_size: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12


class _Layer(nn.Module):
    """Self-attention and perceptron, each followed by its norm. [1, L, W] -> [1, L, W]."""

    def __init__(self, config: BertConfig):
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_attention_heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1 = nn.LayerNorm(width, config.layer_norm_eps)
        self.up, self.down = nn.Linear(width, config.intermediate_size), nn.Linear(config.intermediate_size, width)
        self.norm2 = nn.LayerNorm(width, config.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        def split(values: Tensor) -> Tensor:
            return values.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = (split(part(x)) for part in (self.query, self.key, self.value))
        mixed = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


_NAMES = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm2": "output.LayerNorm",
}
"""Parts of a layer -> their published names below ``encoder.layer.<i>``."""


class SentenceEncoder(nn.Module):
    """Text -> f32 [hidden_size] of unit length; without gradient.

    Args:
        folder: Of the model.

    Attributes:
        width: hidden_size.

    Raises:
        ConfigError: no such folder, or a model of another kind, or files that do not belong together.
    """

    def __init__(self, folder: str | Path):
        super().__init__()
        folder = Path(folder).expanduser()
        absent = [n for n in ("config.json", "model.safetensors", "tokenizer.json") if not (folder / n).is_file()]
        if absent:
            raise ConfigError(
                explain(
                    f"no sentence encoder in {folder}: {absent} missing, and nothing is downloaded",
                    allowed="a folder with config.json, model.safetensors and tokenizer.json",
                    mend="put one there and name it in language.weights, or use language.kind=table",
                )
            )
        config = _sizes(folder / "config.json")
        self.config, self.width = config, config.hidden_size
        self.pool = _pool(folder / "1_Pooling" / "config.json")
        self.tokenizer = WordPiece(folder / "tokenizer.json")
        if max(self.tokenizer.pieces.values()) >= config.vocab_size:
            raise ConfigError(explain(f"tokenizer and model of {folder} differ", given=len(self.tokenizer.pieces)))
        self.words = nn.Embedding(config.vocab_size, self.width)
        self.places = nn.Embedding(config.max_position_embeddings, self.width)
        self.types = nn.Embedding(config.type_vocab_size, self.width)
        self.norm = nn.LayerNorm(self.width, config.layer_norm_eps)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.num_hidden_layers))
        self._fill(folder / "model.safetensors")
        self.eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, text: str) -> Tensor:
        """See the class. One text at a time: what it becomes does not depend on others."""
        ids = torch.tensor([self.tokenizer.encode(text, self.config.max_position_embeddings)])
        x = self.norm(self.words(ids) + self.places.weight[: ids.shape[1]] + self.types.weight[0])
        for layer in self.layers:
            x = layer(x)
        return functional.normalize(x[0, 0] if self.pool == "cls" else x[0].mean(dim=0), dim=0)

    def _fill(self, path: Path) -> None:
        """Weights by their published names; the pooler, which sentences do not use, stays behind."""
        wanted = {
            "words": "embeddings.word_embeddings",
            "places": "embeddings.position_embeddings",
            "types": "embeddings.token_type_embeddings",
            "norm": "embeddings.LayerNorm",
        }
        for i in range(len(self.layers)):
            wanted |= {f"layers.{i}.{own}": f"encoder.layer.{i}.{theirs}" for own, theirs in _NAMES.items()}
        try:
            found = {name.removeprefix("bert."): value.float() for name, value in load_file(path).items()}
        except Exception as error:  # the reader raises what it likes on bytes that are not its own
            raise ConfigError(explain("not a safetensors file", given=path)) from error
        own = self.state_dict()
        names = {key: f"{wanted[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}" for key in own}
        bad = [n for key, n in names.items() if n not in found or found[n].shape != own[key].shape]
        if bad:
            raise ConfigError(
                explain(
                    f"{path} is no BERT of the sizes in its config.json",
                    given=f"{len(bad)} tensors missing or of another shape, such as {bad[:2]}",
                    mend="take model and config from the same place",
                )
            )
        self.load_state_dict({key: found[name] for key, name in names.items()})


def _sizes(path: Path) -> BertConfig:
    described = _json(path)
    kind, act = described.get("model_type"), described.get("hidden_act", "gelu")
    if kind != "bert" or act != "gelu" or described.get("position_embedding_type", "absolute") != "absolute":
        raise ConfigError(
            explain(
                f"{path} describes a model of another kind",
                given=f"model_type={kind} hidden_act={act}",
                allowed="bert with gelu and absolute positions, such as the MiniLM family",
            )
        )
    return build(BertConfig, {k: v for k, v in described.items() if k in BertConfig.__dataclass_fields__}, str(path))


def _pool(path: Path) -> str:
    if not path.is_file():
        return "mean"
    chosen = {k for k, v in _json(path).items() if k.startswith("pooling_mode") and v is True}
    pools = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    if len(chosen) != 1 or not chosen <= pools.keys():
        raise ConfigError(explain(f"{path} asks for another pool", given=sorted(chosen), allowed=list(pools)))
    return pools[chosen.pop()]


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(explain("not a JSON file", given=path)) from error
    if not isinstance(found, dict):
        raise ConfigError(explain("not a JSON object", given=path))
    return found
