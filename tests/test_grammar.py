"""The grammar against its enumeration, its samples and the rules of English."""

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import pytest

from vae_jax.data import grammar
from vae_jax.data.grammar import Sample
from vae_jax.data.grammar_words import (
    RULES,
    START,
    TOPICS,
    Rule,
    Rules,
    Topic,
    grammar_rules,
)

TINY = grammar_rules(
    {
        "sea": Topic(
            people="sailor sailors",
            things="ship ships",
            deeds="steer steers steered",
            dealings="warn warns warned",
            adjectives="wet",
            places="off the coast",
        )
    }
)
# Two derivations of "a a a", in each part two of "b"; the last part may be empty.
AMBIGUOUS = {
    START: (Rule(1.0, ("left", "right", "end")),),
    "left": (Rule(0.3, ("a",)), Rule(0.7, ("a", "a"))),
    "right": (Rule(0.6, ("a",)), Rule(0.4, ("a", "a"))),
    "end": (Rule(0.7, ()), Rule(0.1, ("b",)), Rule(0.2, ("mark",))),
    "mark": (Rule(1.0, ("b",)),),
}


@pytest.fixture(scope="module")
def samples() -> list[Sample]:
    return grammar.sample(0, 20_000)


def enumerated(parts: tuple[str, ...], rules: Rules) -> Iterator[tuple[tuple[str, ...], float]]:
    """Every derivation of some parts, as its words and its probability."""
    if not parts:
        yield (), 1.0
        return
    first, *rest = parts
    for after, q in enumerated(tuple(rest), rules):
        if first not in rules:
            yield (first, *after), q
            continue
        for p, expansion in rules[first]:
            for before, own in enumerated(expansion, rules):
                yield before + after, p * own * q


def listed_words(topic: Topic) -> list[str]:
    """The words that belong to a topic alone; of a place it is the noun."""
    return [
        word
        for words in topic
        for entry in words.split(",")
        for word in (entry.split()[-1:] if words == topic.places else entry.split())
    ]


def swapped(words: tuple[str, ...], position: int, word: str) -> tuple[str, ...]:
    return (*words[:position], word, *words[position + 1 :])


@pytest.mark.parametrize("rules", [RULES, TINY], ids=["all", "tiny"])
def test_the_ways_of_each_symbol_have_probabilities_that_sum_to_one(rules):
    for symbol, ways in rules.items():
        assert math.fsum(p for p, _ in ways) == pytest.approx(1, abs=1e-12), symbol
        assert all(p > 0 for p, _ in ways)


def test_every_symbol_is_reached():
    reached, waiting = set(), [START]
    while waiting:
        symbol = waiting.pop()
        if symbol not in reached:
            reached.add(symbol)
            waiting += [part for rule in RULES.get(symbol, ()) for part in rule.expansion]
    assert reached == RULES.keys() | set(grammar.vocabulary())


def test_the_words_tell_the_topic_and_their_form():
    words = [word for topic in TOPICS.values() for word in listed_words(topic)]
    assert len(words) == len(set(words)) == 8 * (2 * 4 * 2 + 6 * 3 + 3 + 2)
    assert 250 <= len(grammar.vocabulary()) <= 400
    assert all(word == word.lower() for word in grammar.vocabulary())


def test_the_enumerated_grammar_has_the_entropy_and_the_probabilities():
    found = list(enumerated((START,), TINY))
    # Contents, subjects (determiner and modifier), predicates, tails.
    assert len(found) == 12 * (3 * 6) * (1 + 12 + 12) * (1 + 6 + 1)
    sentences = dict(found)
    assert len(sentences) == len(found), "a sentence has two derivations"
    assert grammar.vocabulary(TINY) == tuple(sorted(set().union(*sentences)))
    # Sums of 43,200 terms, each correctly rounded to 1e-16 and none negative.
    assert math.fsum(sentences.values()) == pytest.approx(1, abs=1e-12)
    entropy = -math.fsum(p * math.log(p) for p in sentences.values())
    assert grammar.entropy(TINY) == pytest.approx(entropy, abs=1e-11)
    for words, p in found[::199]:
        assert grammar.log_prob(words, TINY) == pytest.approx(math.log(p), abs=1e-12)


def test_an_ambiguous_sentence_has_the_sum_of_its_derivations():
    sentences = defaultdict(float)
    for words, p in enumerated((START,), AMBIGUOUS):
        sentences[words] += p
    assert len(sentences) == 6
    assert sentences["a", "a", "a"] == pytest.approx(0.7 * (0.3 * 0.4 + 0.7 * 0.6))
    for words, p in sentences.items():
        assert math.exp(grammar.log_prob(words, AMBIGUOUS)) == pytest.approx(p)
    # The entropy is that of the derivations, three independent choices.
    choices = [(0.3, 0.7), (0.6, 0.4), (0.7, 0.1, 0.2)]
    expected = -sum(p * math.log(p) for choice in choices for p in choice)
    assert grammar.entropy(AMBIGUOUS) == pytest.approx(expected)


def test_the_probability_of_a_sentence_counted_by_hand():
    # Content, modifier, determiner, noun, predicate, verb, tail.
    p = 1 / 96 * 1 / 4 * 1 / 2 * 1 / 4 * 1 / 4 * 1 / 4 * 0.4
    assert grammar.log_prob(["the", "sailor", "steers", "."]) == pytest.approx(math.log(p))


def test_each_sentence_has_one_derivation(samples):
    # Two derivations would make the inside probability larger than that of the one drawn.
    for words, content, log_prob in samples[:300]:
        assert grammar.log_prob(words) == pytest.approx(log_prob, abs=1e-12)
        assert grammar.content_of(words) == content


def test_samples_cost_the_entropy_on_average(samples):
    costs = np.array([-drawn.log_prob for drawn in samples])
    standard_error = costs.std(ddof=1) / math.sqrt(len(costs))
    assert abs(costs.mean() - grammar.entropy()) < 4 * standard_error
    assert 14 < grammar.entropy() < 20


def test_samples_choose_with_the_probabilities_of_the_rules(samples):
    expected = {
        "the": 0.5,  # of the subject's determiners
        "clause": 0.25,
        "adverb": 0.3,
        "deed alone, no tail": 0.25 * 0.4,
    }
    found = Counter()
    adverbs = {rule.expansion[0] for rule in RULES["adverb"]}
    for words, content, _ in samples:
        topic = TOPICS[content.topic]
        found["the"] += words[content.kind == "question"] == "the"
        found["clause"] += "that" in words
        found["adverb"] += words[-2] in adverbs
        found["deed alone, no tail"] += words[-2] in topic.deeds.replace(",", "").split()
    for event, p in expected.items():
        standard_error = math.sqrt(p * (1 - p) / len(samples))
        assert abs(found[event] / len(samples) - p) < 4 * standard_error, event


def test_the_content_is_uniform(samples):
    assert grammar.global_information() == pytest.approx(math.log(8 * 3 * 2 * 2))
    counts = Counter(drawn.content for drawn in samples)
    expected = len(samples) / 96
    chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
    assert len(counts) == 96
    # Its mean is 95 and its variance 2 * 95.
    assert abs(chi_squared - 95) < 4 * math.sqrt(2 * 95)


def test_the_words_show_the_content(samples):
    for words, content, _ in samples[:2000]:
        assert (words[-1] == "?") == (content.kind == "question")
        assert ("not" in words) == (content.kind == "negation")
        topic = TOPICS[content.topic]
        base, third, past = (
            {entry.split()[form] for entry in f"{topic.deeds},{topic.dealings}".split(",")}
            for form in range(3)
        )
        shown = set(words)
        if content.kind == "statement":
            assert bool(shown & past) == (content.tense == "past")
            main = {"past": past, "singular": third, "plural": base}
        else:
            main = {"past": {"did"}, "singular": {"does"}, "plural": {"do"}}
        assert shown & main["past" if content.tense == "past" else content.number]
        noun = next(word for word in words if word in topic.people.replace(",", "").split())
        singular = {entry.split()[0] for entry in topic.people.split(",")}
        assert (noun in singular) == (content.number == "singular")


def test_a_verb_of_the_other_number_is_refused(samples):
    other = {"do": "does", "does": "do"}
    for topic in TOPICS.values():
        for entry in f"{topic.deeds},{topic.dealings}".split(","):
            base, third, _ = entry.split()
            other |= {base: third, third: base}
    present = [drawn for drawn in samples[:200] if drawn.content.tense == "present"]
    for words, *_ in present:
        for position, word in enumerate(words):
            if word in other:
                assert not grammar.accepts(swapped(words, position, other[word]))


@pytest.mark.parametrize(
    "between", ["", "of the forts ", "of the fort ", "that the spies obey ", "that the spy obeys "]
)
def test_agreement_reaches_across_what_stands_between(between):
    for right, wrong in [
        ("this general {}builds the bridge .", "this general {}build the bridge ."),
        ("these generals {}build the bridge .", "these generals {}builds the bridge ."),
        ("do these generals {}build ?", "does these generals {}build ?"),
        ("does this general {}build ?", "does this general {}builds ?"),
        ("this general {}does not build .", "this general {}do not build ."),
    ]:
        assert grammar.accepts(right.format(between).split())
        assert not grammar.accepts(wrong.format(between).split())


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("sailor that the divers warn sinks", "sailor that the divers warns sinks"),
        ("sailors that the diver warns sink", "sailors that the diver warn sink"),
        ("sailors that the diver warned sank", "sailors that the diver warns sank"),
    ],
)
def test_a_clause_agrees_with_its_own_subject_and_the_tense_of_the_sentence(right, wrong):
    assert grammar.accepts(f"the {right} .".split())
    assert not grammar.accepts(f"the {wrong} .".split())


def test_a_word_of_another_topic_is_refused(samples):
    names = list(TOPICS)
    following = dict(zip(names, names[1:] + names[:1], strict=True))
    foreign = {
        word: replacement
        for name in names
        for word, replacement in zip(
            listed_words(TOPICS[name]), listed_words(TOPICS[following[name]]), strict=True
        )
    }
    for words, *_ in samples[:60]:
        for position, word in enumerate(words):
            if word in foreign:
                assert not grammar.accepts(swapped(words, position, foreign[word]))


@pytest.mark.parametrize(
    "words",
    [
        "",
        ".",
        "the sailor steers",
        "the sailor steers . .",
        "the sailor steers ?",
        "the sailor did steers .",
        "sailor steers .",
        "the captain rescues .",
        "the captain rescues the ship .",
        "the sailor did not steered .",
        "the captain of the raft of the sailor steers .",
        "the captain steers the <unk> .",
        START,
    ],
)
def test_what_is_no_sentence_is_refused(words):
    assert not grammar.accepts(words.split())
    assert grammar.log_prob(words.split()) == -math.inf
    assert grammar.content_of(words.split()) is None


def test_a_grammar_of_other_topics_is_drawn_and_read():
    sentences = dict(enumerated((START,), TINY))
    for words, content, log_prob in grammar.sample(0, 100, TINY):
        assert math.exp(log_prob) == pytest.approx(sentences[words])
        assert grammar.content_of(words, TINY) == content
        assert grammar.accepts(words, TINY)
    assert grammar.global_information(TINY) == pytest.approx(math.log(12))


def test_a_seed_is_its_sentences(samples):
    assert grammar.sample(0, 100) == samples[:100]
    assert grammar.sample(1, 100) != samples[:100]


def test_every_word_is_drawn_and_every_length_allowed(samples):
    words = Counter(itertools.chain.from_iterable(drawn.words for drawn in samples))
    assert words.keys() == set(grammar.vocabulary())
    assert {len(drawn.words) for drawn in samples} == set(range(4, 17))
