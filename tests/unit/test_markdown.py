"""What administrators write is shown as they mean it, and never becomes more than a few harmless tags."""

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.markdown import to_html

TAGS = {"p", "br", "strong", "em", "code", "ul", "ol", "li", "a"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("", ""),
        ("One\ntwo\n\nthree", "<p>One<br>two</p>\n<p>three</p>"),
        ("**Down** on *Tuesday*", "<p><strong>Down</strong> on <em>Tuesday</em></p>"),
        ("**very *very* bold**", "<p><strong>very <em>very</em> bold</strong></p>"),
        ("`**a** <b>`", "<p><code>**a** &lt;b&gt;</code></p>"),
        ("- a\n- b\nc\n1. d", "<ul><li>a</li><li>b</li></ul>\n<p>c</p>\n<ol><li>d</li></ol>"),
        (
            "See [the *docs*](https://a.org/?b=1&c).",
            '<p>See <a href="https://a.org/?b=1&amp;c" rel="noopener noreferrer">the <em>docs</em></a>.</p>',
        ),
        ("[x](javascript:alert(1))", "<p>[x](javascript:alert(1))</p>"),
        ("[x](//evil.org)", "<p>[x](//evil.org)</p>"),
        ("[bank](https://bank.org@evil.org/)", "<p>[bank](https://bank.org@evil.org/)</p>"),
        ("![x](https://example.org/a.png)", "<p>![x](https://example.org/a.png)</p>"),
        ("<svg onload=x>", "<p>&lt;svg onload=x&gt;</p>"),
        ("2 * 3 * 4", "<p>2 * 3 * 4</p>"),
    ],
)
def test_what_is_written_is_shown(text: str, html: str) -> None:
    assert to_html(text) == html


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in TAGS
        if tag == "a":
            (href, address), rel = attrs
            assert (href, rel) == ("href", ("rel", "noopener noreferrer"))
            assert address is not None
            assert address.startswith(("http://", "https://"))
        else:
            assert attrs == []
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_decl(self, decl: str) -> None:
        raise AssertionError(decl)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


_PIECES = st.sampled_from(
    [
        *("*", "**", "`", "[", "]", "(", ")", "](https://", "](http://a.b", "![", "@", "a", "é"),
        *("<", ">", "&", '"', "'", "<script>", "<svg/onload=", "javascript:", "&#x3c;"),
        *("\n", "\n\n", " ", "- ", "1. ", "\u202e", "\\"),
    ]
)


@given(st.one_of(st.text(), st.lists(_PIECES, max_size=40).map("".join)))
def test_whatever_is_written_there_are_only_the_few_tags_well_nested_and_no_word_is_lost(text: str) -> None:
    html = to_html(text)
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert html.count("<") == html.count(">")
    letters = [c for c in text if c in "aé"]
    assert [c for c in reader.text if c in "aé"] == letters or "](http" in text
