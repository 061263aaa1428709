"""Instructions to features: the table, the frozen sentence encoder, and the tokens it reads."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from language_toy import HEADS, LAYERS, PLACES, WIDTH, WORDS, write_sentence_encoder, write_tokenizer
from safetensors.torch import load_file, save_file
from torch.nn import functional

from robopolicy.errors import ConfigError, DataError, UnknownNameError
from robopolicy.models.language import (
    LanguageConfig,
    SentenceLanguage,
    TableLanguage,
    build_language,
    edit_distance,
    with_vocabulary,
)
from robopolicy.models.sentence_encoder import SentenceEncoder
from robopolicy.models.wordpiece import WordPiece

KNOWN = ("close the drawer", "open the drawer", "press the button")


def table(**over):
    torch.manual_seed(0)
    return TableLanguage(LanguageConfig(**{"kind": "table", "width": 6, "vocabulary": KNOWN, **over}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_sentence_encoder(tmp_path_factory.mktemp("sentence") / "mini")


# ----------------------------------------------------------------------------------------------------------- table
def test_a_table_has_one_vector_per_instruction_and_learns_it():
    words = table()
    found = words(["open the drawer", "press the button", "Open  the drawer"])
    assert found.shape == (3, 6)
    assert torch.equal(found[0], found[2])  # capitals and blanks make no difference
    assert not torch.equal(found[0], found[1])
    found.square().sum().backward()
    assert words.table.weight.grad.abs().sum(1).gt(0).tolist() == [False, True, True]


def test_an_unknown_instruction_is_refused_or_the_nearest_known():
    with pytest.raises(
        UnknownNameError, match=r"not trained on.*'open the drawers'.*allowed: .*did you mean 'open the"
    ):
        table()(["open the drawers"])
    with pytest.raises(UnknownNameError, match="reads an instruction"):
        table()([""])
    near = table(unknown="nearest")
    assert torch.equal(near(["open teh drawers"]), near(["open the drawer"]))
    assert not torch.equal(near(["open teh drawers"]), near(["close the drawer"]))


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
def test_edit_distance_is_a_metric(a, b):
    distance = edit_distance(a, b)
    assert distance == edit_distance(b, a)
    assert (distance == 0) == (a == b)
    assert abs(len(a) - len(b)) <= distance <= max(len(a), len(b))
    assert distance <= edit_distance(a, "abc") + edit_distance("abc", b)


def test_edit_distance_of_examples():
    assert [edit_distance(*pair) for pair in (("kitten", "sitting"), ("", "abc"), ("flaw", "lawn"))] == [3, 3, 2]


def test_the_vocabulary_comes_from_the_data():
    parameters = {"width": 1, "language": {"kind": "table", "width": 6}}
    found = with_vocabulary(parameters, iter(["press the button", "open the drawer", "Press the button "]))
    assert found["language"] == {"kind": "table", "width": 6, "vocabulary": ["open the drawer", "press the button"]}
    assert "vocabulary" not in parameters["language"]

    def explode():
        raise AssertionError("the data were read for nothing")
        yield ""

    assert with_vocabulary({"width": 1}, explode()) == {"width": 1}
    assert with_vocabulary({"language": {"kind": "none"}}, explode()) == {"language": {"kind": "none"}}
    with pytest.raises(DataError, match=r"no instruction.*language.kind=none"):
        with_vocabulary(parameters, ["", " "])


def test_refusals_of_configurations():
    with pytest.raises(ConfigError, match="needs a vocabulary"):
        table(vocabulary=())
    with pytest.raises(ConfigError, match="needs a vocabulary of different"):
        table(vocabulary=("open it", "Open it"))
    with pytest.raises(ConfigError, match=r"folder of a sentence encoder.*kind=table"):
        LanguageConfig(kind="sentence")
    assert build_language(LanguageConfig()) is None


# -------------------------------------------------------------------------------------------------------- sentence
def test_tokens(tmp_path):
    own = WordPiece(write_tokenizer(tmp_path / "tokenizer.json"))
    names = {i: piece for piece, i in own.pieces.items()}

    def pieces(text, length=64):
        return [names[i] for i in own.encode(text, length)][1:-1]

    assert pieces("Open the DRAWERS, lifting!") == ["open", "the", "drawer", "##s", ",", "lift", "##ing", "!"]
    assert pieces("él the\tzebra up") == ["e", "##l", "the", "[UNK]", "up"]  # accents go, a strange word is one token
    assert pieces("the " * 10, length=6) == ["the"] * 4
    assert pieces("") == []
    kept = WordPiece(write_tokenizer(tmp_path / "cased.json", lowercase=False))
    assert names[kept.encode("Open", 8)[1]] == "[UNK]"
    (tmp_path / "other.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": {}}}))
    with pytest.raises(ConfigError, match=r"no tokenizer of the kind.*BPE"):
        WordPiece(tmp_path / "other.json")
    with pytest.raises(ConfigError, match="no tokenizer"):
        WordPiece(tmp_path / "absent.json")


def by_hand(folder, text, pool="mean"):
    """BERT in plain formulae on the tensors of the file, in double precision."""
    t = {name: value.double() for name, value in load_file(folder / "model.safetensors").items()}
    ids = WordPiece(folder / "tokenizer.json").encode(text, PLACES)

    def norm(x, name):
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / (variance + 1e-12).sqrt() * t[f"{name}.weight"] + t[f"{name}.bias"]

    def linear(x, name):
        return x @ t[f"{name}.weight"].T + t[f"{name}.bias"]

    x = t["embeddings.word_embeddings.weight"][ids] + t["embeddings.position_embeddings.weight"][: len(ids)]
    x = norm(x + t["embeddings.token_type_embeddings.weight"][0], "embeddings.LayerNorm")
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        q, k, v = (linear(x, f"{at}attention.self.{n}").unflatten(-1, (HEADS, -1)) for n in ("query", "key", "value"))
        share = (torch.einsum("ihd,jhd->hij", q, k) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        mixed = torch.einsum("hij,jhd->ihd", share, v).flatten(1)
        x = norm(x + linear(mixed, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        inner = linear(x, f"{at}intermediate.dense")
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = norm(x + linear(inner, f"{at}output.dense"), f"{at}output.LayerNorm")
    return functional.normalize(x.mean(0) if pool == "mean" else x[0], dim=0).float()


@pytest.mark.parametrize("pool", ["mean", "cls"])
def test_the_sentence_encoder_is_the_published_one(tmp_path, pool):
    place = write_sentence_encoder(tmp_path / "m", pool=pool)
    encoder = SentenceEncoder(place)
    for text in ("open the drawer", "", "the " * 40):
        torch.testing.assert_close(encoder(text), by_hand(place, text, pool), atol=1e-5, rtol=1e-4)
    assert (encoder("open the drawer") - encoder("close the drawer")).abs().max() > 1e-3
    assert not [p for p in encoder.parameters() if p.requires_grad]


def sentence(folder, **over):
    torch.manual_seed(0)
    given = {"kind": "sentence", "width": 6, "weights": str(folder), "vocabulary": KNOWN, **over}
    return SentenceLanguage(LanguageConfig(**given))


def test_sentence_features_and_what_is_learnt(folder, monkeypatch):
    words = sentence(folder)
    found = words([*KNOWN, "lift the cube"])
    assert found.shape == (4, 6)
    found.sum().backward()
    assert {n for n, p in words.named_parameters() if p.grad is not None} == {"head.weight", "head.bias"}
    assert set(words.state_dict()) == {"embeddings", "head.weight", "head.bias"}
    torch.testing.assert_close(words.embeddings.norm(dim=1), torch.ones(3))
    # each text is embedded once
    monkeypatch.setattr(SentenceEncoder, "forward", lambda *_: pytest.fail("embedded again"))
    assert torch.equal(words([*KNOWN, "lift the cube"]), found)


def test_a_checkpoint_needs_the_encoder_for_new_instructions_only(tmp_path):
    place = write_sentence_encoder(tmp_path / "m")
    first = sentence(place)
    stored = first.stored()
    assert stored.embedding == WIDTH
    (tmp_path / "m").rename(tmp_path / "moved")
    again = SentenceLanguage(stored)
    assert not torch.isfinite(again(KNOWN)).any()  # nothing is taken for weights that were never loaded
    again.load_state_dict(first.state_dict())
    assert torch.equal(again(KNOWN), first(KNOWN))
    with pytest.raises(ConfigError, match=r"no sentence encoder in.*nothing is downloaded"):
        again(["lift the cube"])
    (tmp_path / "moved").rename(place)
    assert torch.equal(again(["lift the cube"]), first(["lift the cube"]))
    other = SentenceLanguage(stored)
    other.load_state_dict(first.state_dict())
    write_sentence_encoder(place, seed=1)
    with pytest.raises(ConfigError, match="another one than in training"):
        other(["lift the cube"])


def test_folders_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no sentence encoder in.*model.safetensors.*mend: put one there"):
        SentenceEncoder(tmp_path)

    def broken(name, change):
        place = write_sentence_encoder(tmp_path / name)
        change(place)
        return place

    def config(**over):
        def change(place):
            path = place / "config.json"
            path.write_text(json.dumps({**json.loads(path.read_text()), **over}))

        return change

    with pytest.raises(ConfigError, match=r"another kind.*model_type=mpnet"):
        SentenceEncoder(broken("a", config(model_type="mpnet")))
    with pytest.raises(ConfigError, match=r"no BERT of the sizes.*tensors missing"):
        SentenceEncoder(broken("b", config(num_hidden_layers=3)))
    with pytest.raises(ConfigError, match="tokenizer and model"):
        SentenceEncoder(broken("c", config(vocab_size=len(WORDS))))
    with pytest.raises(ConfigError, match="not a safetensors file"):
        SentenceEncoder(broken("d", lambda place: (place / "model.safetensors").write_bytes(b"x" * 40)))
    with pytest.raises(ConfigError, match="not a JSON file"):
        SentenceEncoder(broken("e", lambda place: (place / "config.json").write_text("{")))
    with pytest.raises(ConfigError, match="missing"):
        SentenceEncoder(
            broken(
                "f",
                lambda place: save_file({"bert.x": torch.zeros(1)}, place / "model.safetensors"),
            )
        )
