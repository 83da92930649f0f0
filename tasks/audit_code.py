"""Whether programs that a language model wrote are programs: what of them Python can read."""

import ast
import re
import textwrap
import warnings

from tasks.audit import Figures, share

_DEFINITION = re.compile(r"(\s*)(?:async\s+def|def|class)\b")
# what must stand before the head of a block that goes on from another one
_BEFORE = {
    **dict.fromkeys(("elif", "else"), "if x: pass\n"),
    **dict.fromkeys(("except", "finally"), "try: pass\n"),
    "case": "match x:\n ",
}
_INNER = re.compile(rf"(?:{'|'.join(_BEFORE)})\b")


def definitions(text: str) -> list[str]:
    """The functions and classes that begin and end within a text, those inside of others too.

    One begins with the line of its `def` or `class` and ends before the next line that is indented
    no further (a closing bracket goes on). What is cut at either end of the text is left out.
    """
    found = []
    lines = text.split("\n")[1:-1]  # the first and the last may be parts of lines
    for first, line in enumerate(lines):
        head = _DEFINITION.match(line)
        if head is None:
            continue
        depth = len(head[1])
        for end, later in enumerate(lines[first + 1 :], first + 1):
            bare = later.lstrip()
            if bare and len(later) - len(bare) <= depth and bare[0] not in ")]}":
                found.append(textwrap.dedent("\n".join(lines[first:end])))
                break
    return found


def parses(source: str) -> bool:
    """Whether this Python's own parser takes it; nothing is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that a later Python will refuse
            ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def line_parses(line: str) -> bool:
    """Whether a line is a statement, or the head of one (`if x:`, `else:`, `@cache`), alone."""
    line = line.strip()
    if line.startswith("@"):
        return parses(f"{line}\nclass X: pass")
    inner = _INNER.match(line)
    before = _BEFORE[inner[0]] if inner else ""
    return parses(line) or parses(f"{before}{line}\n  pass")


def audit_code(texts: list[str]) -> Figures:
    """Shares of the definitions and of the lines that parse.

    A piece of a text seldom parses as a whole: it begins and ends anywhere. Lines of a text that
    stands in the middle of a string or a bracket do not parse either, in real programs too.
    """
    whole = [source for text in texts for source in definitions(text)]
    lines = [line for text in texts for line in text.split("\n")[1:-1] if line.strip()]
    return {
        "definitions": len(whole),
        "definitions_parse": share(sum(map(parses, whole)), len(whole)),
        "lines_parse": share(sum(map(line_parses, lines)), len(lines)),
    }
