"""From an instruction to features: a learnt table over the training instructions, or a frozen sentence encoder.

::

    list of B instructions --canonical--> row of the vocabulary --embedding--> [linear] --> f32 [B, width]

The vocabulary is the set of instructions of the training store. It is written into the policy's parameters before the
policy is built (:func:`with_vocabulary`), so it travels in the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from robopolicy.errors import ConfigError, DataError, UnknownNameError, explain, suggest
from robopolicy.models.sentence_encoder import SentenceEncoder

__all__ = [
    "LanguageConfig",
    "SentenceLanguage",
    "TableLanguage",
    "build_language",
    "canonical",
    "edit_distance",
    "with_vocabulary",
]

MOST_CACHED = 4096
"""Embeddings of instructions outside the vocabulary that are kept."""


@dataclass(frozen=True)
class LanguageConfig:
    """How instructions become features.

    Attributes:
        kind: ``none``; ``table``, a learnt vector per instruction of the training data; ``sentence``, a frozen
            sentence encoder and a learnt linear layer.
        width: Of the features.
        weights: Folder of the sentence encoder, see :mod:`robopolicy.models.sentence_encoder`.
        unknown: What ``table`` does with an instruction that it does not know: ``error``, or ``nearest`` in edits.
        vocabulary: Instructions of the training data; written by training, not by hand.
        embedding: Width of the sentence encoder whose vectors of the vocabulary come with a checkpoint; written there,
            0 otherwise.
    """

    kind: Literal["none", "table", "sentence"] = "none"
    width: int = 32
    weights: str | None = None
    unknown: Literal["error", "nearest"] = "error"
    vocabulary: tuple[str, ...] = ()
    embedding: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.width < 1:
            problems.append(explain("language.width must be positive", given=self.width))
        if self.kind == "sentence" and not self.weights:
            problems.append(
                explain(
                    "language.kind=sentence needs the folder of a sentence encoder",
                    mend="language.weights=<folder>, or language.kind=table",
                )
            )
        if problems:
            raise ConfigError(problems)


def canonical(instruction: str) -> str:
    """Without what makes no difference: capitals, and more white space than one blank between words."""
    return " ".join(instruction.casefold().split())


def with_vocabulary(parameters: Mapping[str, Any], instructions: Iterable[str]) -> dict[str, Any]:
    """A policy's parameters with the vocabulary of the data, where they read language at all.

    Args:
        parameters: Nested; ``language`` as :class:`LanguageConfig`.
        instructions: Of all episodes, in any order; read only if needed.

    Raises:
        DataError: the data hold no instruction.
    """
    language = parameters.get("language") or {}
    if language.get("kind", "none") == "none":
        return dict(parameters)
    vocabulary = sorted({canonical(text) for text in instructions})
    if not any(vocabulary):
        raise DataError(
            explain("the policy reads language, the data have no instruction", mend="set language.kind=none")
        )
    return {**parameters, "language": {**language, "vocabulary": vocabulary}}


def build_language(config: LanguageConfig) -> TableLanguage | SentenceLanguage | None:
    """The module ``list of B instructions -> f32 [B, width]``, or None.

    Raises:
        ConfigError: a table without vocabulary, or a sentence encoder that is not there or of another kind.
    """
    if config.kind == "none":
        return None
    return TableLanguage(config) if config.kind == "table" else SentenceLanguage(config)


class TableLanguage(nn.Module):
    """One learnt vector per known instruction.

    Args:
        config: With a vocabulary.

    Attributes:
        width: Of the features.

    Raises:
        ConfigError: an empty vocabulary, or an instruction twice in it.
    """

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config, self.width = config, config.width
        self.rows = {canonical(text): i for i, text in enumerate(config.vocabulary)}
        if not self.rows or len(self.rows) != len(config.vocabulary):
            raise ConfigError(
                explain(
                    "language.kind=table needs a vocabulary of different instructions",
                    given=list(config.vocabulary),
                    mend="leave it out: training takes it from the data",
                )
            )
        self.table = nn.Embedding(len(self.rows), config.width)

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """B instructions -> f32 [B, width].

        Raises:
            UnknownNameError: an instruction that was not trained, unless ``unknown`` is ``nearest``.
        """
        rows = torch.tensor([self._row(text) for text in instructions], device=self.table.weight.device)
        found: Tensor = self.table(rows)
        return found

    def stored(self) -> LanguageConfig:
        """What a checkpoint keeps."""
        return self.config

    def _row(self, instruction: str) -> int:
        text = canonical(instruction)
        row = self.rows.get(text)
        if row is not None:
            return row
        if self.config.unknown == "nearest":
            return min(self.rows.items(), key=lambda known: edit_distance(text, known[0]))[1]
        known = list(self.rows)
        shown = known if len(known) <= 10 else [*known[:10], f"... {len(known)} in all"]
        raise UnknownNameError(
            explain(
                "an instruction that the policy was not trained on" if text else "the policy reads an instruction",
                given=repr(instruction),
                allowed=[repr(k) for k in shown],
                mend=suggest(text, known) or "give one of these, set language.unknown=nearest, or train with it",
            )
        )


class SentenceLanguage(nn.Module):
    """A frozen sentence encoder, each text embedded once, and a learnt linear layer.

    The vectors of the vocabulary are kept with the weights: for instructions of the training data, a checkpoint needs
    no sentence encoder. Vectors of unit length are scaled to unit variance before the layer.

    Args:
        config: With the folder of the encoder, unless ``embedding`` says that the vectors come with a checkpoint.

    Attributes:
        width: Of the features.

    Raises:
        ConfigError: the encoder is not there, or of another kind.
    """

    embeddings: Tensor

    def __init__(self, config: LanguageConfig):
        super().__init__()
        self.config, self.width = config, config.width
        self.rows = {canonical(text): i for i, text in enumerate(config.vocabulary)}
        self._others: dict[str, Tensor] = {}
        self._encoder: list[SentenceEncoder] = []  # in a list: its weights are no part of the policy's
        if config.embedding:
            known = torch.full((len(self.rows), config.embedding), torch.nan)
        else:
            encoder = self._loaded()
            known = torch.stack([encoder(text) for text in self.rows]) if self.rows else torch.zeros(0, encoder.width)
        self.register_buffer("embeddings", known)
        self.head = nn.Linear(known.shape[1], config.width)

    def forward(self, instructions: Sequence[str]) -> Tensor:
        """B instructions -> f32 [B, width].

        Raises:
            ConfigError: a new instruction, and the encoder is not there any more or is another one.
        """
        texts = [canonical(text) for text in instructions]
        if all(text in self.rows for text in texts):
            vectors = self.embeddings[torch.tensor([self.rows[t] for t in texts], device=self.embeddings.device)]
        else:
            vectors = torch.stack([self._vector(text) for text in texts])
        features: Tensor = self.head(vectors * self.embeddings.shape[1] ** 0.5)
        return features

    def stored(self) -> LanguageConfig:
        """What a checkpoint keeps."""
        return replace(self.config, embedding=self.embeddings.shape[1])

    def _vector(self, text: str) -> Tensor:
        if text in self.rows:
            return self.embeddings[self.rows[text]]
        if text not in self._others:
            if len(self._others) >= MOST_CACHED:
                self._others.clear()
            self._others[text] = self._loaded()(text)
        return self._others[text].to(self.embeddings.device)

    def _loaded(self) -> SentenceEncoder:
        """The encoder, read at the first need and, beside a checkpoint, checked to be that of the training."""
        if not self._encoder:
            assert self.config.weights is not None
            encoder = SentenceEncoder(self.config.weights)
            if self.config.embedding and self.rows:
                text, row = next(iter(self.rows.items()))
                own, again = self.embeddings[row].cpu(), encoder(text)
                if own.shape != again.shape or not torch.allclose(own, again, atol=1e-3):
                    raise ConfigError(
                        explain(
                            "the sentence encoder is another one than in training",
                            given=self.config.weights,
                            mend="put the one of the training there; known instructions need none",
                        )
                    )
            self._encoder.append(encoder)
        return self._encoder[0]


def edit_distance(a: str, b: str) -> int:
    """Characters to insert, delete or replace (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
    return row[-1]
