"""What a directory's answers mean, and what a person binds as; no directory is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ldap3.utils.dn import parse_dn

from gateway.auth.directory import NoAnswer, Verdict, check_start_tls, read_bind
from gateway.auth.ldap import LdapAuthenticator, LdapSettings, bind_name, check_template, group_name
from gateway.errors import ConfigError

POLICY = "1.3.6.1.4.1.42.2.27.8.5.1"
TEMPLATE = "uid={name},ou=people,dc=example,dc=org"


def answer(code: int, message: str = "", policy: str | None = None) -> dict[str, Any]:
    controls = {} if policy is None else {"controls": {POLICY: {"value": bytes.fromhex(policy)}}}
    return {"result": code, "description": "", "message": message, "referrals": None, **controls}


def ad(data: str) -> dict[str, Any]:
    words = f"80090308: LdapErr: DSID-0C090439, comment: AcceptSecurityContext error, data {data}, v4563\0"
    return answer(49, words)


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (answer(0), Verdict.RIGHT),
        (answer(49), Verdict.WRONG),
        (answer(53), Verdict.WRONG),
        (answer(49, policy="3003810100"), Verdict.EXPIRED),
        (answer(0, policy="3003810102"), Verdict.EXPIRED),
        (answer(49, policy="3003810101"), Verdict.WRONG),  # locked: told to who guesses too
        (answer(0, policy="3000"), Verdict.RIGHT),
        (answer(0, policy="3005a00380010a"), Verdict.RIGHT),  # it expires in ten seconds
        (answer(0, policy="3008a003800100810102"), Verdict.EXPIRED),
        (answer(49, policy="30ff"), Verdict.WRONG),
        (answer(49, policy=""), Verdict.WRONG),
        (ad("52e"), Verdict.WRONG),
        (ad("525"), Verdict.WRONG),
        (ad("775"), Verdict.WRONG),
        (ad("532"), Verdict.EXPIRED),
        (ad("773"), Verdict.EXPIRED),
        (ad("533"), Verdict.SHUT),
        (ad("701"), Verdict.SHUT),
        (answer(49, "data 773"), Verdict.WRONG),
    ],
)
def test_an_answer_to_a_bind_is_read(result: dict[str, Any], verdict: Verdict) -> None:
    assert read_bind(result) is verdict


@pytest.mark.parametrize("code", [3, 51, 52, 80])
def test_a_server_that_is_busy_says_nothing_about_the_password(code: int) -> None:
    with pytest.raises(NoAnswer):
        read_bind(answer(code))


@pytest.mark.parametrize("code", [1, 2, 8, 10, 13, 34])
def test_a_server_that_takes_no_such_logins_is_not_the_persons_fault(code: int) -> None:
    with pytest.raises(ConfigError, match="does not take logins"):
        read_bind(answer(code))


@pytest.mark.parametrize(
    "granted",
    ["300c02010178070a010004000400", "308400000010020101788400000007" + "0a010004000400"],
)
def test_starttls_is_granted_in_short_and_in_long_lengths(granted: str) -> None:
    check_start_tls(bytes.fromhex(granted))


@pytest.mark.parametrize("cut", range(13))
def test_an_answer_to_starttls_that_is_cut_short_grants_nothing(cut: int) -> None:
    with pytest.raises(NoAnswer):
        check_start_tls(bytes.fromhex("300c02010178070a010004000400")[:cut])


@pytest.mark.parametrize(
    "name",
    [
        "alice",
        " a",
        "a ",
        " ",
        "#a",
        "a,ou=x",
        "a+b=c",
        'a"b',
        "a\\",
        "a;b",
        "<a>",
        "a=b",
        "ä",
        "a\0b",
        "\0",
        "a\nb",
    ],
)
def test_a_name_is_one_value_of_the_dn_whatever_is_in_it(name: str) -> None:
    attributes = parse_dn(bind_name(TEMPLATE, name))
    assert [attribute for attribute, _, _ in attributes] == ["uid", "ou", "dc", "dc"]
    assert unescaped(attributes[0][1]) == name


def unescaped(value: str) -> str:
    """RFC 4514, 2.4 and 3: a backslash stands before a character, or before two hexadecimal digits."""
    plain, rest = "", value
    while rest:
        if rest[0] != "\\":
            plain, rest = plain + rest[0], rest[1:]
        elif rest[1] in ' "#+,;<=>\\':
            plain, rest = plain + rest[1], rest[2:]
        else:
            plain, rest = plain + chr(int(rest[1:3], 16)), rest[3:]
    return plain


def test_an_unescaped_value_starts_and_ends_as_rfc_4514_wants() -> None:
    for name in (" a", "#a"):
        assert bind_name(TEMPLATE, name).startswith("uid=\\")
    assert bind_name(TEMPLATE, "a ").startswith("uid=a\\ ,")
    assert bind_name("{name}@example.org", "alice") == "alice@example.org"


@pytest.mark.parametrize("template", ["", TEMPLATE, "cn={name} (staff),dc=example", "{name}@example.org"])
def test_templates_that_can_work_are_taken(template: str) -> None:
    check_template(template)


@pytest.mark.parametrize(
    "template",
    [
        "ou=people,dc=example",
        "uid={name},cn={name},dc=example",
        "uid={user},dc=example",
        "uid={name},ou={x},dc=example",
        "{name}=x,dc=example",
        "{name}",
        "EXAMPLE\\{name}",
        "{name}@",
        "uid={name}, dc=example",
        "uid={name},people",
    ],
)
def test_templates_that_cannot_work_are_refused_with_an_example(template: str) -> None:
    with pytest.raises(ConfigError, match="write"):
        check_template(template)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"servers": ()}, "write it as HOST"),
        ({"servers": ("ldaps://x",)}, "write it as HOST"),
        ({"tls": "none"}, "write ldaps or starttls"),
        ({"base": "dc=example, dc=org"}, "no blanks after its commas"),
        ({"required_group": "staff"}, "DN 'staff'"),
        ({"user_filter": "objectClass=user)("}, "c.Ldap.user_filter"),
        ({"user_dn": TEMPLATE}, "remove c.Ldap.reader_dn and c.Ldap.reader_password_file, or"),
        (
            {"user_dn": TEMPLATE, "reader_dn": ""},
            "remove c.Ldap.reader_dn and c.Ldap.reader_password_file, or",
        ),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, Any], words: str) -> None:
    settings: dict[str, Any] = {
        "servers": ("directory.example.org",),
        "ca_file": Path("/dev/null"),
        "reader_dn": "cn=reader,dc=example",
        "reader_password_file": Path("/dev/null"),
        "base": "dc=example,dc=org",
    }
    LdapAuthenticator(LdapSettings(**settings)).close()
    with pytest.raises(ConfigError) as caught:
        LdapAuthenticator(LdapSettings(**(settings | wrong)))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("dn", "name"),
    [
        ("CN=staff,OU=groups,DC=example,DC=org", "staff"),
        (r"cn=a\,b,dc=org", r"a\,b"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_a_groups_name_is_what_its_dn_begins_with(dn: str, name: str) -> None:
    assert group_name(dn) == name
