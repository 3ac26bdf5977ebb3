"""Sentences out of a text, and short captions out of sentences, without adding a word."""

import heapq
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

CAPTION_CHARS = 68
Kind = Literal["paragraph", "entry", "heading"]

_ABBREVIATIONS = frozenset(
    "e.g i.e etc vs dr mr mrs ms prof st no fig eq approx ca cf inc ltd jr sr u.s u.k a.m p.m "
    "jan feb mar apr jun jul aug sep sept oct nov dec".split()
)
# What a person or model says around the matter, never part of it.
_CHATTER = re.compile(
    r"^(sure|certainly|of course|absolutely|great question|okay|ok)\b[^.!?:]{0,40}[.!:]?$"
    r"|^(here is|here's|here are|below is|let me|let's|i hope|i can|i will|i'll|feel free|hope)\b"
    r"|^(in (conclusion|summary),? )?(i|we) (hope|am|are happy|can help)\b"
    r"|^(thank you|thanks)\b",
    re.IGNORECASE,
)
_LIST_MARK = re.compile(
    r"^\s*(?:[-*•–—·▪◦‣]\s+|\(?\d{1,2}[.):]\s+|\(?[a-h][.)]\s+|(?:step|stage|phase|part)\s+"
    r"(?:\d{1,2}|one|two|three|four|five|six|seven)\s*[:.)–—-]\s*)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^\s*(?:#{1,6}\s+|(?=(?:\*\*|__)[^*_]+(?:\*\*|__):?\s*$))")
# Control characters and marks that turn the direction of writing: never wanted in a drawing.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffe\uffff]"
)
_LEADING = re.compile(
    r"^(?:"
    r"(?:first|second|third|fourth|fifth|last)(?:ly)?(?: of all)?|then|next|after that|afterwards?"
    r"|finally|in the end|eventually|at last|at first|to begin with|to start(?: with)?"
    r"|as a (?:result|consequence)(?: of this)?|because of this|for this reason|therefore|thus"
    r"|hence|consequently|accordingly|so|this means(?: that)?|that is why|which means that"
    r"|however|nevertheless|on the other hand|in contrast|by contrast|in comparison|meanwhile"
    r"|moreover|furthermore|in addition|additionally|also|besides|similarly|likewise|again"
    r"|and|but|yet|well|now|in other words|in fact|indeed|basically|essentially|actually"
    r"|in general|generally(?: speaking)?|overall|simply put|put simply|in short|in simple terms"
    r"|for (?:example|instance)|of course|clearly|obviously|interestingly|surprisingly"
    r"|remember that|note that|keep in mind that|we (?:can )?(?:know|see|say) that"
    r"|it (?:is|'s) (?:very )?(?:important|worth|useful|interesting|helpful|good) to "
    r"(?:note|know|remember|understand|mention|see|realize|realise)(?: that)?"
    r"|it (?:is|'s) worth noting(?: that)?|it should be noted(?: that)?"
    r"|(?:the|this) (?:picture|image|photo|photograph) (?:shows|depicts|is of|contains)"
    r"|(?:in (?:the|this) (?:picture|image|photo|photograph),? )?there (?:is|are)"
    r"|i (?:think|believe|guess)(?: that)?|in my opinion|as (?:we|you) (?:know|can see)"
    r")\b\s*[,:;–—-]?\s+(?=\S)",
    re.IGNORECASE,
)
# "So many", "then-new", "first part": the word belongs to the sentence, not to its joints.
_NOT_LEADING = re.compile(
    r"^(?:so (?:many|much|few|little|far|long|that)|(?:the )?(?:first|second|third|last|next) "
    r"(?!,)(?!of all)(?:[a-z]+ ){0,1}[a-z]+ (?:is|are|has|was)\b|now (?:that)\b"
    r"|next (?:spring|summer|autumn|fall|winter|week|month|year|day|morning|night|time)\b"
    r"|again and again|first (?:place|time|step|stage|part)\b|next (?:to|step|stage)\b"
    r"|second (?:place|step|stage|part)\b|last (?:step|stage)\b)",
    re.IGNORECASE,
)
_FILLERS = (
    (re.compile(r"\bin order to\b", re.IGNORECASE), "to"),
    (re.compile(r"\bdue to the fact that\b", re.IGNORECASE), "because"),
    (re.compile(r"\b(?:is|are) able to\b", re.IGNORECASE), "can"),
    (re.compile(r"\ba (?:large|great|huge) (?:number|amount) of\b", re.IGNORECASE), "many"),
    (
        re.compile(
            r",? ?\b(?:basically|essentially|actually|simply|really|very|quite|in fact|of course"
            r"|indeed|obviously|clearly|in turn|as you know|so to speak|for example|for instance"
            r"|however|therefore|thus|also)\b(?:,(?= ))?",
            re.IGNORECASE,
        ),
        "",
    ),
)
_RELATIONS: tuple[tuple[str, str], ...] = (
    (
        "so",
        r"as a (?:result|consequence)|therefore|thus|hence|consequently|because of this"
        r"|for this reason|so\b(?! (?:many|much|few|far|long))|this (?:causes|makes|means|leads)",
    ),
    ("but", r"however|but|nevertheless|yet"),
    ("meanwhile", r"meanwhile|at the same time"),
    ("at last", r"finally|lastly|in the end|at last"),
    (
        "then",
        r"then|next|eventually|after (?:that|this)|afterwards?|later|second(?:ly)?,|third(?:ly)?,",
    ),
)
_FUNCTION_WORDS = frozenset(
    (
        "how what why a an the this that these those its their his her our your my and or but "
        "nor so yet as of in on at by to for from with into onto over under than then is are "
        "was were be been being has have had do does did can could will would may might must "
        "shall should not very more most each every some any no which who whose where when "
        "while because if although until after before between through during about around "
        "across near out up down off like such it they he she we you "
    ).split()
)
# A caption may end in "it" or "up", not in "the" or "of".
_DANGLING = _FUNCTION_WORDS - {"it", "up", "down", "off", "out", "you", "near", "around"}
_NEGATION = re.compile(
    r"\b(?:not|never|no|none|nothing|only|hardly|without|cannot|neither|nor|unless|too"
    r"|[a-z]+n['’]t)\b",
    re.IGNORECASE,
)
# Each edit is (cost, pattern); the cheapest mix of edits that fits is taken. Costs order them by
# how much of the sense a reader loses: a gloss first, the ground or the place of a thing last.
_SUBORDINATORS = (
    "because|since|so that|even though|although|though|whereas|while|when|until|after|before"
    "|as soon as|as long as|once|as"
)
_EDITS: tuple[tuple[float, re.Pattern[str]], ...] = (
    (0.5, re.compile(r"\s*[\(\[][^)\]]*[\)\]]")),
    (
        1.0,
        re.compile(
            r",\s+(?:such as|including|especially|for example|like|e\.g\."
            r"|i\.e\.)\s+[^;.]+?(?=,\s(?!and|or)|$)"
        ),
    ),
    (
        1.2,
        re.compile(
            r"\s+(?:such as|like|including)\s+[^;.]+?"
            r"(?=\s(?:is|are|was|were|can|could|have|has|may|will)\b)"
        ),
    ),
    (1.2, re.compile(r"\s+(?:such as|including)\s+[^;.]+$")),
    (1.2, re.compile(r",\s+(?:which|who|whose|where)\s+[^,;]+(?:,\s*|$)")),
    (1.6, re.compile(r",\s+(?:which|who|whose|where)\s+.+$")),
    (1.6, re.compile(r",\s+(?:a|an|the|called|known as|made of)\s+[^,;]{3,60},\s*(?!and |or )")),
    (1.8, re.compile(r",?\s+(?:called|known as)\s+(?:a |an |the )?[\w' -]{3,40}(?=,|$)")),
    (
        2.0,
        re.compile(
            r"^(?:over|in|during|for|at|on|within|throughout|inside|near"
            r"|deep)\s[^,]{3,45},\s+(?=[\w'])",
            re.I,
        ),
    ),
    (2.4, re.compile(r",\s+(?!and\b)(?:\w+ly\s+)?[a-z]{3,}ing\s+.+$")),
    (2.4, re.compile(r"\s*[;:–—]\s+.+$")),
    (2.6, re.compile(rf",?\s+(?:{_SUBORDINATORS})\s+(?!well\b|a result\b|much\b|many\b).+$")),
    (
        3.0,
        re.compile(
            r"^(?:when|after|once|while|as|because|since|although|though|even though|before"
            r"|until|if)\s[^,]{3,90},\s+(?=\S)",
            re.I,
        ),
    ),
    (3.0, re.compile(r",\s+(?:and|but|so|or)\s+(?:then\s+)?.+$")),
    (
        3.2,
        re.compile(
            r"\s+(?:and|but)\s+(?:then|so|it|they|this|these|the|a|an|can|is|are|has)\s+.+$"
        ),
    ),
    (3.2, re.compile(r",\s+[a-z][^,]{2,60}$")),
    (
        3.4,
        re.compile(
            r"\s+(?:so|such|enough)?\s*that\s+(?:it|they|the|a|this|even|can|not|nothing)\b.+$"
        ),
    ),
    (
        3.4,
        re.compile(
            r"\s+(?:during|throughout|within|across|over|under|inside|through|towards?|around"
            r"|between|among|by|near|against|upon|behind|beneath|above|below)\s+[^,;]+$"
        ),
    ),
    (3.6, re.compile(r"\s+(?:in|on|at|from|with|for|into|onto)\s+[^,;]+$")),
    (3.8, re.compile(r"\s+to\s+(?:[a-z]+)\s+[^,;]+$")),
    (
        3.8,
        re.compile(
            r"\s+(?:than|in|on|at|from|with|for|by|under|near|through|over|across|around"
            r"|between|during|about)\s+(?!which|whom)[^,;]+(?=,)"
        ),
    ),
    (4.6, re.compile(r"\s+(?:to|of)\s+[^,;]+$")),
    (4.2, re.compile(r"\s+(?:that|which|who)\s+[^,;]+$")),
    (6.0, re.compile(r"\s+and\s+[^,;]+$")),
    (
        3.6,
        re.compile(
            r"\s(?:from|of|in|on|with|for)\s+(?:the |a |an |this |its )?\w+(?=\s(?:is|are|was"
            r"|were|can|has|have|will)\b)"
        ),
    ),
)
# Verbs that say nothing without the words after them.
_NEEDS_MORE = re.compile(
    r"\b(?:tak(?:e|es|ing)|giv(?:e|es|ing)|turn(?:s|ed|ing)?|bring(?:s|ing)?|consists?|depend(?:s|ing)?"
    r"|made|based|divided|looks?|leads?|belongs?|relies|rely|carr(?:y|ies)|puts?|breaks?|used|able"
    r"|known|called|goes|go|comes?|gets?|results?|ends?|sits?|lies?|lives?|stands?|converted|changed"
    r"|needs?|helps?|allows?|causes?|makes?|lets?|is|are|was|were|has|have|and|or|than|as|more|less"
    r"|the|a|an)$",
    re.IGNORECASE,
)
_NOUN_JOINT = re.compile(
    r",\s*(?:and\s+|or\s+)?|(?:\s+(?:and|or|with|next to|in front of|on top of|on|in|at"
    r"|near|under|behind"
    r"|beside|between|above|below|over|by|from|of|to|through|into|while|that|which|who|is|are|sits?"
    r"|sitting|stands?|standing|lying|lies|holding|wearing|playing|eating|has|have|shows?))+\s+",
    re.IGNORECASE,
)
_BEFORE_THINGS = "an?|the|its|their|his|her|this|these|some|many|with|in|on|of|for|at|by|and|as"
_IRREGULAR = {
    "bacteria": "bacterium", "mice": "mouse", "men": "man", "women": "woman", "children": "child",
    "people": "person", "feet": "foot", "teeth": "tooth", "geese": "goose", "fungi": "fungus",
    "nuclei": "nucleus", "cacti": "cactus", "data": "datum", "media": "medium",
}  # fmt: skip
_DETERMINERS = frozenset(("the", "a", "an", "its", "their", "his", "her", "this", "these"))
_CHARS_PER_COST = 25  # a cut of 25 characters weighs as much as the step from a gloss to a reason
_OPENS_WITH_ADVERBIAL = re.compile(
    rf"^(?:over|in|during|for|at|on|within|inside|near|deep|with|without|by|from|{_SUBORDINATORS}|if)\b",
    re.IGNORECASE,
)
_ADVERB = re.compile(
    r"\b(?!only|partly|partially|mostly|mainly|usually|rarely|hardly|exactly|roughly|possibly|early|family|supply|apply|rely|fly|assembly|multiply|nearly|likely|july|italy|reply)"
    r"[a-z]{3,}ly\b\s+",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Passage:
    """A paragraph, a list entry or a heading, as sentences."""

    kind: Kind
    sentences: tuple[str, ...]


def read_passages(text: str) -> list[Passage]:
    """The text's paragraphs, list entries and headings in order, marks and chatter taken off."""
    passages: list[Passage] = []
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not re.search(r"[.!?。！？]", text) and sum(map(bool, map(str.strip, lines))) >= 3:
        # No sentence ends anywhere: each line is one, as in notes and recipes.
        lines = [
            line if not line.strip() or _HEADING.match(line) or _entry(line) else f"- {line}"
            for line in lines
        ]
    for kind, line in _joined_lines(lines):
        sentences = tuple(
            sentence
            for sentence in _sentences_of_line(_plain(line))
            if re.search(r"\w", sentence) and not _CHATTER.search(sentence)
        )
        if sentences:
            passages.append(Passage(kind, sentences))
    return passages


def split_sentences(text: str) -> list[str]:
    """The sentences of a text in order, without marks and chatter."""
    return [sentence for passage in read_passages(text) for sentence in passage.sentences]


def strip_leading(sentence: str) -> str:
    """The sentence without the words that only tie it to the one before."""
    previous = None
    while previous != sentence and not _NOT_LEADING.match(sentence):
        previous, sentence = sentence, _LEADING.sub("", sentence, count=1)
    return sentence


def relation_of(sentence: str) -> str:
    """How a sentence says it follows from the one before: "then", "so", "but", ... or ""."""
    lowered = sentence.strip().lower()
    for label, pattern in _RELATIONS:
        if re.match(rf"(?:{pattern})(?:\b|(?<=,))", lowered):
            return label
    return ""


def shorten(sentence: str, *, limit: int = CAPTION_CHARS) -> str:
    """A caption of at most `limit` characters made of the sentence's own words, in their order.

    Glosses go first, then reasons, times and places; a part in front of which the sentence says
    "not", "only" or "if" is never cut off, because the rest would then claim something else.
    """
    head, body = _head_and_body(sentence)
    start = _tidy(strip_leading(body))
    for pattern, replacement in _FILLERS:
        start = _tidy(pattern.sub(replacement, start))
    start = strip_leading(start)
    caption = _cased(_cheapest_that_fits(start, limit) or _cut_at_word(start, limit))
    headed = f"{head}: {caption[:1].lower()}{caption[1:]}" if head else caption
    return headed if len(headed) <= limit else caption


def _head_and_body(sentence: str) -> tuple[str, str]:
    """The word or two before a colon, as in "Nucleus: it steers the cell", and the rest."""
    match = re.match(r"^([^\W\d_][\w'’ -]{1,28}):\s+(?=\S)", sentence)
    if match and len(sentence[match.end() :].split()) >= 3:
        return match.group(1), sentence[match.end() :]
    return "", sentence


def things_named(sentence: str) -> list[str]:
    """The phrases of a sentence that name things: "cat", "red couch", "lamp"."""
    chunks = _NOUN_JOINT.split(strip_leading(sentence))
    bare = (re.sub(rf"^(?:(?:{_BEFORE_THINGS})\s+)+", "", c, flags=re.I) for c in chunks)
    return [chunk.strip(" .,;:!?\"'") for chunk in bare if content_words(chunk)]


def content_words(text: str) -> list[str]:
    """The words that carry meaning, lower case, in order."""
    return [
        word
        for word in re.findall(r"[^\W\d_][\w'’-]*", text.lower())
        if word not in _FUNCTION_WORDS and len(word) > 2
    ]


def stem(word: str) -> str:
    """The word in lower case without its plural ending: enough to compare two mentions."""
    word = word.lower()
    word = re.sub(r"['’]s?$", "", word)
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith(("us", "is", "ss")):
        return word
    for ending, instead in (
        ("ies", "y"),
        ("ves", "f"),
        ("sses", "ss"),
        ("uses", "us"),
        ("xes", "x"),
        ("ches", "ch"),
        ("shes", "sh"),
        ("s", ""),
    ):
        if word.endswith(ending) and len(word) > len(ending) + 2:
            return word[: -len(ending)] + instead
    return word


def _plain(line: str) -> str:
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)  # a link or picture: its words
    line = re.sub(r"(\*\*|__|`)(.+?)\1", r"\2", line)
    return unicodedata.normalize("NFC", _UNSEEN.sub("", line)).strip()


def _joined_lines(lines: list[str]) -> Iterator[tuple[Kind, str]]:
    # A wrapped paragraph or list entry is one; list marks, headings and blank lines end it.
    kind: Kind = "paragraph"
    held = ""
    for line in [*lines, ""]:
        entry, is_heading = _entry(line), bool(_HEADING.match(line))
        if held and (not line.strip() or entry or is_heading):
            yield kind, held
            held = ""
        if entry:
            kind, held = "entry", entry
        elif is_heading:
            yield "heading", _HEADING.sub("", line).strip(" *_#:")
        elif line.strip():
            kind, held = (kind if held else "paragraph"), f"{held} {line.strip()}".strip()


def _entry(line: str) -> str:
    """What follows a list mark, "" where there is none; the mark may stand inside of bold."""
    rest = line
    while match := _LIST_MARK.match(re.sub(r"^\s*(?:\*\*|__)", "", rest)):
        bold = re.match(r"^\s*(?:\*\*|__)", rest)
        rest = re.sub(r"^\s*(?:\*\*|__)", "", rest)[match.end() :]
        if bold:  # "**Step 3: Bake**" on its own line is the head of what follows
            is_head = rest.rstrip(" :").endswith(bold.group().strip())
            rest = rest.replace(bold.group().strip(), "", 1).rstrip(" :") + ":" * is_head
    return "" if rest is line else rest.strip()


def _sentences_of_line(line: str) -> list[str]:
    parts: list[str] = []
    start = 0
    for match in re.finditer(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？]", line):
        piece = line[start : match.end()].strip()
        last_word = re.split(r"[\s(]", piece.rstrip(".!?…\"'”’)]"))[-1].lower()
        follows = line[match.end() :].lstrip()
        is_abbreviation = match.group().startswith(".") and (
            last_word in _ABBREVIATIONS or bool(re.fullmatch(r"[a-z]", last_word))
        )
        if follows and (is_abbreviation or follows[0].islower()) and match.group() not in "。！？":
            continue
        parts.append(piece)
        start = match.end()
    parts.append(line[start:].strip())
    return [part for part in parts if part]


def _cheapest_that_fits(start: str, limit: int) -> str | None:
    """Best-first search over the edits: Dijkstra on the strings that edits lead to."""
    queue: list[tuple[float, int, str]] = [(0.0, 0, start)]
    seen: set[str] = set()
    while queue and len(seen) < 400:
        cost, order, text = heapq.heappop(queue)
        if text in seen:
            continue
        seen.add(text)
        if len(text) <= limit:
            return text
        for edit_cost, edited in _edited(text):
            if edited not in seen and _stands_alone(edited):
                heapq.heappush(queue, (cost + edit_cost, order + 1, edited))
    return None


def _edited(text: str) -> Iterator[tuple[float, str]]:
    for cost, pattern in _EDITS:
        for match in pattern.finditer(text):
            if match.start() > 0 and _is_denied(text, match):
                continue
            if re.search(r"\bif\b|\bunless\b", match.group(), re.IGNORECASE):
                continue
            if _leaves_a_fragment(text, match):
                continue
            removed = match.group()
            joint = "" if match.start() == 0 or match.end() == len(text) else " "
            yield (
                cost + len(removed) / _CHARS_PER_COST,
                _tidy(text[: match.start()] + joint + text[match.end() :]),
            )
    if match_ly := _ADVERB.search(text):
        yield 2.2, _tidy(text[: match_ly.start()] + text[match_ly.end() :])


def _leaves_a_fragment(text: str, match: re.Match[str]) -> bool:
    before, is_trailing = text[: match.start()], match.end() == len(text)
    if _NEEDS_MORE.search(before):
        return True  # "Plants take (in water)"
    if re.match(r",?\s+(?:and|or)\s", match.group()) and re.search(r",(?:\s[\w-]+){1,3}$", before):
        return True  # the end of a list
    if not is_trailing and re.match(r",\s[\w'’ -]+\s(?:and|or)\s", text[match.end() :]):
        return True  # the start of a list
    relative_is_open = re.search(r",\s(?:which|who|whose|where)\s[^,]*$", before)
    if is_trailing and relative_is_open:
        return True  # "The moon, which circles": the main verb would go
    # "In summer, the sun rises high, ...": what looks like a gloss is the main clause.
    looks_like_gloss = re.match(r",\s+(?:a|an|the)\s", match.group())
    return bool(looks_like_gloss and _OPENS_WITH_ADVERBIAL.match(before))


def _is_denied(text: str, match: re.Match[str]) -> bool:
    """Whether a "not" in front reaches into the match; a clause of its own is out of its reach."""
    before = text[: match.start()]
    if re.search(r"\bnot (?:only|just)\b", before):
        return True
    is_own_clause = re.match(
        r"[,;:–—]|\s+(?:and|but)\s+(?:then|so|it|they|can|could|will|is|are|has|have|does|do)\b",
        match.group(),
    )
    return not is_own_clause and bool(_NEGATION.search(_clause_before(text, match.start())))


def _clause_before(text: str, position: int) -> str:
    return re.split(r"[,;:]", text[:position])[-1]


def _stands_alone(text: str) -> bool:
    words = text.lower().split()
    tail = re.split(rf"\b(?:{_SUBORDINATORS}|that|which|who|if)\s+", text.lower())[-1].split()
    return (
        len(words) >= 3
        and words[-1].strip(",;:") not in _DANGLING
        and (len(tail) >= 3 or len(tail) == len(words))
        and not (len(tail) < len(words) and tail[0] in _DETERMINERS and len(tail) == 2)
    )


def _cut_at_word(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    words = text[: limit - 1].rsplit(" ", 1)[0].split() if " " in text[:limit] else []
    while words and words[-1].lower().strip(",;:") in _DANGLING:
        words.pop()
    kept = " ".join(words).rstrip(",;:–—-") or text[: limit - 1]
    return kept + "…"


def _tidy(text: str) -> str:
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"\s+([,.;:!?])", r"\1", text)
    text = re.sub(r"([,;:])(?:\s*[,;:])+", r"\1", text)
    return text.strip(" ,;:–—").rstrip(".。")


def _cased(text: str) -> str:
    return text[:1].upper() + text[1:]
