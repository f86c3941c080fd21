"""The words of an embedded grammar of English-like sentences, and the rules that join them.

A sentence has a content that holds from its first word to its last: a topic, whether it is a
statement, a negation or a question, the number of its subject and its tense. The content is
chosen first and every later choice obeys it.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

KINDS = ("statement", "negation", "question")
"""What a sentence does."""

NUMBERS = ("singular", "plural")
"""Of the subject; the forms of a noun stand in this order."""

TENSES = ("present", "past")
"""Of every verb of a sentence."""

START = "sentence"
"""The symbol that every derivation begins with."""

_AUXILIARY = {"base": "do", "third person": "does", "past": "did"}
_FORMS = tuple(_AUXILIARY)  # of a verb, in the order of the word lists
_DETERMINERS = {"singular": ("the", "this", "every"), "plural": ("the", "these", "some")}
_ADVERBS = ("again", "alone", "carefully", "quickly", "quietly", "today")


class Content(NamedTuple):
    """What holds for a whole sentence.

    Attributes:
        topic: of `TOPICS`; every noun, verb, adjective and place is of it.
        kind: of `KINDS`.
        number: of `NUMBERS`; the verb agrees with it across whatever stands between.
        tense: of `TENSES`.
    """

    topic: str
    kind: str
    number: str
    tense: str


class Rule(NamedTuple):
    """One way to rewrite a symbol.

    Attributes:
        probability: of this way among those of its symbol; positive.
        expansion: the symbols and words that take its place; it may be empty.
    """

    probability: float
    expansion: tuple[str, ...]


Rules = Mapping[str, Sequence[Rule]]
"""The ways to rewrite each symbol; what is no key is a word. No symbol leads back to itself."""


class Topic(NamedTuple):
    """The words of a topic, each list separated by commas.

    Attributes:
        people: nouns of those who act, singular and plural.
        things: nouns of what they act on, singular and plural.
        deeds: verbs that a thing may follow; base form, third person, past.
        dealings: verbs that a person must follow; the same forms.
        adjectives: of both.
        places: whole phrases.
    """

    people: str
    things: str
    deeds: str
    dealings: str
    adjectives: str
    places: str


TOPICS = {
    "kitchen": Topic(
        people="chef chefs, baker bakers, waiter waiters, guest guests",
        things="soup soups, cake cakes, sauce sauces, pie pies",
        deeds="bake bakes baked, stir stirs stirred, taste tastes tasted, serve serves served",
        dealings="feed feeds fed, thank thanks thanked",
        adjectives="sweet, tidy, fresh",
        places="in the pantry, at the table",
    ),
    "sea": Topic(
        people="sailor sailors, captain captains, pirate pirates, diver divers",
        things="ship ships, boat boats, raft rafts, ferry ferries",
        deeds="steer steers steered, repair repairs repaired, load loads loaded, sink sinks sank",
        dealings="rescue rescues rescued, warn warns warned",
        adjectives="wet, lonely, distant",
        places="near the harbour, off the coast",
    ),
    "school": Topic(
        people="teacher teachers, pupil pupils, student students, tutor tutors",
        things="lesson lessons, book books, essay essays, poem poems",
        deeds="learn learns learned, write writes wrote, study studies studied, "
        "explain explains explained",
        dealings="teach teaches taught, praise praises praised",
        adjectives="clever, difficult, new",
        places="in the classroom, in the library",
    ),
    "court": Topic(
        people="judge judges, lawyer lawyers, witness witnesses, thief thieves",
        things="verdict verdicts, trial trials, crime crimes, law laws",
        deeds="argue argues argued, confess confesses confessed, debate debates debated, "
        "recall recalls recalled",
        dealings="accuse accuses accused, defend defends defended",
        adjectives="honest, serious, famous",
        places="in the courtroom, before the jury",
    ),
    "garden": Topic(
        people="gardener gardeners, florist florists, farmer farmers, neighbour neighbours",
        things="rose roses, tree trees, hedge hedges, flower flowers",
        deeds="plant plants planted, water waters watered, trim trims trimmed, grow grows grew",
        dealings="help helps helped, visit visits visited",
        adjectives="wild, tall, lovely",
        places="behind the fence, beside the pond",
    ),
    "market": Topic(
        people="merchant merchants, buyer buyers, trader traders, customer customers",
        things="carpet carpets, basket baskets, ring rings, coat coats",
        deeds="sell sells sold, buy buys bought, weigh weighs weighed, carry carries carried",
        dealings="pay pays paid, cheat cheats cheated",
        adjectives="cheap, local, fancy",
        places="on the square, in the street",
    ),
    "army": Topic(
        people="soldier soldiers, general generals, officer officers, spy spies",
        things="tank tanks, fort forts, bridge bridges, camp camps",
        deeds="attack attacks attacked, guard guards guarded, build builds built, "
        "destroy destroys destroyed",
        dealings="obey obeys obeyed, follow follows followed",
        adjectives="brave, silent, heavy",
        places="on the battlefield, across the border",
    ),
    "music": Topic(
        people="singer singers, drummer drummers, pianist pianists, composer composers",
        things="song songs, melody melodies, waltz waltzes, tune tunes",
        deeds="sing sings sang, practise practises practised, perform performs performed, "
        "compose composes composed",
        dealings="admire admires admired, applaud applauds applauded",
        adjectives="gentle, loud, joyful",
        places="on the stage, in the theatre",
    ),
}
"""The word lists. No noun, verb, adjective or place is in two of them, and no two forms of a
word are spelt alike: a sentence therefore tells its content."""


def grammar_rules(topics: Mapping[str, Topic]) -> dict[str, tuple[Rule, ...]]:
    """The grammar of some topics.

    The four parts of the content are independent, each with equal probabilities. A subject has
    one modifier at most, so a sentence has 4 to 16 words, punctuation included.

    Args:
        topics: the words of each; a name is one word.

    Returns:
        The rules. A symbol is what it stands for with what it must agree with, separated by
        blanks: `subject sea plural past`.

    Example:
        >>> rules = grammar_rules({"sea": TOPICS["sea"]})
        >>> rules["sea question plural past"][0].expansion
        ('did', 'subject sea plural past', 'predicate sea base', 'tail sea', '?')
        >>> rules["predicate sea base"][0]
        Rule(probability=0.25, expansion=('deed sea base',))
    """
    contents = itertools.product(topics, KINDS, NUMBERS, TENSES)
    rules = {START: _uniform((" ".join(content),) for content in contents)}
    rules["adverb"] = _uniform((word,) for word in _ADVERBS)
    for number, words in _DETERMINERS.items():
        rules[f"determiner {number}"] = tuple(
            Rule(0.5 if word == "the" else 0.25, (word,)) for word in words
        )
    for name, topic in topics.items():
        rules |= _lexicon(name, topic) | _phrases(name) | _sentences(name)
    return rules


def _lexicon(topic: str, words: Topic) -> dict[str, tuple[Rule, ...]]:
    rules = {
        f"adjective {topic}": _uniform(_split(words.adjectives)),
        f"place {topic}": _uniform(_split(words.places)),
    }
    inflected = [
        ("person", words.people, NUMBERS),
        ("thing", words.things, NUMBERS),
        ("deed", words.deeds, _FORMS),
        ("dealing", words.dealings, _FORMS),
    ]
    for role, listed, features in inflected:
        for feature, forms in zip(features, zip(*_split(listed), strict=True), strict=True):
            rules[f"{role} {topic} {feature}"] = _uniform((form,) for form in forms)
    return rules


def _phrases(topic: str) -> dict[str, tuple[Rule, ...]]:
    adjective = f"adjective {topic}"
    rules = {
        f"thing {topic}": _uniform((f"thing {topic} {number}",) for number in NUMBERS),
        f"tail {topic}": (
            Rule(0.4, ()),
            Rule(0.3, ("adverb",)),
            Rule(0.3, (f"place {topic}",)),
        ),
    }
    for role in ("person", "thing"):
        rules[f"object {role} {topic}"] = _uniform(
            (f"determiner {number}", *modifier, f"{role} {topic} {number}")
            for number in NUMBERS
            for modifier in ((), (adjective,))
        )
    for form in _FORMS:
        deed, dealing = f"deed {topic} {form}", f"dealing {topic} {form}"
        rules[f"predicate {topic} {form}"] = (
            Rule(0.25, (deed,)),
            Rule(0.5, (deed, f"object thing {topic}")),
            Rule(0.25, (dealing, f"object person {topic}")),
        )
    for tense in TENSES:
        rules[f"clause {topic} {tense}"] = _uniform(
            ("that", "the", f"person {topic} {number}", f"dealing {topic} {_form(number, tense)}")
            for number in NUMBERS
        )
    for number, tense in itertools.product(NUMBERS, TENSES):
        determiner, noun = f"determiner {number}", f"person {topic} {number}"
        rules[f"subject {topic} {number} {tense}"] = _uniform(
            [
                (determiner, noun),
                (determiner, adjective, noun),
                (determiner, noun, "of", "the", f"thing {topic}"),
                (determiner, noun, f"clause {topic} {tense}"),
            ]
        )
    return rules


def _sentences(topic: str) -> dict[str, tuple[Rule, ...]]:
    rules = {}
    for number, tense in itertools.product(NUMBERS, TENSES):
        form = _form(number, tense)
        subject, tail = f"subject {topic} {number} {tense}", f"tail {topic}"
        finite, infinitive = f"predicate {topic} {form}", f"predicate {topic} base"
        auxiliary = _AUXILIARY[form]
        expansions = {
            "statement": (subject, finite, tail, "."),
            "negation": (subject, auxiliary, "not", infinitive, tail, "."),
            "question": (auxiliary, subject, infinitive, tail, "?"),
        }
        for kind, expansion in expansions.items():
            rules[" ".join(Content(topic, kind, number, tense))] = _uniform([expansion])
    return rules


def _form(number: str, tense: str) -> str:
    if tense == "past":
        return "past"
    return "third person" if number == "singular" else "base"


def _split(words: str) -> list[tuple[str, ...]]:
    return [tuple(entry.split()) for entry in words.split(",")]


def _uniform(expansions: Iterable[tuple[str, ...]]) -> tuple[Rule, ...]:
    listed = tuple(expansions)
    return tuple(Rule(1 / len(listed), expansion) for expansion in listed)


RULES = grammar_rules(TOPICS)
"""The grammar of all topics."""
