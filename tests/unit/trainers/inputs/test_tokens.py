"""Tokens of a whole text, with tokenizers of every family."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from attent_select.errors import SampleError
from trainers.hf import load_tokenizer
from trainers.inputs.tokenising.byte_level import token_bytes
from trainers.inputs.tokens import Text, encode_all
from trainers.scoring.token_loss import IGNORED
from trainers.tasks.causal_lm import CausalLm

TEXTS = {
    "words": "Question: What is 7 + 8?\nAnswer: fifteen ",
    "joined emoji": "👩‍👩‍👧 and 🏳️‍🌈",
    "right to left": "שלום עולם مرحبا",
    "line ends": "one\r\ntwo\rthree\n\n\nfour",
    "NUL": "a\x00b",
    "combining": "e\u0301 and \u00e9, n\u0303o",
    "spaces": "  two  three   \t tabs  ",
    "beyond the basic plane": "𝒳𝒴 𐍈 漢字",
}
SPECIAL = ["<unk>", "<s>", "</s>"]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
METASPACE = ("always", "first", "never")


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    # Leaves spaces out of the characters of a token.
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return tokenizer


def normalized_byte_level() -> Tokenizer:
    """A tokenizer like that of Qwen: composed characters, words and digits apart."""
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    words = pre_tokenizers.Split(Regex(r" ?\p{L}+| ?\p{N}|[^\p{L}\p{N}]+"), "isolated")
    byte_parts = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, byte_parts])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def metaspace(scheme: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme, split=False)]
    )
    return tokenizer


def prepended() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1),
        ]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return tokenizer


FAMILIES = {
    "byte-level BPE": byte_level,
    "byte-level BPE, composed": normalized_byte_level,
    **{f"Metaspace {scheme}": lambda scheme=scheme: metaspace(scheme) for scheme in METASPACE},
    "legacy Prepend": prepended,
    "WordPiece": word_piece,
    "Unigram": unigram,
}
# Their vocabulary has a token for each byte, and nothing is normalised.
LOSSLESS = [
    name for name in FAMILIES if name not in ("WordPiece", "Unigram", "byte-level BPE, composed")
]


def trained(tokenizer: Tokenizer, folder: Path) -> Path:
    is_byte_level = isinstance(tokenizer.decoder, decoders.ByteLevel)
    alphabet = [] if "Prepend" in str(tokenizer.normalizer) else ALPHABET
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    settings: dict[str, Any] = {"vocab_size": 600, "show_progress": False}
    kind = type(tokenizer.model).__name__
    if kind == "BPE":
        special = SPECIAL + ([] if is_byte_level else fallback)
        trainer: Any = trainers.BpeTrainer(
            special_tokens=special, initial_alphabet=alphabet, **settings
        )
    elif kind == "WordPiece":
        trainer = trainers.WordPieceTrainer(special_tokens=SPECIAL, **settings)
    else:
        trainer = trainers.UnigramTrainer(special_tokens=SPECIAL, unk_token="<unk>", **settings)
    tokenizer.train_from_iterator([*TEXTS.values()] * 4, trainer)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = trained(FAMILIES[request.param](), tmp_path_factory.mktemp("tokenizer"))
    return request.param, str(folder)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_prompt_and_response_have_the_tokens_of_their_whole_text(family: Any, text: str) -> None:
    name, folder = family
    tokenizer: Any = load_tokenizer(folder)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    for cut in range(len(text.rstrip())):
        task = CausalLm(tokenizer=folder, prompt="p", response="r", template="{prompt}")
        item = task.prepare({"p": text[:cut], "r": text[cut:]}, generator=None)
        assert item["input_ids"] == [tokenizer.bos_token_id, *expected, tokenizer.eos_token_id]
        if name in LOSSLESS:
            decoded = tokenizer.decode(item["input_ids"][1:-1], clean_up_tokenization_spaces=False)
            # Decoders that add a space to the first word remove one.
            assert decoded.lstrip(" ") == text.lstrip(" ")


def test_every_token_with_a_character_of_the_response_counts_and_no_other(family: Any) -> None:
    _, folder = family
    tokenizer: Any = load_tokenizer(folder)
    text = TEXTS["words"]
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    for cut in range(len(text)):
        (encoded,) = encode_all(tokenizer, [Text(text, ((cut, len(text)),))])
        counted = [label != IGNORED for label in encoded.labels]
        assert encoded.ids == encoding.ids
        assert counted == sorted(counted)  # the prompt first
        for is_counted, (start, end) in zip(counted, encoding.offsets, strict=True):
            if end > start:
                assert is_counted == (end > cut)


def labels_one_by_one(
    encoding: Any, spans: Sequence[tuple[int, int]], *, gapless: bool
) -> list[int]:
    """The labels of all tokens from their offsets: a token counts if any of its characters does."""
    labels, previous_end = [], 0
    for token, (first, end) in zip(encoding.ids, encoding.offsets, strict=True):
        start = min(first, previous_end) if first == end or gapless else first
        previous_end = max(previous_end, end)
        is_counted = any(start < stop and end > begin for begin, stop in spans)
        labels.append(token if is_counted else IGNORED)
    return labels


@settings(max_examples=50, deadline=None)
@given(
    text=st.text(st.sampled_from(" \nab7é👩漢\u200d"), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6, unique=True),
)
def test_the_counted_tokens_of_several_spans_are_those_of_their_characters(
    family: Any, text: str, cuts: list[int]
) -> None:
    edges = sorted({min(cut, len(text)) for cut in cuts})
    spans = tuple(zip(edges[::2], edges[1::2], strict=False))
    tokenizer: Any = load_tokenizer(family[1])
    (encoded,) = encode_all(tokenizer, [Text(text, spans)])
    encoding = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
    # The tokens of byte-level BPE are one after the other, though their offsets leave spaces out.
    assert encoded.labels == labels_one_by_one(encoding, spans, gapless="byte" in family[0])


def test_byte_level_tokenizers_need_no_offsets_and_others_do(family: Any) -> None:
    assert (token_bytes(load_tokenizer(family[1])) is not None) == ("byte-level" in family[0])


@pytest.mark.parametrize("text", ["one  <sep>  two <s> three", "<sep>", "e\u0301 <sep> n\u0303o"])
def test_added_tokens_that_take_the_spaces_around_them_are_located(
    tmp_path: Path, text: str
) -> None:
    tokenizer = normalized_byte_level()
    trained(tokenizer, tmp_path)
    tokenizer.add_tokens([AddedToken("<sep>", lstrip=True, rstrip=True)])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    encoding = tokenizer.encode(text, add_special_tokens=False)
    for cut in range(len(text)):
        (encoded,) = encode_all(load_tokenizer(str(tmp_path)), [Text(text, ((cut, len(text)),))])
        assert encoded.ids == encoding.ids
        ends = [end for _, end in encoding.offsets]
        assert encoded.counted == [(sum(end <= cut for end in ends), len(ends))]


def test_an_empty_span_inside_a_token_counts_nothing(family: Any) -> None:
    for text in TEXTS.values():
        for cut in range(len(text)):
            (encoded,) = encode_all(load_tokenizer(family[1]), [Text(text, ((cut, cut),))])
            assert set(encoded.labels) == {IGNORED}


def test_trailing_spaces_of_a_response_count(family: Any) -> None:
    name, folder = family
    text = "one two   "
    (encoded,) = encode_all(load_tokenizer(folder), [Text(text, ((4, len(text)),))])
    assert encoded.labels[-1] == encoded.ids[-1] or name == "WordPiece"


@settings(max_examples=50, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1), data=st.data())
def test_any_text_is_tokenised_as_a_whole(family: Any, text: str, data: st.DataObject) -> None:
    tokenizer: Any = load_tokenizer(family[1])
    cut = data.draw(st.integers(0, len(text)))
    texts = [Text(text), Text(text, ((cut, len(text)),))]
    whole, partly = encode_all(tokenizer, texts)
    assert (
        whole.ids
        == partly.ids
        == whole.labels
        == tokenizer(text, add_special_tokens=False)["input_ids"]
    )


def test_an_unpaired_surrogate_is_unreadable_and_the_others_are_prepared(family: Any) -> None:
    task = CausalLm(tokenizer=family[1], text="t")
    broken, prepared = task.prepare_all([{"t": "a\ud800b"}, {"t": "What is 7?"}])
    assert isinstance(broken, SampleError)
    assert broken.status == "unreadable"
    assert prepared == task.prepare({"t": "What is 7?"}, generator=None)


def test_begin_and_end_tokens_of_the_text_are_not_repeated(family: Any) -> None:
    tokenizer: Any = load_tokenizer(family[1])
    item = CausalLm(tokenizer=family[1], text="t").prepare({"t": "<s>seven</s>"}, generator=None)
    assert item["input_ids"].count(tokenizer.bos_token_id) == 1
    assert item["input_ids"].count(tokenizer.eos_token_id) == 1


def test_a_truncation_saved_with_the_tokenizer_is_not_applied(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(trained(byte_level(), tmp_path) / "tokenizer.json"))
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=64)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    task = CausalLm(tokenizer=str(tmp_path), text="t")
    item = task.prepare({"t": TEXTS["words"]}, generator=None)
    assert 3 < len(item["input_ids"]) < 64
    assert not item["truncated"]
