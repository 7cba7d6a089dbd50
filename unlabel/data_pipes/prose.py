"""Documentation markup to plain English sentences: drops code, tables, directives, definitions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MIN_WORDS, MAX_WORDS = 5, 50

_UNDERLINE = re.compile(r"([=\-~^*#\"'`.+])\1{2,}$")
_HEADING = re.compile(
    r"(?:(?:Other |Keyword |Optional |Required )?"
    r"(?:args?|arguments?|parameters?|params|returns?|yields?|receives|raises|throws|warns|"
    r"exceptions?|examples?|example usage|usage|notes?|warnings?|references?|see also|attributes|"
    r"methods|keyword args|shape|inputs?|outputs?|todo|tips?|properties|options|side effects))"
    r"(?P<colons>:{0,2})$",
    re.IGNORECASE,
)
_WITHOUT_PROSE = ("example", "usage", "reference", "see also", "todo", "methods", "shape")
_DIRECTIVE = re.compile(r"\.\.(?:\s+(?P<name>[\w:.-]+?)::)?(?:\s+(?P<text>.*))?$")
_ADMONITION = {"note", "warning", "tip", "important", "hint", "caution", "attention", "danger"}
_FIELD = re.compile(r"(?::[\w *]+(?: [^:]*)?:|@\w+(?: \w+:)?)\s+(?P<text>.*)")
_DEFINITION = re.compile(r"[*`\w., \[\]'\"-]+\s:(?:\s.*)?$")  # numpy: `name : type`
_ARGUMENT = re.compile(r"[-*` ]*[\w.*`, ]{1,60}?(?:\s?\(.*\))?[`*]*\s?:\s+(?P<text>.*)$")
_ARGUMENT_ALONE = re.compile(r"[-*` ]*[\w.*`, ]{1,60}?(?:\s?\(.*\))?[`*]*\s?:$")
_BULLET = re.compile(r"(?:[-*+•]|\(?\w{1,2}[.)])\s+(?P<text>\S.*)")

_INLINE = (
    (re.compile(r":[\w:+-]+:`(?:[^`<]*\s)?<?[~!]?([^`<>]+)>?`"), None),
    (re.compile(r"\[([^\][]+)\]\([^)]*\)"), r"\1"),  # Markdown link
    (re.compile(r"`([^`<]+?)\s*<[^`]*>`_{0,2}"), r"\1"),  # reST link
    (
        re.compile(r"\b(?:in|see|by|of|from|and|with|to|on)\s\[[\w#*]+\]_"),
        "@",
    ),  # citation as a noun
    (re.compile(r"\s?\[[\w#*]+\]_"), ""),  # reST citation
    (re.compile(r"\[(`[^`\]]+`)\]"), r"\1"),  # cross-reference of Markdown docs
    (re.compile(r"`{1,2}([^`]+)`{1,2}_{0,2}"), r"\1"),
    (re.compile(r"(?<![\w*])\*{1,2}([^*\s](?:[^*]*[^*\s])?)\*{1,2}(?![\w*])"), r"\1"),
)
_END = re.compile(r"[.!?][\"')]*\s+(?=[\"'(]*[A-Z])")
_ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|cf|vs|figs?|eqs?|al|resp|approx|no|nos|vol|pp?|sec|ch|dr|mr|mrs|st|"
    r"inc|viz|ref|refs|ca|incl|dept|[A-Z]))\.[\"')]*\s*$",
    re.IGNORECASE,
)
_ODD = re.compile(r"[{}\\|<>=^$@~#`*\[\]•→…]|::|\.\.\.|https?:|www\.|--|\s[:/.,&+]\s|\w:\w|_\s|\s_")
_WORD = re.compile(r"[(\"']*[^\W\d_]+(?:[-'’/][^\W\d_]+)*[.,;:!?)\"']*$")
_COMMON = re.compile(
    r"\b(?:the|an?|is|are|be|of|to|in|for|that|this|it|with|and|or|by|as|if|from|on|not|was|its|"
    r"which|can|will|should|must|may|all|no|any|when)\b",
    re.IGNORECASE,
)
_LEGAL = re.compile(r"copyright|licen[sc]e|warrant|redistribut|all rights", re.IGNORECASE)


def sentences_of(text: str) -> tuple[str, list[str], list[str]]:
    """The English in one docstring.

    Args:
        text: with its indentation already removed, in reST, numpy, Google or Markdown style.

    Returns:
        Summary (the first sentence; empty when it is no clean sentence), the further sentences
        before any section, and the sentences inside sections.
    """
    summary, description, rest = "", [], []
    for number, (lines, in_section) in enumerate(_paragraphs(text)):
        prose = _plain(" ".join(lines))
        if number == 0 and not in_section and len(lines) <= 3 and prose[-1:].isalnum():
            prose += "."  # summaries often lack their full stop
        for place, sentence in enumerate(split_sentences(prose)):
            if not is_english(sentence):
                continue
            if number == place == 0 and not in_section:
                summary = sentence
            else:
                (rest if in_section else description).append(sentence)
    return summary, description, rest


def split_sentences(prose: str) -> list[str]:
    """Cut plain text after full stops that end a sentence, not an abbreviation."""
    sentences, start = [], 0
    for end in _END.finditer(prose):
        if not _ABBREVIATION.search(prose, start, end.end()):
            sentences.append(prose[start : end.end()].strip())
            start = end.end()
    return [*sentences, prose[start:].strip()]


def is_english(sentence: str) -> bool:
    """Whether this is a whole sentence of 5 to 50 words, mostly words and not code."""
    words = sentence.split()
    return (
        MIN_WORDS <= len(words) <= MAX_WORDS
        and sentence.lstrip("\"'(")[:1].isupper()
        and sentence.rstrip("\"')").endswith((".", "!", "?"))
        and not _ODD.search(sentence)
        and not _LEGAL.search(sentence)
        and sentence.count("(") == sentence.count(")")
        and sentence.count('"') % 2 == 0
        and sum(bool(_WORD.match(w)) for w in words) >= 0.8 * len(words)
        and len(_COMMON.findall(sentence)) >= max(1, len(words) // 12)
    )


def _plain(text: str) -> str:
    if any(mark in text for mark in "`[*"):
        for pattern, by in _INLINE:
            text = pattern.sub(by if by is not None else _last_part, text)
    return " ".join(text.split())


def _last_part(role: re.Match[str]) -> str:
    # :class:`~a.b.C` shows as C; :ref:`the text <target>` shows as its text.
    inside = role.group(0).split("`")[1]
    if "<" in inside:
        return inside.partition("<")[0].strip() or role.group(1)
    return inside.rpartition(".")[2] if inside.startswith("~") else inside.lstrip("!")


@dataclass
class _Reader:
    """Where the walk over the lines of one docstring is."""

    lines: list[str] = field(default_factory=list)  # of the paragraph at hand
    indent: int | None = None  # of the paragraph; None until its second line tells
    in_section: bool = False
    skip_deeper: int | None = None  # leave out lines with more indent than this
    skip_section: int | None = None  # a section without prose, begun at this indent
    underlined: bool = False  # that section's heading is underlined, its text not indented
    skip_block: bool = False  # a doctest: leave out what follows up to an empty line
    fenced: bool = False
    colon: int | None = None  # indent of a paragraph that ended in a colon

    def flush(self) -> Iterator[tuple[list[str], bool]]:
        if self.lines:
            if self.lines[-1].endswith(":"):
                self.colon = self.indent or 0
            yield self.lines, self.in_section
        self.lines, self.indent = [], None

    def begin(self, text: str | None, indent: int | None) -> None:
        self.lines, self.indent = ([text] if text else []), indent


def _paragraphs(text: str) -> Iterator[tuple[list[str], bool]]:
    at = _Reader()
    raw = text.expandtabs().splitlines()
    for number, line in enumerate(raw):
        below = raw[number + 1].strip() if number + 1 < len(raw) else ""
        yield from _step(at, line.strip(), len(line) - len(line.lstrip()), below, number == 0)
    yield from at.flush()


def _step(
    at: _Reader, line: str, indent: int, below: str, first: bool
) -> Iterator[tuple[list[str], bool]]:
    if line.startswith(("```", "~~~")):
        yield from at.flush()
        at.fenced = not at.fenced
    elif at.fenced:
        pass
    elif not line:
        yield from at.flush()
        at.skip_block = False
    elif at.skip_block or (at.skip_deeper is not None and indent > at.skip_deeper):
        pass
    else:
        at.skip_deeper = None
        yield from _block(at, line, indent, below, first)


def _block(
    at: _Reader, line: str, indent: int, below: str, first: bool
) -> Iterator[tuple[list[str], bool]]:
    # The cheap tests come first: a hundred megabytes of source pass through here.
    heading = _HEADING.match(line) if len(line) < 40 else None
    is_rule = _is_rule(line)
    over_line = not is_rule and _is_rule(below)
    directive = _DIRECTIVE.match(line) if line.startswith("..") else None
    colon, at.colon = (at.colon, None) if not at.lines else (None, at.colon)
    if over_line or (heading and (heading["colons"] or at.skip_section is not None)):
        yield from at.flush()
        barren = line.lower().startswith(_WITHOUT_PROSE)
        at.in_section = at.in_section or not first
        at.skip_section, at.underlined = (indent if barren else None), over_line
    elif is_rule:
        yield from at.flush()
    elif at.skip_section is not None and (at.underlined or indent > at.skip_section):
        pass
    elif line.startswith(">>>") or line.startswith("In ["):
        yield from at.flush()
        at.skip_block = True
    elif directive:
        yield from at.flush()
        at.skip_section = None
        if (directive["name"] or "").lower() in _ADMONITION:
            at.in_section = True
            at.begin(directive["text"], None)
        else:
            at.skip_deeper = indent
    elif line.count("|") > 1 or line.startswith(("+-", "|", "<", "#", "%")):
        yield from at.flush()
    else:
        at.skip_section = None
        if colon is not None and indent > colon and not _BULLET.match(line):
            at.skip_deeper = colon  # an indented block after a colon is code
            return
        yield from _text(at, line, indent)


def _is_rule(line: str) -> bool:
    return not line[:1].isalnum() and bool(_UNDERLINE.match(line))


def _text(at: _Reader, line: str, indent: int) -> Iterator[tuple[list[str], bool]]:
    has_colon, is_mark = ":" in line, not line[1:3].isalpha()
    if found := line[0] in ":@" and _FIELD.match(line):
        yield from at.flush()
        at.in_section = True
        at.begin(found["text"], None)
    elif at.in_section and has_colon and (_DEFINITION.match(line) or _ARGUMENT_ALONE.match(line)):
        yield from at.flush()
    elif found := (at.in_section and has_colon and _ARGUMENT.match(line)) or (
        is_mark and _BULLET.match(line)
    ):
        yield from at.flush()
        at.begin(found["text"], None)
    elif at.lines and at.indent is not None and indent != at.indent:
        if at.in_section and indent > at.indent and len(at.lines) == 1:
            at.begin(None, None)  # a type on a line of its own, above what it means
        yield from at.flush()
        at.begin(line, indent)
    else:
        if not at.lines or at.indent is None:
            at.indent = indent
        at.lines.append(line)
