"""Values and config strings that try to be more than that: each wants a file called canary."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hypothesis import strategies as st

#: A piece to a line.
_LINES = r"""
'
"
`
\
$(touch canary)
`touch canary`
${x:-$(touch canary)}
$((touch canary))
<(touch canary)
;touch canary;
|touch canary
||touch canary
&touch canary&
&&touch canary
>canary
<>canary
');touch canary;('
";touch canary;"
'"$(touch canary)"'
EOF
}; touch canary; {
) touch canary (
#SBATCH --uid=0
#PBS -q nowhere
#$ -q nowhere
#BSUB -q nowhere
#GATEWAY name=other
# %s %n %(a)s
{{ 7*7 }}
{% raw %}
{% include 'wrapper.sh.j2' %}
{{ joiner.__init__.__globals__ }}
{# nothing
${HOME} $0 $$ $@ $* $IFS
~
~root
*
?[a-z]
{a,b}
!!
-n
--
--ServerApp.ip=0.0.0.0
a=b
\n\0\x00\'
%00 %0a %u
\u2028
é漢字🦆
"""
_ODD = ("\n", "\n#SBATCH --uid=0", "\n#$ -q x", "\n\n", "\t", "\x0b", "\x0c", "\x85", "\u2028", "\u2029")
_ODD_TOO = ("\x1b[2J", "\x7f", "\u202e", "\ufeff", "\ufdd0", " ", "  ", "\x08")
#: What no script may hold at all, and what no header may hold: kept in step with nothing of the gateway's.
FORBIDDEN = re.compile(r"[\0\r]")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: What may stand on a directive line, said once more.
WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,63}", re.ASCII)

PIECES = st.sampled_from((*_LINES.strip("\n").split("\n"), *_ODD, *_ODD_TOO))
#: One value: pieces, in any order, or any text.
VALUE = st.lists(PIECES, min_size=1, max_size=5).map("".join) | st.text(max_size=8)
#: As it may stand in a script: without NUL and carriage return.
PRINTABLE = VALUE.map(lambda value: FORBIDDEN.sub("", value))
#: As a header takes it: one line.
ONE_LINE = VALUE.map(lambda value: CONTROL.sub("", value))
#: As a scheduler's own word is.
GOOD_WORD = st.from_regex(WORD, fullmatch=True)
#: What a form or a config may say where a scheduler's word belongs: good ones, and nearly good ones.
CLAIMED_WORD = st.one_of(
    GOOD_WORD, GOOD_WORD, VALUE, st.tuples(GOOD_WORD, PIECES).map("".join), st.just("a" * 65), st.just("")
)
#: A file's name: no slash, no NUL, at most 255 bytes, and neither . nor .. .
FILE_NAME = PRINTABLE.map(lambda value: "x" + value.replace("/", "_").encode()[:200].decode(errors="ignore"))


def many(values: st.SearchStrategy[str], number: int) -> st.SearchStrategy[Sequence[str]]:
    """Return so many values at once: a process costs more than a value."""
    return st.lists(values, min_size=number, max_size=number)
