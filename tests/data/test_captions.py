"""Byte tokens, and which caption of a clip is drawn when."""

import dataclasses

import numpy as np
import pytest

from vidsim.core.errors import BadInput
from vidsim.core.host_random import stable_hash
from vidsim.data.captions import NO_CAPTION, CaptionConfig, draw_caption, draw_captions
from vidsim.data.record import Caption
from vidsim.data.tokenizer import BOS, PAD, Tokenizer, clean, frequent_words


@dataclasses.dataclass
class Columns:
    """The caption columns of an index, made from a list of clips."""

    clip_id: list
    caption_start: np.ndarray
    caption_kind: np.ndarray
    text_tokens: np.ndarray
    kinds: tuple
    texts: list

    @property
    def clip_hash(self):
        return np.array([stable_hash("clip id", name) for name in self.clip_id], np.uint64)

    def caption_text(self, number):
        return self.texts[number]


def columns(clips):
    flat = [caption for _, captions in clips for caption in captions]
    kinds = tuple(sorted({caption.kind for caption in flat}))
    return Columns(
        clip_id=[name for name, _ in clips],
        caption_start=np.cumsum([0, *(len(captions) for _, captions in clips)]),
        caption_kind=np.array([kinds.index(caption.kind) for caption in flat], np.int16),
        text_tokens=np.array([Tokenizer(1).count(caption.text) for caption in flat], np.int32),
        kinds=kinds,
        texts=[caption.text for caption in flat],
    )


def many(number, *kinds):
    """`number` clips with captions of these kinds."""
    return columns(
        [
            (f"clip {i}", [Caption(f"{kind} {i} {j}", kind) for j, kind in enumerate(kinds)])
            for i in range(number)
        ]
    )


def shares(index, config, **options):
    drawn = draw_captions(index, config, seed=options.get("seed", 5), epoch=0, max_tokens=99)
    ordinal = drawn.number - index.caption_start[:-1]
    return np.bincount(ordinal, minlength=index.caption_start[1]) / len(index.clip_id)


def test_kinds_are_drawn_by_their_weights():
    number = 40_000
    index = many(number, "short", "descriptive")
    found = shares(index, CaptionConfig((("short", 1.0), ("descriptive", 3.0))))
    # Five standard deviations of a binomial share.
    np.testing.assert_allclose(found, [0.25, 0.75], atol=5 * np.sqrt(0.25 * 0.75 / number))


def test_captions_of_one_kind_share_its_weight():
    number = 40_000
    index = many(number, "short", "descriptive", "descriptive", "other")
    config = CaptionConfig((("short", 2.0), ("descriptive", 1.0)), other=1.0)
    expected = np.array([2, 0.5, 0.5, 1]) / 4
    tolerance = 5 * np.sqrt(0.25 / number)
    np.testing.assert_allclose(shares(index, config), expected, atol=tolerance)


def test_a_kind_of_weight_zero_is_never_drawn():
    index = many(5000, "short", "descriptive", "given")
    config = CaptionConfig((("short", 0.0), ("descriptive", 1.0)), other=0.0)
    np.testing.assert_array_equal(shares(index, config), [0, 1, 0])
    with pytest.raises(
        BadInput, match="all captions of clip 0 have weight 0; kinds given; give one"
    ):
        shares(many(10, "given"), config)


def test_draws_change_with_seed_and_epoch_and_follow_the_clip():
    config = CaptionConfig((("short", 1.0), ("descriptive", 1.0)))
    index = many(2000, "short", "descriptive")

    def draw(index, seed, epoch):
        return draw_captions(index, config, seed, epoch, 99).number - index.caption_start[:-1]

    first = draw(index, 1, 0)
    np.testing.assert_array_equal(first, draw(index, 1, 0))
    for other in (draw(index, 2, 0), draw(index, 1, 1)):
        assert abs((first == other).mean() - 0.5) < 0.06  # five standard deviations
    # The same clips in another order, among others that have none or several captions.
    order = np.random.default_rng(0).permutation(2000)
    clips = []
    for i in order:
        clips.append((f"clip {i}", [Caption("x", "short"), Caption("y", "descriptive")]))
        clips.append((f"bare {i}", []))
        clips.append((f"rich {i}", [Caption("z", "short")] * 3))
    shuffled = draw(columns(clips), 1, 0)
    np.testing.assert_array_equal(shuffled[::3], first[order])


def test_one_clip_is_drawn_as_among_all():
    index = columns(
        [
            ("a", [Caption("one", "short"), Caption("two", "descriptive")]),
            ("b", []),
            ("c", [Caption("three", "short")]),
            ("d", [Caption("four", "x"), Caption("five", "x"), Caption("six", "y")]),
        ]
    )
    for epoch in range(20):
        drawn = draw_captions(index, CaptionConfig(), 3, epoch, 99)
        assert drawn.number[1] == NO_CAPTION and drawn.tokens[1] == 1
        texts = [draw_caption(index, i, 3, epoch) for i in range(4)]
        assert texts == [index.texts[n] if n >= 0 else "" for n in drawn.number]
        some = draw_captions(index, CaptionConfig(), 3, epoch, 99, np.array([3, 0]))
        np.testing.assert_array_equal(some.number, drawn.number[[3, 0]])


def test_what_is_cut_is_counted():
    index = columns(
        [("a", [Caption("x" * 20, "short")]), ("b", [Caption("y", "short")]), ("c", [])]
    )
    drawn = draw_captions(index, CaptionConfig(), 0, 0, max_tokens=8)
    assert drawn.tokens.tolist() == [8, 2, 1]
    assert (drawn.cut, drawn.cut_tokens) == (1, 13)
    tokenizer = Tokenizer(8)
    assert len(tokenizer.encode("x" * 20)) == 8


def test_wrong_weights_are_refused():
    for wrong in ({"weights": (("a", -1.0),)}, {"other": float("inf")}):
        with pytest.raises(BadInput, match="CaptionConfig: weight of"):
            CaptionConfig(**wrong)
    with pytest.raises(BadInput, match="a kind comes twice"):
        CaptionConfig((("a", 1.0), ("a", 2.0)))


@pytest.mark.parametrize("text", ["", "plain", "Grüße, 世界 🎬", "a\u0301"])
def test_tokens_are_the_utf8_bytes(text):
    tokens = Tokenizer(100).encode(text)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [1, *(byte + 2 for byte in text.encode("utf-8"))]
    assert len(tokens) == Tokenizer(1).count(text)
    assert Tokenizer(100).decode(np.append(tokens, [PAD, PAD])) == text
    assert (tokens[0], tokens.max(initial=0) < Tokenizer(1).vocab) == (BOS, True)


def test_a_cut_never_splits_a_character():
    text = "ab世界🎬"
    for length in range(1, 15):
        tokens = Tokenizer(length).encode(text)
        kept = Tokenizer(length).decode(tokens)
        assert text.startswith(kept) and "\ufffd" not in kept
        missing = text[len(kept) :]
        assert len(tokens) <= length
        assert not missing or len(tokens) + len(missing[0].encode()) > length
    with pytest.raises(BadInput, match="max_tokens=0; at least 1, the start token"):
        Tokenizer(0)


def test_the_hash_names_the_scheme_not_the_length():
    assert Tokenizer(5).hash == Tokenizer(500).hash


def test_texts_are_cleaned():
    assert clean("  a\tred\x00\n ball\u200b \r\n") == "a red ball"
    assert clean("e\u0301") == "\u00e9"


WORDS = ("a", "red", "circle", "moves", "left")


def test_words_that_the_vocabulary_lacks_are_named_once_and_signs_never():
    tokenizer = Tokenizer(9, (*WORDS, "down-left"))
    assert tokenizer.spelled("red circle moves left, a 12") == ()
    assert tokenizer.spelled("a circle moves down-left") == ()
    assert tokenizer.spelled("A red ötzi; 3 yaks, red yaks left-up") == ("A", "ötzi", "yaks", "up")
    assert Tokenizer(9).spelled("a yak") == ()


@pytest.mark.parametrize(
    "text", ["a red circle moves left", "Red circle, a red ötzi!", " a", "a-red 12 circles", ""]
)
def test_words_and_bytes_spell_every_text(text):
    tokenizer = Tokenizer(200, WORDS)
    tokens = tokenizer.encode(clean(text))
    assert tokenizer.decode(tokens) == clean(text)
    assert len(tokens) == tokenizer.count(clean(text))


def test_a_known_word_is_one_token_and_cuts_fall_between_words():
    tokenizer = Tokenizer(4, WORDS)
    assert tokenizer.count("a red circle moves left") == 6
    assert tokenizer.decode(tokenizer.encode("a red circle moves left")) == "a red circle"
    assert tokenizer.hash != Tokenizer(4).hash


def test_frequent_words_are_ranked_by_count_then_alphabet():
    texts = ["red ball, blue ball", "a red ball", "blue sky"]
    assert frequent_words(texts, 10) == ("ball", "blue", "red")
    assert frequent_words(texts, 1) == ("ball",)


def test_parts_joined_by_hyphens_are_one_word_and_no_word_loses_its_first_letter():
    texts = ["a ball moves down-left", "a cube (red) moves down-left", "moves up-left (red)"]
    words = frequent_words(texts, 10)
    assert words == ("moves", "a", "down-left")
    tokenizer = Tokenizer(99, words)
    assert tokenizer.count("a moves down-left") == 4
    assert tokenizer.decode(tokenizer.encode("a down-left, down-left-up")) == (
        "a down-left, down-left-up"
    )


def test_a_compound_that_is_no_word_is_read_by_its_parts():
    """As vocabularies without compounds always were."""
    tokenizer = Tokenizer(99, ("moves", "down"))
    assert tokenizer.encode("moves down-up").tolist() == [
        1, 258, 259, *(byte + 2 for byte in b"-up")
    ]  # fmt: skip
    assert tokenizer.encode("down-up").tolist() == [1, 259, *(byte + 2 for byte in b"-up")]
