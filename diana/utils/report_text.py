"""Texts of reports as archives of reports hand them out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from html import unescape
from itertools import pairwise

MAX_TEXT = 16 << 20

_MARK = re.compile(r"<!--|</?[A-Za-z][^<>]*>|<[!?][^<>]*>")


def clean_text(text: str | None) -> str:
    """
    Return the text of an HTML report with its lines broken where sections begin.

    In every text node but the last a carriage return becomes a newline, and a newline is added when the next node
    begins with an upper-case or numeric character: then it starts a section, else it continues the sentence. Comments
    are not text. Empty input gives an empty text; what is longer than 16 Mi characters is cut there.
    """
    nodes = [unescape(node) for node in _text_nodes((text or "")[:MAX_TEXT])]
    cleaned = [
        node.replace("\r", "\n") + ("\n" if following[:1].isupper() or following[:1].isnumeric() else "")
        for node, following in pairwise(nodes)
    ]
    return "".join([*cleaned, *nodes[-1:]])


def _text_nodes(text: str) -> Iterator[str]:
    """
    Yield what stands between tags, in order; a ``<`` that begins no whole tag or comment is text.

    Takes linear time on every input, which html.parser does not.
    """
    last_comment = text.rfind("-->")
    begin = at = 0
    while mark := _MARK.search(text, at):
        at = mark.end()
        if mark.group() == "<!--":
            if at > last_comment:
                continue
            at = text.index("-->", at) + 3
        if mark.start() > begin:
            yield text[begin : mark.start()]
        begin = at
    if begin < len(text):
        yield text[begin:]
