"""Questions about a scene with their true answers, and the checker that scores an answer."""

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

from training.embedded.sprites import Kind, SpriteBook, near_kinds
from training.scene_drawing import (
    PAINTS,
    WIDE_GROUPS,
    Scene,
    SceneThing,
    centre,
    true_colour,
)
from training.scene_words import (
    COLOUR_WORDS,
    NUMBERS,
    Mention,
    counted,
    kinds_by_name,
    mentions,
    number_word,
    sentence,
    tokens,
    with_article,
)

QuestionForm = Literal[
    "what",
    "how_many",
    "how_many_in_all",
    "is_there",
    "colour",
    "relation",
    "more_or_fewer",
    "odd_one_out",
    "yes_no",
    "multiple_choice",
    "motion",  # of clips only
]
FORMS: tuple[QuestionForm, ...] = tuple(form for form in get_args(QuestionForm) if form != "motion")
DIRECTIONS: dict[str, str] = {
    "left": "to the left of",
    "right": "to the right of",
    "above": "above",
    "below": "below",
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
DIRECTION_WORDS = {
    "left": "left",
    "right": "right",
    "above": "above",
    "over": "above",
    "higher": "above",
    "below": "below",
    "under": "below",
    "underneath": "below",
    "beneath": "below",
    "lower": "below",
}
MOTION_WORDS = {
    "left": "left",
    "leftward": "left",
    "leftwards": "left",
    "right": "right",
    "rightward": "right",
    "rightwards": "right",
    "up": "up",
    "upward": "up",
    "upwards": "up",
    "top": "up",
    "down": "down",
    "downward": "down",
    "downwards": "down",
    "bottom": "down",
}
CLEAR_STEP = 0.14  # centres this far apart are clearly left of or above one another
LETTERS = "ABCD"
HEDGES = re.compile(
    r"\b(maybe|perhaps|possibly|might|may be|could be|probably|not sure|unsure|either|or|"
    r"cannot tell|can't tell|hard to say|unclear|i think)\b"
)
YES = frozenset({"yes", "yeah", "yep", "correct", "true", "indeed"})
NO = frozenset({"no", "nope", "false", "incorrect", "wrong"})


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneQuestion:
    """A question with its true answer."""

    text: str
    answer: str  # as a good small assistant would say it
    form: QuestionForm
    accepted: tuple[str, ...]  # the truth first: a kind, a number word, yes or no, a colour, ...
    options: tuple[str, ...] = ()  # texts of a multiple choice, A first
    about: tuple[str, ...] = ()  # kinds the question is about


def ask_about(
    scene: Scene, book: SpriteBook, *, seed: int, n: int | None = None
) -> list[SceneQuestion]:
    """Questions about a scene, of different forms, the same for the same arguments.

    Args:
        n: how many; None for one of every form that this scene has an answer for.
    """
    rng = random.Random(f"questions {seed} {scene.seed}")
    view = View(scene, book)
    forms = list(FORMS)
    rng.shuffle(forms)
    asked: list[SceneQuestion] = []
    rounds = 1 if n is None else 4
    for _ in range(rounds):
        for form in forms:
            question = _ASK[form](view, rng)
            if question is not None and all(question.text != other.text for other in asked):
                asked.append(question)
    return asked if n is None else asked[:n]


def is_right(question: SceneQuestion, answer: str) -> bool:
    """Whether an answer says the truth, in whatever words; hedged and double answers are wrong."""
    folded = answer.lower().replace("’", "'")
    if not folded.strip() or HEDGES.search(folded):
        return False
    return _CHECK[question.form](question, answer)


class View:
    """What can be read off a scene, worked out once for all its questions."""

    def __init__(self, scene: Scene, book: SpriteBook) -> None:
        self.scene = scene
        self.book = book
        self.things = scene.things
        self.counts = Counter(thing.kind for thing in scene.things)
        self.kinds = kinds_by_name()
        near = near_kinds()
        self.unclear = {name for held in self.counts for name in near[held]}  # also the held ones

    def single(self) -> list[SceneThing]:
        """Things whose kind occurs once: "the dog" is clear."""
        clear = self.clear()
        return [
            thing for thing in self.things if self.counts[thing.kind] == 1 and thing.kind in clear
        ]

    def clear(self) -> list[str]:
        """Names of the kinds that no other thing in the scene could be taken for, sorted."""
        return sorted(name for name in self.counts if name not in self.unclear)

    def colours_of(self, kind: str) -> set[str | None]:
        """The colours of the things of a kind; None for one that has no single colour."""
        return {
            true_colour(thing, self.scene.style, self.book)
            for thing in self.things
            if thing.kind == kind
        }

    def absent(self, rng: random.Random) -> Kind:
        """A kind that is not in the scene; every other time of the same group as one that is."""
        fitting = [kind for kind in self.book.kinds if self._may_be_absent(kind)]
        if rng.random() < 0.5:
            group = self.kinds[rng.choice(self.things).kind].group
            fitting = [kind for kind in fitting if kind.group == group] or fitting
        return rng.choice(fitting)

    def _may_be_absent(self, kind: Kind) -> bool:
        if kind.name in self.counts or kind.name in self.unclear:
            return False
        # No unseen kind's name may slip into training through a wrong option.
        return kind.is_seen or not self.holds_seen

    @cached_property
    def holds_seen(self) -> bool:
        """Whether any thing is of the training split."""
        return any(self.kinds[name].is_seen for name in self.counts)


def relation_of(first: SceneThing, second: SceneThing) -> str | None:
    """Where the first thing clearly is from the second: left, right, above or below."""
    (x, y), (other_x, other_y) = centre(first.box), centre(second.box)
    across, down = x - other_x, y - other_y
    if max(abs(across), abs(down)) < CLEAR_STEP:
        return None
    if abs(across) > 1.6 * abs(down):
        return "left" if across < 0 else "right"
    if abs(down) > 1.6 * abs(across):
        return "above" if down < 0 else "below"
    return None


def _short_or_long(rng: random.Random, text: str, *, short: str, long: str) -> tuple[str, str]:
    """Most questions leave the length open; some ask for a word and get it."""
    if rng.random() < 0.2:
        hint = rng.choice(("Answer in a word or two.", "Answer briefly.", "Just the answer."))
        return f"{text} {hint}", sentence(short)
    return text, sentence(long)


def _ask_what(view: View, rng: random.Random) -> SceneQuestion | None:
    if len(view.counts) == 1:
        return _ask_what_alone(view, rng)
    thing, where = _stands_out(view, rng)
    if thing is None:
        return None
    kind = view.kinds[thing.kind]
    text = rng.choice(
        (f"What is {where}?", f"Which thing is {where}?", f"What do you see {where}?")
    )
    text, answer = _short_or_long(
        rng,
        text,
        short=kind.name,
        long=rng.choice((f"{with_article(kind.name)}", f"it is {with_article(kind.name)}")),
    )
    return SceneQuestion(
        text=text,
        answer=answer,
        form="what",
        accepted=(kind.name, *kind.synonyms),
        about=(kind.name,),
    )


def _ask_what_alone(view: View, rng: random.Random) -> SceneQuestion:
    (name, count), *_ = view.counts.items()
    kind = view.kinds[name]
    text = rng.choice(
        (
            "What is in this picture?",
            "What is this?" if count == 1 else "What are these?",
            "What do you see?",
            "What does the picture show?",
            "Which kind of thing is shown here?",
        )
    )
    what = counted(kind, count)
    is_or_are = "is" if count == 1 else "are"
    openings = {
        "What is this?": (f"this is {what}", f"it is {what}"),
        "What are these?": (f"these are {what}", f"they are {kind.plural}"),
        "What do you see?": (f"I see {what}", what),
        "What does the picture show?": (f"it shows {what}", f"the picture shows {what}"),
        "Which kind of thing is shown here?": (with_article(kind.name), kind.name),
    }
    long = rng.choice(openings.get(text, (f"there {is_or_are} {what}", what)))
    text, answer = _short_or_long(rng, text, short=kind.name, long=long)
    return SceneQuestion(
        text=text, answer=answer, form="what", accepted=(kind.name, *kind.synonyms), about=(name,)
    )


def _stands_out(view: View, rng: random.Random) -> tuple[SceneThing | None, str]:
    """A thing that one place in the picture clearly belongs to, and the words for the place."""
    things = view.things
    reads: list[tuple[Callable[[SceneThing], float], str]] = [
        (lambda thing: centre(thing.box)[0], "furthest to the left"),
        (lambda thing: -centre(thing.box)[0], "furthest to the right"),
        (lambda thing: centre(thing.box)[1], "at the very top"),
        (lambda thing: -centre(thing.box)[1], "at the very bottom"),
    ]
    rng.shuffle(reads)
    for read, where in reads:
        ranked = sorted(things, key=read)
        if read(ranked[1]) - read(ranked[0]) > 0.08:
            return ranked[0], where
    return None, ""


def _ask_how_many(view: View, rng: random.Random) -> SceneQuestion | None:
    clear = view.clear()
    if rng.random() < 0.08:
        kind, count = view.absent(rng), 0
    else:
        # By number rather than by kind: else one is the answer to every second question.
        counts = sorted({view.counts[name] for name in clear})
        if 1 in counts and rng.random() < 0.6:
            counts.remove(1)
        if not counts:
            return None
        count = rng.choice(counts)
        name = rng.choice([name for name in clear if view.counts[name] == count])
        kind = view.kinds[name]
    text = rng.choice(
        (
            f"How many {kind.plural} are there?",
            f"How many {kind.plural} do you see?",
            f"How many {kind.plural} are in the picture?",
            f"Count the {kind.plural}.",
            f"What is the number of {kind.plural}?",
        )
    )
    exact = (
        f"there is one {kind.name}"
        if count == 1
        else f"there are {number_word(count)} {kind.plural}"
    )
    if count == 0:
        exact = f"there are no {kind.plural}"
    text, answer = _short_or_long(rng, text, short=number_word(count), long=exact)
    return SceneQuestion(
        text=text,
        answer=answer,
        form="how_many",
        accepted=(number_word(count), str(count)),
        about=(kind.name,),
    )


def _ask_how_many_in_all(view: View, rng: random.Random) -> SceneQuestion:
    count = len(view.things)
    text = rng.choice(
        (
            "How many things are there in all?",
            "How many things are in the picture?",
            "How many objects do you see altogether?",
            "Count all the things in the picture.",
            "How many objects are there in total?",
        )
    )
    noun = "thing" if "thing" in text else "object"
    long = f"there is one {noun}" if count == 1 else f"there are {number_word(count)} {noun}s"
    text, answer = _short_or_long(rng, text, short=number_word(count), long=long)
    return SceneQuestion(
        text=text, answer=answer, form="how_many_in_all", accepted=(number_word(count), str(count))
    )


def _ask_is_there(view: View, rng: random.Random) -> SceneQuestion:
    is_true = rng.random() < 0.5
    kind = view.kinds[rng.choice(sorted(view.counts))] if is_true else view.absent(rng)
    one = with_article(kind.name)
    text = rng.choice(
        (
            f"Is there {one} in the picture?",
            f"Is there {one}?",
            f"Do you see {one}?",
            f"Can you see {one} here?",
            f"Does the picture show {one}?",
            f"Are there any {kind.plural}?",
        )
    )
    if is_true:
        count = view.counts[kind.name]
        long = rng.choice(
            ("yes", f"yes, there {'is' if count == 1 else 'are'} {counted(kind, count)}")
        )
    else:
        long = rng.choice(("no", f"no, there is no {kind.name}", f"no, I do not see {one}"))
    return _yes_or_no("is_there", text, rng, is_true=is_true, long=long, about=(kind.name,))


def _yes_or_no(
    form: QuestionForm,
    text: str,
    rng: random.Random,
    *,
    is_true: bool,
    long: str,
    about: tuple[str, ...],
) -> SceneQuestion:
    short = "yes" if is_true else "no"
    text, answer = _short_or_long(rng, text, short=short, long=long)
    return SceneQuestion(text=text, answer=answer, form=form, accepted=(short,), about=about)


def _ask_colour(view: View, rng: random.Random) -> SceneQuestion | None:
    askable = []
    for name in view.clear():
        colours = view.colours_of(name)
        colour = colours.pop() if len(colours) == 1 else None
        if colour is not None and not set(tokens(name)) & set(COLOUR_WORDS):
            askable.append((view.kinds[name], colour))
    if not askable:
        return _ask_backdrop(view, rng) if rng.random() < 0.6 else None
    kind, colour = rng.choice(askable)
    is_one = view.counts[kind.name] == 1
    what, verb = (kind.name, "is") if is_one else (kind.plural, "are")
    text = rng.choice(
        (
            f"What colour {verb} the {what}?",
            f"What color {verb} the {what}?",
            f"Which colour {'does' if is_one else 'do'} the {what} have?",
            f"The {what}: what colour {verb} {'it' if is_one else 'they'}?",
        )
    )
    text, answer = _short_or_long(rng, text, short=colour, long=f"the {what} {verb} {colour}")
    return SceneQuestion(
        text=text, answer=answer, form="colour", accepted=(colour,), about=(kind.name,)
    )


def _ask_backdrop(view: View, rng: random.Random) -> SceneQuestion:
    colour = view.scene.background.colour
    text = rng.choice(("What colour is the background?", "Which colour is behind everything?"))
    text, answer = _short_or_long(rng, text, short=colour, long=f"the background is {colour}")
    return SceneQuestion(text=text, answer=answer, form="colour", accepted=(colour,))


def _related(view: View, rng: random.Random) -> tuple[SceneThing, SceneThing, str] | None:
    """Two things, each alone of its kind, and where the first clearly is from the second."""
    single = view.single()
    pairs = [
        (first, second, where)
        for first in single
        for second in single
        if first is not second and (where := relation_of(first, second))
    ]
    return rng.choice(pairs) if pairs else None


def _ask_relation(view: View, rng: random.Random) -> SceneQuestion | None:
    found = _related(view, rng)
    if found is None:
        return None
    first, second, where = found
    text = rng.choice(
        (
            f"Where is the {first.kind}, seen from the {second.kind}?",
            f"Where is the {first.kind} relative to the {second.kind}?",
            f"Is the {first.kind} left of, right of, above or below the {second.kind}?",
            f"On which side of the {second.kind} is the {first.kind}?",
        )
    )
    short = where if where in ("above", "below") else f"to the {where}"
    long = f"the {first.kind} is {DIRECTIONS[where]} the {second.kind}"
    text, answer = _short_or_long(rng, text, short=short, long=long)
    return SceneQuestion(
        text=text,
        answer=answer,
        form="relation",
        accepted=(where,),
        about=(first.kind, second.kind),
    )


def _ask_more_or_fewer(view: View, rng: random.Random) -> SceneQuestion | None:
    clear = view.clear()
    if len(clear) < 2:
        return None
    for _ in range(4):  # a different number first: ties are the commonest pairs
        first, second = (view.kinds[name] for name in rng.sample(clear, 2))
        n_first, n_second = view.counts[first.name], view.counts[second.name]
        if n_first != n_second:
            break
    if n_first == n_second and rng.random() < 0.7:
        return None
    word = rng.choice(("more", "fewer"))
    text = rng.choice(
        (
            f"Are there {word} {first.plural} or {second.plural}?",
            f"Which are there {word} of, {first.plural} or {second.plural}?",
            f"What are there {word} of: {first.plural} or {second.plural}?",
        )
    )
    about = (first.name, second.name, word)
    if n_first == n_second:
        long = f"there are as many {first.plural} as {second.plural}"
        text, answer = _short_or_long(rng, text, short="the same number", long=long)
        return SceneQuestion(
            text=text, answer=answer, form="more_or_fewer", accepted=("same",), about=about
        )
    first_wins = (n_first > n_second) == (word == "more")
    winner, other = (first, second) if first_wins else (second, first)
    long = f"there are {word} {winner.plural} than {other.plural}"
    text, answer = _short_or_long(rng, text, short=winner.plural, long=long)
    return SceneQuestion(
        text=text, answer=answer, form="more_or_fewer", accepted=(winner.name,), about=about
    )


def odd_one_of(scene: Scene) -> tuple[str, str] | None:
    """The one thing that is of another sort than all others, and the others' sort."""
    kinds = kinds_by_name()
    sorts = [_sort_of(kinds[thing.kind].group) for thing in scene.things]
    if len(sorts) < 3 or None in sorts:
        return None
    (usual, n_usual), *others = Counter(sorts).most_common()
    if len(others) != 1 or n_usual != len(sorts) - 1 or usual is None:
        return None
    odd = next(thing for thing, sort in zip(scene.things, sorts, strict=True) if sort != usual)
    return odd.kind, usual


def _sort_of(group: str) -> str | None:
    return next((sort for sort, groups in WIDE_GROUPS.items() if group in groups), None)


def _ask_odd_one_out(view: View, rng: random.Random) -> SceneQuestion | None:
    found = odd_one_of(view.scene)
    if found is None:
        return None
    name, usual = found
    text = rng.choice(
        (
            "Which thing is the odd one out?",
            "Which thing does not belong with the others?",
            "One thing is of another kind than the rest. Which one?",
            "What does not fit in here?",
        )
    )
    long = rng.choice(
        (f"the {name}, because the others are {usual}", f"the {name} is the odd one out")
    )
    text, answer = _short_or_long(rng, text, short=f"the {name}", long=long)
    return SceneQuestion(
        text=text, answer=answer, form="odd_one_out", accepted=(name,), about=(name,)
    )


def _ask_yes_no(view: View, rng: random.Random) -> SceneQuestion | None:
    for ask in rng.sample((_claim_relation, _claim_colour, _claim_count, _claim_more), 4):
        question = ask(view, rng)
        if question is not None:
            return question
    return None


def _claim_count(view: View, rng: random.Random) -> SceneQuestion | None:
    is_true = rng.random() < 0.5
    clear = view.clear()
    if not clear:
        return None
    name = rng.choice(clear)
    kind, count = view.kinds[name], view.counts[name]
    said = count if is_true else max(1, count + rng.choice((-1, 1, 2)))
    if said == count and not is_true:
        said = count + 1
    what = f"exactly {number_word(said)} {kind.name if said == 1 else kind.plural}"
    text = rng.choice(
        (
            f"{'Is' if said == 1 else 'Are'} there {what}?",
            f"Do you see {what}?",
            f"Does the picture show {what}?",
        )
    )
    verb = "is" if count == 1 else "are"
    truth = f"there {verb} {number_word(count)} {kind.name if count == 1 else kind.plural}"
    long = rng.choice(("yes", f"yes, {truth}")) if is_true else f"no, {truth}"
    return _yes_or_no("yes_no", text, rng, is_true=is_true, long=long, about=(name,))


def _claim_relation(view: View, rng: random.Random) -> SceneQuestion | None:
    found = _related(view, rng)
    if found is None:
        return None
    first, second, where = found
    is_true = rng.random() < 0.5
    said = where if is_true else OPPOSITE[where]
    text = f"Is the {first.kind} {DIRECTIONS[said]} the {second.kind}?"
    truth = f"the {first.kind} is {DIRECTIONS[where]} the {second.kind}"
    long = rng.choice(("yes", f"yes, {truth}")) if is_true else f"no, {truth}"
    about = (first.kind, second.kind)
    return _yes_or_no("yes_no", text, rng, is_true=is_true, long=long, about=about)


def _claim_colour(view: View, rng: random.Random) -> SceneQuestion | None:
    single = [
        (thing, colour)
        for thing in view.single()
        if (colour := true_colour(thing, view.scene.style, view.book)) is not None
        and not set(tokens(thing.kind)) & set(COLOUR_WORDS)
    ]
    if not single:
        return None
    thing, colour = rng.choice(single)
    is_true = rng.random() < 0.5
    said = colour if is_true else rng.choice([paint for paint in PAINTS if paint != colour])
    text = f"Is the {thing.kind} {said}?"
    long = rng.choice(("yes", f"yes, the {thing.kind} is {colour}"))
    if not is_true:
        long = f"no, the {thing.kind} is {colour}"
    return _yes_or_no("yes_no", text, rng, is_true=is_true, long=long, about=(thing.kind,))


def _claim_more(view: View, rng: random.Random) -> SceneQuestion | None:
    names = view.clear()
    pairs = [(a, b) for a in names for b in names if view.counts[a] > view.counts[b]]
    if not pairs:
        return None
    many, few = (view.kinds[name] for name in rng.choice(pairs))
    is_true = rng.random() < 0.5
    first, second = (many, few) if is_true else (few, many)
    text = f"Are there more {first.plural} than {second.plural}?"
    truth = f"there are more {many.plural} than {few.plural}"
    long = rng.choice(("yes", f"yes, {truth}")) if is_true else f"no, {truth}"
    about = (first.name, second.name)
    return _yes_or_no("yes_no", text, rng, is_true=is_true, long=long, about=about)


def _ask_multiple_choice(view: View, rng: random.Random) -> SceneQuestion:
    name = rng.choice(sorted(view.counts))
    kind, count = view.kinds[name], view.counts[name]
    if rng.random() < 0.35 and name not in view.unclear:
        stem = f"How many {kind.plural} are there?"
        truth = number_word(count)
        near = [n for n in range(max(1, count - 3), count + 4) if n != count]
        wrong = [number_word(n) for n in rng.sample(near, 3)]
    else:
        stem = rng.choice(("Which of these is in the picture?", "What do you see in the picture?"))
        truth = kind.name
        wrong = []
        while len(wrong) < 3:
            other = view.absent(rng).name
            if other not in wrong:
                wrong.append(other)
    options = [truth, *wrong]
    rng.shuffle(options)
    letter = LETTERS[options.index(truth)]
    listed = " ".join(f"{LETTERS[i]}) {option}" for i, option in enumerate(options))
    text = f"{stem} {listed}"
    hint = rng.choice(("", ". Answer with the letter."))
    answer = letter if hint else f"{letter}) {truth}"
    return SceneQuestion(
        text=text + hint,
        answer=answer,
        form="multiple_choice",
        accepted=(letter, truth),
        options=tuple(options),
        about=(name,),
    )


def _check_what(question: SceneQuestion, answer: str) -> bool:
    named = _kinds_in(answer)
    return named == {question.accepted[0]}


def _kinds_in(answer: str) -> set[str]:
    """Kinds named in an answer, the opening "I saw" or "you can see" left out."""
    return {mention.kind for mention in mentions(tokens(_without_opening(answer)))}


def _without_opening(answer: str) -> str:
    return re.sub(
        r"^\W*(?:i|we|you)\s+(?:can\s+)?(?:see|saw|spot)\b", " ", answer.strip(), flags=re.I
    )


def _check_how_many(question: SceneQuestion, answer: str) -> bool:
    words = tokens(_without_opening(answer))
    found = mentions(words)
    asked = question.about[0]
    numbers = set()
    for position, word in enumerate(words):
        number = _number(word)
        if number is None or _counts_another(position, found, asked, words):
            continue
        numbers.add(number)
    if not numbers:
        numbers = {1 for mention in found if mention.kind == asked and _has_article(mention, words)}
    return numbers == {_number(question.accepted[0])}


def _has_article(mention: Mention, words: Sequence[str]) -> bool:
    return any(word in ("a", "an") for word in words[max(0, mention.start - 2) : mention.start])


def _counts_another(
    position: int, found: Sequence[Mention], asked: str, words: Sequence[str]
) -> bool:
    """Whether the number at this position counts a kind that was not asked about."""
    following = next((mention for mention in found if mention.start > position), None)
    if following is None or following.kind == asked:
        return False
    between = words[position + 1 : following.start]
    return len(between) <= 2 and not any(_number(word) is not None for word in between)


def _number(word: str) -> int | None:
    if word.isdigit():
        return int(word)
    if word in ("no", "none", "nothing"):
        return 0
    return NUMBERS.index(word) if word in NUMBERS else None


def _check_in_all(question: SceneQuestion, answer: str) -> bool:
    numbers = {number for word in tokens(answer) if (number := _number(word)) is not None}
    return numbers == {_number(question.accepted[0])}


def _check_yes_no(question: SceneQuestion, answer: str) -> bool:
    words = tokens(answer)
    said = _said(words)
    if said is None and question.form == "is_there":
        said = _said_by_naming(question, answer)
    if said == "yes" and set(words[1:]) & (NO | {"not"}):
        return False
    if said == "no" and set(words[1:]) & {"yes", "yeah", "yep"}:
        return False
    return said == question.accepted[0]


def _said(words: Sequence[str]) -> str | None:
    if not words:
        return None
    if words[0] in YES:
        return "yes"
    text = " ".join(words)
    if words[0] in NO or re.search(r"\b(?:not|no|none|don't|isn't|aren't|doesn't)\b", text):
        return "no"
    return None


def _said_by_naming(question: SceneQuestion, answer: str) -> str | None:
    """Yes where the answer goes "I see a dog" and a dog was asked for."""
    opening = r"\s*(?:there (?:is|are)|(?:i|you) (?:can )?see|(?:it|the picture) shows)\b"
    is_naming = re.match(opening, answer.lower()) and question.about[0] in _kinds_in(answer)
    return "yes" if is_naming else None


def _check_colour(question: SceneQuestion, answer: str) -> bool:
    text = answer
    if question.about:
        text = re.sub(r"\b(?:on|against|in front of) an? [\w ]*(?:background|backdrop)", "", text)
    named = {COLOUR_WORDS[word] for word in tokens(text) if word in COLOUR_WORDS}
    return named == {question.accepted[0]}


def _check_relation(question: SceneQuestion, answer: str) -> bool:
    named = {DIRECTION_WORDS[word] for word in tokens(answer) if word in DIRECTION_WORDS}
    return named == {question.accepted[0]} and not _is_turned_round(question, answer)


def _check_motion(question: SceneQuestion, answer: str) -> bool:
    named = {MOTION_WORDS[word] for word in tokens(answer) if word in MOTION_WORDS}
    return named == {question.accepted[0]}


def _is_turned_round(question: SceneQuestion, answer: str) -> bool:
    """Whether a full sentence names the two things the other way round."""
    named = [mention.kind for mention in mentions(tokens(answer)) if mention.kind in question.about]
    return len(named) > 1 and tuple(named[:2]) == (question.about[1], question.about[0])


def _check_more_or_fewer(question: SceneQuestion, answer: str) -> bool:
    words = tokens(answer)
    is_same = bool({"same", "equal", "equally"} & set(words)) or "as many" in " ".join(words)
    if question.accepted == ("same",):
        return is_same
    first, second, asked = question.about
    named = [mention.kind for mention in mentions(words) if mention.kind in (first, second)]
    if is_same or not named:
        return False
    said = named[0]
    if len(set(named)) > 1 and "than" not in words:
        return False
    used = {"more", "fewer", "less"} & set(words)
    if used and ("more" in used) != (asked == "more"):
        said = second if said == first else first
    return said == question.accepted[0]


def _check_odd_one_out(question: SceneQuestion, answer: str) -> bool:
    verdict = re.split(
        r"\b(?:because|since|as the|all the|the (?:others|other|rest))\b", answer, maxsplit=1
    )[0]
    return _kinds_in(verdict) == {question.accepted[0]}


def _check_choice(question: SceneQuestion, answer: str) -> bool:
    answer = re.sub(r"\bletter\s+(?=[A-Da-d]\b)", "option ", answer)  # that is no envelope
    letters = _letters_in(answer)
    said = _options_in(question, answer)
    if len(letters) > 1 or len(said) > 1 or not (letters or said):
        return False
    letter, truth = question.accepted[:2]
    return letters <= {letter} and said <= {truth}


def _letters_in(answer: str) -> set[str]:
    text = answer.strip()
    if re.fullmatch(r"\(?[A-Da-d]\W*", text):
        return {text.strip("( ")[0].upper()}
    marked = re.findall(r"(?:^|[\s(])([A-Da-d])(?=[).:])", text)
    spoken = re.findall(r"\b(?:option|answer is|choice)\s+\(?([A-Da-d])\b", text)
    return {letter.upper() for letter in (*marked, *spoken)}


def _options_in(question: SceneQuestion, answer: str) -> set[str]:
    if question.options[0] in NUMBERS:
        return {
            number_word(number) for word in tokens(answer) if (number := _number(word)) is not None
        }
    return _kinds_in(answer) & set(question.options)


_ASK: dict[QuestionForm, Callable[[View, random.Random], SceneQuestion | None]] = {
    "what": _ask_what,
    "how_many": _ask_how_many,
    "how_many_in_all": _ask_how_many_in_all,
    "is_there": _ask_is_there,
    "colour": _ask_colour,
    "relation": _ask_relation,
    "more_or_fewer": _ask_more_or_fewer,
    "odd_one_out": _ask_odd_one_out,
    "yes_no": _ask_yes_no,
    "multiple_choice": _ask_multiple_choice,
}
_CHECK: dict[QuestionForm, Callable[[SceneQuestion, str], bool]] = {
    "motion": _check_motion,
    "what": _check_what,
    "how_many": _check_how_many,
    "how_many_in_all": _check_in_all,
    "is_there": _check_yes_no,
    "colour": _check_colour,
    "relation": _check_relation,
    "more_or_fewer": _check_more_or_fewer,
    "odd_one_out": _check_odd_one_out,
    "yes_no": _check_yes_no,
    "multiple_choice": _check_choice,
}
