"""Words to token ids, as BERT does it: the ``tokenizer.json`` of a local model folder, read without other packages.

Text is cleaned, lowered and stripped of accents (if the file says so), split at white space and punctuation, and every
word is taken apart into the longest pieces that the vocabulary holds, from the left (Devlin et al. 2019; Wu et al.
2016, arXiv 1609.08144).
"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

from robopolicy.errors import ConfigError, explain

__all__ = ["WordPiece"]

_CJK = (
    *((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F)),
    *((0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)),
)
"""Blocks of ideographs, each of which is a word."""


class WordPiece:
    """``tokenizer.json`` of a BERT-like model.

    Args:
        path: The file.

    Raises:
        ConfigError: absent, not JSON, or a tokenizer of another kind.
    """

    def __init__(self, path: Path):
        described = _read(path)
        model, normalizer = described.get("model") or {}, described.get("normalizer") or {}
        kinds = (model.get("type", "WordPiece" if "vocab" in model else None), normalizer.get("type"))
        if kinds != ("WordPiece", "BertNormalizer") or not isinstance(model.get("vocab"), dict):
            raise ConfigError(
                explain(
                    f"{path} is no tokenizer of the kind that is read here",
                    given=kinds,
                    allowed="WordPiece with a BertNormalizer",
                    mend="choose a sentence encoder of the MiniLM kind",
                )
            )
        self.pieces: dict[str, int] = model["vocab"]
        self.unknown = str(model.get("unk_token", "[UNK]"))
        self.prefix = str(model.get("continuing_subword_prefix", "##"))
        self.longest = int(model.get("max_input_chars_per_word", 100))
        self.lower = bool(normalizer.get("lowercase", True))
        strip = normalizer.get("strip_accents")
        self.strip = self.lower if strip is None else bool(strip)
        self.clean = bool(normalizer.get("clean_text", True))
        self.split_ideographs = bool(normalizer.get("handle_chinese_chars", True))
        absent = [token for token in ("[CLS]", "[SEP]", self.unknown) if token not in self.pieces]
        if absent:
            raise ConfigError(explain(f"{path} lacks tokens", given=absent, mend="take the model's own file"))

    def encode(self, text: str, length: int) -> list[int]:
        """Ids with [CLS] before and [SEP] behind, at most ``length`` of them."""
        ids = [i for word in self._words(text) for i in self._word(word)]
        return [self.pieces["[CLS]"], *ids[: length - 2], self.pieces["[SEP]"]]

    def _words(self, text: str) -> list[str]:
        if self.clean:
            text = "".join(" " if c.isspace() else c for c in text if not _is_control(c))
        if self.split_ideographs:
            text = "".join(f" {c} " if any(a <= ord(c) <= b for a, b in _CJK) else c for c in text)
        if self.strip:
            text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
        if self.lower:
            text = text.lower()
        return "".join(f" {c} " if _is_punctuation(c) else c for c in text).split()

    def _word(self, word: str) -> list[int]:
        unknown = [self.pieces[self.unknown]]
        if len(word) > self.longest:
            return unknown
        ids, start = [], 0
        while start < len(word):
            for stop in range(len(word), start, -1):
                piece = word[start:stop] if start == 0 else self.prefix + word[start:stop]
                if piece in self.pieces:
                    ids.append(self.pieces[piece])
                    start = stop
                    break
            else:
                return unknown
        return ids


def _read(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(explain("no tokenizer", given=path, allowed="tokenizer.json of the model")) from error
    return described if isinstance(described, dict) else {}


def _is_control(character: str) -> bool:
    if character in "\t\n\r":
        return False
    return character in "\x00\ufffd" or unicodedata.category(character).startswith("C")


def _is_punctuation(character: str) -> bool:
    # every ASCII sign counts, also those that Unicode calls symbols, such as $ and +
    sign = character.isascii() and character.isprintable() and not character.isalnum() and character != " "
    return sign or unicodedata.category(character).startswith("P")
