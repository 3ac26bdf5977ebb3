"""Text to a storyboard plan: what its steps are, how they hang together, a pictogram for each."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from core.captions import (
    CAPTION_CHARS,
    Passage,
    content_words,
    read_passages,
    relation_of,
    shorten,
    stem,
    strip_leading,
    things_named,
)
from core.errors import UserError
from core.notes import note_with_text
from core.pictograms import PictogramFinder
from core.types import Note, StoryboardPlan, StoryboardStep, StoryStructure

MIN_STEPS, MAX_STEPS = 3, 7
TITLE_CHARS = 80
LONGEST_CAPTION = 120  # of one that a person wrote: six lines of a card
PLAN_VERSION = 1

_REQUEST = re.compile(
    r"^(?:please |can you |could you |would you |will you |i want you to |help me )*"
    r"(?:explain|describe|illustrate|draw|show|tell|teach|outline|summari[sz]e|sketch|visuali[sz]e"
    r"|compare|give|make|create|write|what|why|how|where|when|who|which|is|are|does|do|did|can)\b",
    re.IGNORECASE,
)
_ASKING = re.compile(
    r"^(?:please |can you |could you |would you |will you |i want you to |help me )*"
    r"(?:(?:explain|describe|illustrate|draw|show|tell|teach|outline|summari[sz]e|sketch"
    r"|visuali[sz]e|give|make|create|write)\b(?: (?:to )?(?:me|us))?"
    r"(?: (?:a|an|the) (?:storyboard|diagram|picture|drawing|explanation|description|overview"
    r"|summary))?(?: (?:about|of|for|on|showing))?)\s+",
    re.IGNORECASE,
)
_CYCLE = re.compile(
    r"\b(?:cycles?|cyclical|over and over|all over again|again and again|repeats?(?: itself)?"
    r"|starts? (?:over|again|anew)|begins? (?:again|anew|over)|returns? to the (?:start|beginning)"
    r"|back to (?:the (?:start|beginning)|where)|never ends)\b",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"\b(?:first|firstly|second|secondly|third|then|next|after|afterwards|later|finally|lastly"
    r"|eventually|at last|when|once|until|begins?|starts?|becomes?|turns? into|grows?|changes? into"
    r"|forms?|leads? to|causes?|results? in|as a result|therefore|during|stage|stages|step|steps"
    r"|phase|process)\b",
    re.IGNORECASE,
)
_PARTS = re.compile(
    r"\b(?:consists? of|is made (?:up )?of|are made (?:up )?of|composed of|comprises?|made up of"
    r"|main parts?|parts? of|has (?:two|three|four|five|six|seven|several|many) |divided into"
    r"|layers?|components?|types? of|kinds? of|elements?|members?|branch(?:es)? of)\b",
    re.IGNORECASE,
)
_STATIC_VERB = re.compile(
    # "is picked" tells what happens, "is red" how something is.
    r"\b(?:(?:is|are)(?! (?:\w+ly )?(?:\w+(?:ed|en)|made|put|cut|kept|sold|built|sent|left)\b)"
    r"|has|have|contains?|holds?|includes?|shows?|sits?|stands?|lies?|wears?|protects?"
    r"|covers?|surrounds?|controls?|connects?|stores?|keeps?|supports?)\b",
    re.IGNORECASE,
)
_CONTRAST = re.compile(
    r"\b(?:in contrast|by contrast|on the other hand|whereas|unlike|versus|vs\.?"
    r"|compared (?:to|with)"
    r"|in comparison|differences?|differ|while)\b",
    re.IGNORECASE,
)
_THING = r"(?:an? |the )?([\w'’ -]{2,40}?)"
_TWO_SIDES = (
    re.compile(
        rf"\bdifferences? between {_THING} and {_THING}(?=[,.?!;:]|$| is| are| lies?| in )", re.I
    ),
    re.compile(
        rf"\bcompar(?:e|ing|ison of) {_THING} (?:and|with|to|versus) {_THING}(?=[,.?!;:]|$)", re.I
    ),
    re.compile(rf"(?:^|\bof |: ){_THING} (?:vs\.?|versus) {_THING}(?=[,.?!;:]|$)", re.I),
    re.compile(
        rf"(?:^|\bhow (?:do )?){_THING} and {_THING} (?:differ|are (?:quite |very"
        rf" )?different)\b",
        re.I,
    ),
    re.compile(
        rf"\b[Uu]nlike {_THING}, {_THING} (?:is|are|has|have|can|do|does|live|use|need|eat"
        rf"|make)\b"
    ),
)
# "Sure! Here is how bread is made:" is chatter, and names what follows.
_ANNOUNCED = re.compile(
    r"(?:[^.!?:\n]{1,30}[.!]\s+)?here(?:'s| is| are)\s+(?:an? \w+ of )?(how"
    r" [^.:!?\n]{3,70})[.:!?\n]",
    re.I,
)
_INTRODUCES = re.compile(
    r":$|\b(?:the )?following\b|\bhere (?:is|are)\b|\b(?:these|the|several|many|two"
    r"|three|four|five|six"
    r"|seven) (?:main |key |simple |basic |important |different )?(?:steps|stages|phases|parts|ways"
    r"|types|kinds|reasons|layers|components|things)\b",
    re.IGNORECASE,
)
_DEFINES = re.compile(
    r"^(?:an? |the )?[\w'’ -]{2,40}? (?:is|are|refers? to|means|describes?) (?:an? |the"
    r" |how |what |one )",
    re.IGNORECASE,
)
_CLOSES = re.compile(
    r"^(?:in (?:conclusion|summary|short)|to (?:sum up|conclude|summari[sz]e)|overall"
    r"|all in all)\b",
    re.IGNORECASE,
)
_HAPPENS_WHEN = re.compile(
    r"^(?P<what>(?:an? |the )?[\w'’ -]{2,40}?) (?P<verb>forms?|happens?|occurs?|begins?"
    r"|starts?|appears?"
    r"|is (?:formed|made|born|created)|are (?:formed|made|born|created)) (?:when|after|once|as|if) "
    r"(?P<how>.+)$",
    re.IGNORECASE,
)
_ORDERED_JOINT = re.compile(
    r"(?:[,;]\s*(?:and\s+)?|\s+and\s+)(?=(?:then|next|finally|afterwards|eventually"
    r"|lastly|after that"
    r"|after which)\b)|;\s+",
    re.IGNORECASE,
)
_CLAUSE_JOINTS = (
    re.compile(
        r",\s+(?=(?:and|but|so)\s+(?:it|they|the|a|an|this|these|he|she|we|you|its|their)\b)"
    ),
    re.compile(r",\s+(?=(?:which|whereas|while)\s+)"),
    re.compile(r"(?<=[\w)]),\s+(?=(?:and|but|so)\s+\w+\s+\w+)"),
    re.compile(r"\s+(?=(?:because|so that|until)\s+)"),
    re.compile(r",\s+(?=[a-z]+ing\s+\w+)"),
    re.compile(r"\s+(?=and\s+(?:the|a|an|it|they)\s+)"),
)
_OPENING_CLAUSE = re.compile(
    r"^((?:when|after|once|as soon as|because)\s[^,]{8,90}),\s+(?=\S)", re.I
)
_JOINT_WORD = re.compile(r"^(?:and|but|so|which|whereas|while|because|until|so that)\s+", re.I)
_VERBISH = re.compile(
    r"\b(?:is|are|was|were|has|have|had|can|could|will|would|may|might|must|do|does|did|go|goes|get"
    r"|gets|make|makes|take|takes|turn|turns|become|becomes|grow|grows|form|forms|move|moves|\w{3,}ed"
    r"|\w{2,}(?:[^s\W]s|es))\b",
    re.IGNORECASE,
)
_OPENS_VAGUELY = re.compile(
    r"(?:it|they|this|these|that|there|he|she|we|you|i|when|if|as|after|before|once|while|because"
    r"|to|in|on|at|for|with)\b",
    re.IGNORECASE,
)
_OF_A_PICTURE = re.compile(
    r"(?:in )?(?:the|this) (?:picture|image|photo|photograph)\b", re.IGNORECASE
)
_ARTICLE = re.compile(r"^(?:an?|the)\b", re.IGNORECASE)
# "the bill and", "a bill.": a noun that an article stands before and no other noun after.
_NAMED = re.compile(
    r"\b(?:an?|the|his|her|its|their)\s+([a-z]{3,})(?=[.,;!?]|\s+(?:and|or|is|are|in|on|to|of|by|with"
    r"|from|can|has|that|which|into|goes|at|for)\b|$)"
)


@dataclass(frozen=True, slots=True)
class _Draft:
    sentence: str
    caption: str
    relation: str = ""
    column: str = ""


def is_request(text: str) -> bool:
    """Whether a text asks for an explanation ("how does rain form?", "black holes") or is one."""
    passages = read_passages(text)
    sentences = [sentence for passage in passages for sentence in passage.sentences]
    if len(sentences) != 1:
        return len(sentences) == 2 and all(_REQUEST.match(s) and len(s) < 120 for s in sentences)
    words = sentences[0].split()
    asks = bool(_REQUEST.match(sentences[0]) or sentences[0].endswith("?"))
    return len(words) <= 5 or (asks and len(words) <= 30)


def plan_storyboard(text: str, *, pictograms: PictogramFinder, request: str = "") -> StoryboardPlan:
    """Three to seven steps that the text names itself, in its order, each with a pictogram.

    The text of a reference note, word for word, gives that note's own plan.

    Args:
        text: an explanation or description. Nothing is added to it.
        request: the question the text answers, where there was one; the title is made from it.

    Raises:
        UserError: the text has fewer than three things to draw.
    """
    if note := note_with_text(text):
        return plan_note(note, pictograms=pictograms)
    passages = read_passages(text)
    if not passages:
        raise UserError("There is no text to draw. Write or paste a few sentences and try again.")
    if not request and (announced := _ANNOUNCED.match(text.strip())):
        request = announced[1]
    title, passages = _title(passages, request)
    structure = _structure(passages, title)
    columns: tuple[str, ...] = ()
    drafts: list[_Draft] = []
    if structure == "comparison":
        columns, drafts = _compare(passages, title)
        title = title or _both(columns, text)
    if not drafts:
        structure = _structure(passages, title, may_compare=False)
        drafts = _steps(passages, structure, title=title)
    if len(drafts) < MIN_STEPS:
        structure, drafts = "parts", _things(passages)
        title = title or _cut(shorten(_all_sentences(passages)[0], limit=TITLE_CHARS), TITLE_CHARS)
    drafts = _most_telling(drafts, columns=columns, pictograms=pictograms)
    found = pictograms.find([draft.caption for draft in drafts])
    steps = tuple(
        StoryboardStep(
            caption=draft.caption,
            sentence=draft.sentence,
            pictogram_id=picture.id if picture else None,
            pictogram_name=picture.name if picture else "",
            relation=draft.relation if i and structure in ("sequence", "cycle") else "",
            column=draft.column,
        )
        for i, (draft, picture) in enumerate(zip(drafts, found, strict=True))
    )
    return StoryboardPlan(
        title=title or _title_from(drafts, passages),
        structure=structure,
        steps=steps,
        columns=columns,
        text_sha256=text_sha256(text),
        version=PLAN_VERSION,
    )


def plan_note(note: Note, *, pictograms: PictogramFinder) -> StoryboardPlan:
    """The storyboard of a reference note: captions by hand, pictograms by search."""
    found = pictograms.find([step.picture for step in note.steps])
    steps = tuple(
        StoryboardStep(
            caption=step.caption,
            sentence=step.sentence,
            pictogram_id=picture.id if picture else None,
            pictogram_name=picture.name if picture else "",
            relation=step.relation,
            column=step.column,
        )
        for step, picture in zip(note.steps, found, strict=True)
    )
    return StoryboardPlan(
        title=note.title,
        structure=note.structure,
        steps=steps,
        columns=note.columns,
        text_sha256=text_sha256(note.text),
        credit="From Sightloop's reference notes",
        version=PLAN_VERSION,
    )


def replan_storyboard(
    plan: StoryboardPlan, captions: Sequence[str], *, pictograms: PictogramFinder
) -> StoryboardPlan:
    """The plan with the captions a person wrote; lines may be changed, moved, added or removed.

    A step whose caption is unchanged keeps its pictogram and place in the text.

    Raises:
        UserError: fewer than three or more than seven captions are left, or one is too long.
    """
    wanted = [" ".join(caption.split()) for caption in captions if caption.strip()]
    if not MIN_STEPS <= len(wanted) <= MAX_STEPS:
        raise UserError(
            f"The plan has {len(wanted)} steps and a storyboard has {MIN_STEPS} to {MAX_STEPS}. "
            "Add or remove lines."
        )
    if too_long := next((caption for caption in wanted if len(caption) > LONGEST_CAPTION), None):
        raise UserError(
            f"One line has {len(too_long)} characters and the limit is {LONGEST_CAPTION}: "
            f'"{too_long[:40]}…". Make it shorter.'
        )
    kept = {step.caption: step for step in plan.steps}
    same_length = len(wanted) == len(plan.steps)
    taken = {kept[caption].pictogram_id for caption in wanted if caption in kept}
    changed = [caption for caption in wanted if caption not in kept]
    found = dict(zip(changed, pictograms.find(changed, without=taken), strict=True))
    steps: list[StoryboardStep] = []
    for i, caption in enumerate(wanted):
        former = kept.get(caption) or (plan.steps[i] if same_length else None)
        picture = found.get(caption)
        if caption in kept:
            steps.append(kept[caption])
            continue
        steps.append(
            StoryboardStep(
                caption=caption,
                sentence=caption,
                pictogram_id=picture.id if picture else None,
                pictogram_name=picture.name if picture else "",
                relation=former.relation if former else "",
                column=former.column if former else "",
            )
        )
    return replace(plan, steps=tuple(steps))


def text_sha256(text: str) -> str:
    """Hex digest that names a text in a plan and in the PNG without showing it."""
    return hashlib.sha256(text.encode()).hexdigest()


def title_of_request(request: str) -> str:
    """ "Explain how a black hole forms" -> "How a black hole forms"."""
    passages = read_passages(request)
    if not passages:
        return ""
    title = _ASKING.sub("", passages[0].sentences[0]).strip().rstrip(".!:;,")
    return _cased(_cut(title, TITLE_CHARS))


def _title(passages: list[Passage], request: str) -> tuple[str, list[Passage]]:
    """A title the text or request gives, and the passages that are left to draw."""
    title = title_of_request(request)
    first, rest = passages[0], passages[1:]
    if rest and (first.kind == "heading" or _is_bare_title(first)):
        return title or _cased(_cut(first.sentences[0], TITLE_CHARS)), rest
    if first.sentences[0].endswith("?"):
        left = Passage(first.kind, first.sentences[1:])
        remaining = [left, *rest] if left.sentences else rest
        if remaining:
            return title or title_of_request(first.sentences[0]), remaining
    return title, [passage for passage in passages if passage.kind != "heading"] or passages


def _is_bare_title(passage: Passage) -> bool:
    only = passage.sentences[0]
    return (
        passage.kind == "paragraph"
        and len(passage.sentences) == 1
        and len(only.split()) <= 10
        and not only.endswith((".", "!", ":", ","))
    )


def _structure(
    passages: Sequence[Passage], title: str, *, may_compare: bool = True
) -> StoryStructure:
    sentences = _all_sentences(passages)
    text = " ".join([title, *sentences])
    last = " ".join(sentences[-2:])
    if may_compare and _two_sides(text, sentences):
        return "comparison"
    if _CYCLE.search(title) or _CYCLE.search(sentences[0]) or _CYCLE.search(last):
        return "cycle"
    if len(sentences) < MIN_STEPS and _listed(sentences):
        return "parts"
    order = sum(bool(_ORDER.search(sentence)) for sentence in sentences)
    parts = 2 * sum(bool(_PARTS.search(sentence)) for sentence in sentences[:2])
    parts += 3 * bool(
        re.search(r"\bparts? of\b|\blayers? of\b|\bkinds? of\b|\btypes? of\b", title, re.I)
    )
    parts += sum(
        bool(_STATIC_VERB.search(sentence)) and not _ORDER.search(sentence)
        for sentence in sentences
    )
    return "parts" if parts > order else "sequence"


def _all_sentences(passages: Sequence[Passage]) -> list[str]:
    return [sentence for passage in passages for sentence in passage.sentences]


def _steps(passages: Sequence[Passage], structure: StoryStructure, *, title: str) -> list[_Draft]:
    entries = [passage for passage in passages if passage.kind == "entry"]
    if len(entries) >= MIN_STEPS:
        return [_draft(" ".join(entry.sentences), first=entry.sentences[0]) for entry in entries]
    sentences = _without_frame(_all_sentences(passages))
    if structure != "parts":
        sentences = [part for sentence in sentences for part in _split(sentence, _ORDERED_JOINT)]
    if structure == "parts" and len(sentences) < MIN_STEPS:
        return [_Draft(sentence=sentences[0], caption=name) for name in _listed(sentences)]
    for joint in (None, *_CLAUSE_JOINTS):
        if len(sentences) >= MIN_STEPS:
            break
        sentences = [part for sentence in sentences for part in _split_more(sentence, joint)]
    drafts = [_draft(sentence) for sentence in sentences]
    return [_told_from_its_cause(drafts[0], len(drafts)), *drafts[1:]] if drafts else []


def _draft(sentence: str, *, first: str | None = None) -> _Draft:
    bare = _JOINT_WORD.sub("", sentence) if sentence[:1].islower() else sentence
    # A clause that was cut off at its "because" follows what it explains.
    relation = "because" if sentence.startswith("because ") else relation_of(sentence)
    return _Draft(sentence=_cased(sentence), caption=shorten(first or bare), relation=relation)


def _told_from_its_cause(draft: _Draft, n_drafts: int) -> _Draft:
    # "A black hole forms when a star reaches its end": the story starts with the star.
    match = _HAPPENS_WHEN.match(draft.sentence.rstrip("."))
    if match and n_drafts >= MIN_STEPS and len(match["how"].split()) >= 4:
        return replace(draft, caption=shorten(match["how"]))
    return draft


def _without_frame(sentences: list[str]) -> list[str]:
    """The sentences without an opening that only announces and a close that only repeats."""
    kept = list(sentences)
    if len(kept) > MIN_STEPS and _INTRODUCES.search(kept[0]):
        kept = kept[1:]
    elif len(kept) > MIN_STEPS and _DEFINES.match(kept[0]) and not _HAPPENS_WHEN.match(kept[0]):
        kept = kept[1:]
    if len(kept) > MIN_STEPS and (_CLOSES.match(kept[-1]) or kept[-1].endswith("?")):
        kept = kept[:-1]
    return kept


def _split(sentence: str, joint: re.Pattern[str]) -> list[str]:
    """The clauses on both sides of each joint, where each could stand alone."""
    parts = [part.strip(" ,;") for part in joint.split(sentence) if part and part.strip(" ,;")]
    if len(parts) > 1 and all(_is_clause(part) for part in parts):
        return parts
    return [sentence]


def _split_more(sentence: str, joint: re.Pattern[str] | None) -> list[str]:
    if joint is not None:
        return _split(sentence, joint)
    opening = _OPENING_CLAUSE.match(sentence)
    if not opening:
        return [sentence]
    condition = re.sub(r"^(?:when|after|once|as soon as|because)\s+", "", opening[1], flags=re.I)
    return [_cased(condition), sentence[opening.end() :]]


def _is_clause(part: str) -> bool:
    words = strip_leading(_JOINT_WORD.sub("", part)).split()
    return len(words) >= 3 and bool(_VERBISH.search(" ".join(words)))


def _listed(sentences: Sequence[str]) -> list[str]:
    """The members of a list such as "It has a nucleus, a cell wall and chloroplasts"."""
    for sentence in sentences:
        match = re.search(
            r"(?:.*:|\b(?:of|has|have|contains?|includes?|comprises?|are|into))\s+"
            r"((?:[^,.;:]+,\s*)+(?:and |or )?[^,.;:]+)",
            sentence,
        )
        if match:
            members = re.split(r",\s*(?:and |or )?|\s+and\s+", match[1])
            bare = [re.sub(r"^(?:the|an?) ", "", member.strip(" .")) for member in members]
            names = [_cased(shorten(member)) for member in bare if member]
            if len(names) >= MIN_STEPS and all(len(name.split()) <= 6 for name in names):
                return names
    return []


def _things(passages: Sequence[Passage]) -> list[_Draft]:
    """The things a short text names, when it tells no steps."""
    sentences = _all_sentences(passages)
    drafts = [
        _Draft(sentence=sentence, caption=_cased(thing))
        for sentence in sentences
        for thing in things_named(sentence)
        if len(thing) <= CAPTION_CHARS
    ]
    unlike: dict[str, _Draft] = {}
    for draft in drafts:
        unlike.setdefault(draft.caption.lower(), draft)
    if len(unlike) < MIN_STEPS:
        raise UserError(
            f"The text names {len(unlike)} thing{'s' * (len(unlike) != 1)} to draw and a "
            f"storyboard needs {MIN_STEPS}. Write a few sentences, or ask for an explanation such "
            'as "Explain how rain forms".'
        )
    return list(unlike.values())


def _two_sides(text: str, sentences: Sequence[str]) -> tuple[str, str] | None:
    """The two things a text compares, as it names them."""
    for pattern in _TWO_SIDES:
        if match := pattern.search(text):
            sides = _cased(match[1].strip()), _cased(match[2].strip())
            # Both must be spoken of by themselves, or there are no two columns to fill.
            if all(sum(_mentions(s, side) for s in sentences) >= 1 for side in sides):
                return sides
    contrast = next((i for i, s in enumerate(sentences) if i and _CONTRAST.search(s)), None)
    if contrast is None:
        return None
    first, second = _subject(sentences[0]), _subject(strip_leading(sentences[contrast]))
    if first and second and stem(first) != stem(second):
        counts = [sum(_mentions(s, side) for s in sentences) for side in (first, second)]
        if min(counts) >= 1 and _CONTRAST.match(sentences[contrast]):
            return first, second
    return None


def _compare(
    passages: Sequence[Passage], title: str
) -> tuple[tuple[str, str] | tuple[()], list[_Draft]]:
    """The two sides, and their points; nothing where a side has no point of its own."""
    sentences = _all_sentences(passages)
    sides = _two_sides(" ".join([title, *sentences]), sentences)
    if sides is None:
        return (), []
    joint = re.compile(r",?\s+(?=(?:while|whereas|but)\s+(?!they|it|he|she)\b)", re.I)
    points = [part for sentence in sentences for part in _split(sentence, joint)]
    drafts: list[_Draft] = []
    column = ""
    for point in points:
        mentioned = [side for side in sides if _mentions(point, side)]
        if len(mentioned) == 1:
            column = mentioned[0]
        elif len(mentioned) == 2:
            subject = _subject(strip_leading(point)) or ""
            leading = [side for side in sides if subject and _mentions(subject, side)]
            column = leading[0] if len(leading) == 1 else ""
        elif not re.match(r"(?:it|they|its|their|these|this)\b", strip_leading(point), re.I):
            column = ""
        if not (column == "" and (_CONTRAST.search(point) or _INTRODUCES.search(point))):
            drafts.append(replace(_draft(point), column=column))
    per_side = Counter(draft.column for draft in drafts)
    if len(drafts) < MIN_STEPS or any(per_side[side] == 0 for side in sides):
        return (), []
    return sides, drafts


def _both(columns: Sequence[str], text: str) -> str:
    """ "Cats and dogs": the second as the text writes it inside of a sentence."""
    if not columns:
        return ""
    second = columns[1][:1].lower() + columns[1][1:]
    return f"{columns[0]} and {second if second in text else columns[1]}"


def _mentions(sentence: str, thing: str) -> bool:
    stems = {stem(word) for word in re.findall(r"[\w'’-]+", sentence.lower())}
    return all(stem(word) in stems for word in content_words(thing) or thing.lower().split())


def _subject(sentence: str) -> str:
    """What a sentence speaks of: the words before its first plain verb, at most five."""
    match = re.match(
        r"^(?:an? |the |most |many |all |some )?((?:[\w'’-]+ ){0,3}?[\w'’-]+) "
        r"(?:is|are|was|were|has|have|can|cannot|will|may|do|does|live|lives|use|uses|need|needs|eat"
        r"|eats|make|makes|grow|grows|give|gives|get|gets|come|comes|tend|tends|lay|lays|like|likes"
        r"|consists?|contains?|includes?|describes?|refers?|happens?|occurs?|means?|begins?|starts?"
        r"|began|started|happened|occurred|became|took|came|made|had|lived|grew|found"
        r"|shows?|explains?|comprises?|work|works|run|runs|burn|burns|take|takes|store|stores|move|moves|form|forms|turns?)\b",
        sentence,
        re.IGNORECASE,
    )
    return _cased(match[1]) if match else ""


def _most_telling(
    drafts: list[_Draft], *, columns: Sequence[str], pictograms: PictogramFinder
) -> list[_Draft]:
    """At most seven drafts, in order: those nearest to what the whole text is about.

    The first and the last are kept, and of a comparison one of each side.
    """
    unlike: dict[str, _Draft] = {}
    for draft in drafts:
        unlike.setdefault(draft.caption.lower(), draft)
    drafts = list(unlike.values())
    if len(drafts) <= MAX_STEPS:
        return drafts
    vectors = pictograms.embed([draft.sentence for draft in drafts])
    weight = vectors @ vectors.mean(axis=0)
    weight += 0.1 * np.array([bool(draft.relation) for draft in drafts])
    kept = {0, len(drafts) - 1}
    for column in columns:
        own = [i for i, draft in enumerate(drafts) if draft.column == column]
        kept.add(max(own, key=lambda i: float(weight[i])))
    for i in np.argsort(-weight):
        if len(kept) < MAX_STEPS:
            kept.add(int(i))
    return [drafts[i] for i in sorted(kept)]


def _title_from(drafts: Sequence[_Draft], passages: Sequence[Passage]) -> str:
    """A title in the text's own words: what it defines, what happens in it, or what it repeats."""
    sentences = _all_sentences(passages)
    first = strip_leading(sentences[0]).rstrip(".")
    if _OF_A_PICTURE.match(sentences[0]):
        return _cut(drafts[0].caption, TITLE_CHARS)
    if (match := _HAPPENS_WHEN.match(first)) and (what := _ARTICLE.match(match["what"])):
        rest = match["what"][what.end() :]
        return _cut(f"How {what[0].lower()}{rest} {match['verb']}", TITLE_CHARS)
    if purpose := re.match(r"(To [a-z][^,]{3,60}),", first):
        return purpose[1]
    subject = _subject(first)
    if subject and content_words(subject) and not _OPENS_VAGUELY.match(subject):
        return _cut(subject, TITLE_CHARS)
    named = Counter(word.lower() for s in sentences for word in _NAMED.findall(s))
    word, count = named.most_common(1)[0] if named else ("", 0)
    return _cased(word) if count >= 2 else _cut(drafts[0].caption, TITLE_CHARS)


def _cased(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1].rsplit(" ", 1)[0].rstrip(" ,;:") + "…"
