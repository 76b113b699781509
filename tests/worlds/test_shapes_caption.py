"""Captions name the truth: a reader of words alone finds every attribute again."""

import copy
import itertools
import re

import pytest

from vidsim.core.errors import BadInput
from vidsim.worlds import base
from vidsim.worlds.shapes import vocabulary as v
from vidsim.worlds.shapes.caption import ATTRIBUTES

DIRECTIONS = sorted(v.DIRECTIONS, key=len, reverse=True)  # longest first: "up-left" before "up"


@pytest.fixture(scope="module")
def infos():
    world = base.make("shapes", split="all", seed=3, size=800)
    return [world.info(i) for i in range(800)]


def words_of(text, vocabulary):
    found = re.findall("|".join(rf"\b{re.escape(word)}\b" for word in vocabulary), text)
    return list(found)


def phrases(text, truth):
    """The part of a caption that speaks of each object: from its name to the next one's."""
    names = [f"{thing['colour']} {thing['shape']}" for thing in truth["objects"]]
    starts = [text.index(name) for name in names]
    assert starts == sorted(starts)
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def test_both_kinds_are_there_and_short_comes_first(infos):
    for info in infos:
        assert [caption.kind for caption in info.captions] == ["short", "descriptive"]
        assert len(info.captions[0].text) < len(info.captions[1].text)


def test_every_caption_names_objects_background_and_motion(infos):
    for info in infos:
        for caption in info.captions:
            text, truth = caption.text, info.truth
            head = text.split(";")[0]
            assert words_of(head, v.COLOURS) == [thing["colour"] for thing in truth["objects"]]
            assert words_of(head, v.SHAPES) == [thing["shape"] for thing in truth["objects"]]
            assert words_of(text, v.TINTS) == [truth["background"]["tint"]]
            assert words_of(text, v.PATTERNS) == [truth["background"]["pattern"]]
            for phrase, thing in zip(phrases(head, truth), truth["objects"], strict=True):
                told = words_of(phrase, [*DIRECTIONS, v.STILL])
                assert told == ([thing["direction"]] if thing["direction"] else [])
                assert ("bounc" in phrase) == thing["bounce"]


def test_the_descriptive_caption_names_the_rest(infos):
    for info in infos:
        text, truth = info.captions[1].text, info.truth
        assert words_of(text, v.STYLES) == [truth["style"]]
        assert words_of(text, v.SIZES) == [thing["size"] for thing in truth["objects"]]
        speeds = [thing["speed"] for thing in truth["objects"] if thing["speed"]]
        told = words_of(text, ["slowly", "quickly"])
        assert told == [{"slow": "slowly", "fast": "quickly"}[speed] for speed in speeds]
        assert text.count("partly out of frame") == sum(t["crosses"] for t in truth["objects"])
        relation = text.split(";")[1] if truth["relation"] else ""
        assert words_of(relation, v.RELATIONS) == ([truth["relation"]] if truth["relation"] else [])


def test_captions_are_compact_ascii(infos):
    for info in infos:
        short, descriptive = (caption.text for caption in info.captions)
        assert short.isascii() and descriptive.isascii()
        if len(info.truth["objects"]) == 1:
            assert 20 <= len(short) <= 75 and len(descriptive) <= 160


def test_wording_varies(infos):
    shape = re.compile("|".join(map(re.escape, itertools.chain(v.COLOURS, v.SHAPES, v.TINTS,
                                v.PATTERNS, DIRECTIONS, v.SIZES, v.STYLES))))  # fmt: skip
    skeletons = {
        shape.sub("_", info.captions[0].text)
        for info in infos
        if len(info.truth["objects"]) == 1 and not info.truth["objects"][0]["bounce"]
    }
    assert len(skeletons) >= 8


def test_no_word_serves_two_attributes():
    families = [v.COLOURS, v.SHAPES, v.TINTS, v.PATTERNS, v.STYLES, v.SIZES]
    words = [word for family in families for word in family]
    assert len(set(words)) == len(words)
    for a, b in itertools.permutations(words, 2):
        assert a not in b


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_rewording_changes_one_attribute_of_the_sentence_alone(attribute):
    world, stated = base.make("shapes", seed=5, size=60, objects=1), 0
    for i in range(60):
        truth = world.info(i).truth
        pair = world.reworded(truth, attribute, i)
        assert pair == world.reworded(truth, attribute, i)
        if pair is None:
            assert attribute == "direction" and truth["objects"][0]["direction"] in (None, v.STILL)
            continue
        stated += 1
        for right, wrong in zip(*pair, strict=True):
            old, new = (
                set(re.findall(r"[\w-]+", one.text)) - {"a", "an"} for one in (right, wrong)
            )
            assert len(old - new) == len(new - old) == 1 and right.kind == wrong.kind
            assert old - new | new - old <= set(ATTRIBUTES[attribute])
    assert stated >= 20


def test_rewording_leaves_the_truth_alone_and_knows_its_attributes():
    world = base.make("shapes", seed=5, size=2)
    truth = world.info(0).truth
    before = copy.deepcopy(truth)
    world.reworded(truth, "shape", 0)
    assert truth == before
    with pytest.raises(BadInput, match="shap"):
        world.reworded(truth, "shap", 0)
