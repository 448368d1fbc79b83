r"""Texts in double quotes, exactly as Go's ``strconv.Quote`` writes them.

Programs read labels and annotations in this form out of downwardAPI volumes, so every escape
counts: printable characters as they are, ``\n`` and its like by letter, control characters as
``\x01``, others that aren't printable as ``\u200b`` or ``\U000e0001``. Pure.
"""

from __future__ import annotations

_LETTERS = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def quote(text: str) -> str:
    """The text in double quotes."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_character, text))}"'


def _character(character: str) -> str:
    if character in _LETTERS:
        return _LETTERS[character]
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
