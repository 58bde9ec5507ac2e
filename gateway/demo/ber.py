"""BER (X.690) as LDAP uses it: one octet of tag, definite lengths (RFC 4511, 5.1)."""

from __future__ import annotations

from collections.abc import Iterator

BOOLEAN, INTEGER, STRING, ENUMERATED, SEQUENCE, SET = 0x01, 0x02, 0x04, 0x0A, 0x30, 0x31


def encode(tag: int, *parts: bytes) -> bytes:
    """Return one element.

    Args:
        tag: Its tag.
        parts: Its content, joined.
    """
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(octets))) + octets + content


def number(value: int, tag: int = INTEGER) -> bytes:
    """Return an integer's element."""
    return encode(tag, value.to_bytes(value.bit_length() // 8 + 1, signed=True))


def text(value: str) -> bytes:
    """Return a string's element."""
    return encode(STRING, value.encode())


def elements(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Give the elements that stand one after the other: their tags and contents.

    Raises:
        ValueError: One is cut short, or not of this form.
    """
    at = 0
    while at < len(content):
        if len(content) < at + 2:
            raise ValueError("an element is cut short")
        tag, length = content[at], content[at + 1]
        at += 2
        if length & 0x80:
            octets = length & 0x7F
            length = int.from_bytes(content[at : at + octets])
            at += octets
        if at + length > len(content):
            raise ValueError("an element is cut short")
        yield tag, content[at : at + length]
        at += length


def whole_number(content: bytes) -> int:
    """Return what an integer's element holds."""
    return int.from_bytes(content, signed=True)
