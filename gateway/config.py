"""The gateway's own configuration: ``gateway_config.py``, in traitlets' form."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from traitlets import Bool, Enum, Int, List, TraitError, Unicode
from traitlets.config import Config, Configurable
from traitlets.config.loader import ConfigFileNotFound, PyFileConfigLoader

from gateway.errors import ConfigError

#: How traitlets names a setting in an error.
_TRAIT = re.compile(r"(?:The value of )?[Tt]he '(\w+)' trait of an? (\w+) instance")


class Gateway(Configurable):
    """Where the gateway is, and where it keeps its things."""

    public_url = Unicode(
        help="The address that people type. It may have a path, where the host is another web server's: "
        "https://www.example.org/gateway/."
    ).tag(config=True, example="https://gateway.example.org/")
    layout = Enum(
        ["per-user", "single"],
        default_value="per-user",
        help="per-user: each person's servers have a host of their own below the public one, which needs a "
        "wildcard DNS record and certificate. single: one host for all; pages of one person's servers "
        "could then act as another person who opens them.",
    ).tag(config=True)
    bind = List(
        Unicode(),
        default_value=["127.0.0.1:8443"],
        help="What HAProxy listens on: address:port, each. [::]:443 is IPv4 too, if nothing else here is.",
    ).tag(config=True)
    http_bind = List(
        Unicode(),
        default_value=[],
        help='Where plain HTTP leads to HTTPS, and to nothing else: [":80"]. Each user\'s host is kept.',
    ).tag(config=True)
    plain_bind = List(
        Unicode(),
        default_value=[],
        help="Addresses at which a reverse proxy of the site's own hands on requests without TLS: on the "
        "loopback, or where only trusted_proxies get in.",
    ).tag(config=True)
    trusted_proxies = List(
        Unicode(),
        default_value=[],
        help="Addresses and networks of the site's own reverse proxies, which are believed who asks: "
        '["192.0.2.0/24"]. They say it with X-Forwarded-For and X-Forwarded-Proto, of which the last value '
        "counts, or by the PROXY protocol. From anybody else these headers are dropped.",
    ).tag(config=True)
    proxy_protocol = Bool(
        False,
        help="Whether each connection of trusted_proxies begins with the PROXY protocol, version 1 or 2, in "
        "place of these headers.",
    ).tag(config=True)
    hsts_days = Int(
        365,
        min=0,
        help="For how many days browsers that have been here once come by HTTPS only "
        "(Strict-Transport-Security); 0: do not say so. It is said only where public_url has port 443 and a "
        "real name, and never for hosts below it that are not the gateway's (no includeSubDomains).",
    ).tag(config=True)
    hard_stop_hours = Int(
        24,
        min=1,
        help="Hours that WebSockets and downloads may go on that were open when HAProxy was reloaded.",
    ).tag(config=True)
    tls_certificate = Unicode(
        help="A PEM file with the certificate, its chain and its key (0600). A new one is taken up "
        "within seconds."
    ).tag(config=True, example="/etc/gateway/tls.pem")
    state_dir = Unicode("/var/lib/gateway", help="Database, keys and CAs; 0700.").tag(config=True)
    run_dir = Unicode("/run/gateway", help="Sockets and what HAProxy reads; 0700, a tmpfs.").tag(config=True)
    proxy_group = Unicode(
        "",
        help="The group of the user that HAProxy runs as, where that is not the gateway's own user: "
        "HAProxy's sockets and files are shared with it, nothing else. The user has the same name.",
    ).tag(config=True)
    site_dir = Unicode("/etc/gateway/sites", help="The trusted site configs, *.yaml.").tag(config=True)
    database_url = Unicode(
        help="An SQLAlchemy URL; by default SQLite in state_dir (sqlite+aiosqlite:////…/gateway.sqlite)."
    ).tag(config=True)
    access_log = Unicode(
        "",
        help="Where HAProxy sends a line of JSON for each request, without query string, cookies and tokens: "
        "a syslog's socket (/dev/log) or HOST:PORT (UDP), or, where systemd starts HAProxy, stdout. "
        "Empty: nowhere.",
    ).tag(config=True)
    server_connections = Int(
        128,
        min=8,
        help="Requests and WebSockets to one server at a time. As many again wait for up to 10 s, more are "
        "told so (429). Of more than 128 that begin at once some fail: no more can wait at an SSH forward.",
    ).tag(config=True)
    server_requests = Int(
        0, min=0, help="Requests to one server per second, over ten seconds; 0: no limit."
    ).tag(config=True)
    server_bandwidth = Int(
        0,
        min=0,
        help="Megabytes per second from one server, and as many to it; 0: no limit. HAProxy 2.7 or later.",
    ).tag(config=True)
    haproxy = Unicode("", help="HAProxy's path, if it is not on PATH; 2.6 or later.").tag(config=True)
    contact = Unicode(
        "", help="Whom people ask, shown below every page: help@example.org, or an https:// address."
    ).tag(config=True)
    session_hours = Int(168, min=1, help="Hours after which people must log in again.").tag(config=True)
    history_days = Int(
        30, min=1, help="Days after which servers that have ended, and their timelines, are forgotten."
    ).tag(config=True)
    orphan_grace_hours = Int(
        24,
        min=0,
        help="Hours after which a job is cancelled that has this gateway's name and that no server answers "
        "for, as after a restored backup. Until then administrators see it.",
    ).tag(config=True)
    callback_ca = Unicode(
        "",
        help="The CA of tls_certificate, PEM, if compute nodes do not know it: for jobs that call the hub.",
    ).tag(config=True)
    log_level = Enum(
        ["DEBUG", "INFO", "WARNING", "ERROR"], default_value="INFO", help="What is logged: this and worse."
    ).tag(config=True)


class Ldap(Configurable):
    """The directory that people log in with."""

    servers = List(
        Unicode(), default_value=[], help="directory.example.org or with :PORT, tried in this order."
    ).tag(config=True, example=["directory.example.org"])
    tls = Enum(
        ["ldaps", "starttls"],
        default_value="ldaps",
        help="How TLS begins: ldaps, at once (port 636); starttls, on request (port 389). Never without.",
    ).tag(config=True)
    ca_file = Unicode(help="The CA that signed the directory's certificate, PEM.").tag(
        config=True, example="/etc/ssl/certs/ca-certificates.crt"
    )
    reader_dn = Unicode(help="Who looks people up, if user_dn is not set.").tag(
        config=True, example="cn=gateway,ou=services,dc=example,dc=org"
    )
    reader_password_file = Unicode(help="A file (0600) with the reader's password.").tag(
        config=True, example="/etc/gateway/ldap-password"
    )
    user_dn = Unicode(
        help="In place of a reader: people log in as this DN and read their own entry; "
        "uid={name},ou=people,dc=example,dc=org. Active Directory also takes {name}@example.org."
    ).tag(config=True)
    user_base = Unicode(
        help="Below which people are searched: ou=people,dc=example,dc=org. Not needed with a DN in user_dn."
    ).tag(config=True, example="ou=people,dc=example,dc=org")
    user_filter = Unicode(
        "(objectClass=posixAccount)",
        help="What a person's entry matches. Active Directory: (&(objectCategory=person)(objectClass=user)).",
    ).tag(config=True)
    name_attribute = Unicode(
        "uid", help="What people type as their name. Active Directory: sAMAccountName."
    ).tag(config=True)
    uid_attribute = Unicode(
        "uidNumber", help="The numeric uid; empty where the directory has none: min_uid then means nothing."
    ).tag(config=True)
    allowed_group = Unicode(
        "", help="The DN of the group that may use the gateway; empty: everybody in the directory."
    ).tag(config=True)
    admin_group = Unicode("", help="The DN of the group of the gateway's administrators.").tag(config=True)
    group_base = Unicode(
        "",
        help="Below which groups are looked for, whose names (cn) site configs may ask for with groups: "
        "ou=groups,dc=example,dc=org. Empty: only those that a person's entry names itself (memberOf).",
    ).tag(config=True)
    min_uid = Int(1000, min=1000, help="uidNumbers below it are refused.").tag(config=True)
    denied = List(Unicode(), default_value=[], help="Further names that are refused.").tag(config=True)
    password_url = Unicode(
        "", help="Where people change a password that has expired: https://password.example.org/."
    ).tag(config=True)
    timeout = Int(5, min=1, help="Seconds that the directory may take to connect or to answer.").tag(
        config=True
    )


#: Every section of the configuration, by the name that it has there.
SECTIONS: Mapping[str, type[Configurable]] = {section.__name__: section for section in (Gateway, Ldap)}


class Settings:
    """A configuration, checked.

    Args:
        config: As traitlets loads it.
        source: The file's name, for errors.

    Raises:
        ConfigError: A setting is unknown or its value is not of its kind.
    """

    def __init__(self, config: Config, source: str) -> None:
        _refuse_unknown(config, source)
        self.source = source
        try:
            self.gateway = Gateway(config=config)
            self.ldap = Ldap(config=config)
        except TraitError as error:
            words = _TRAIT.sub(r"c.\2.\1", str(error))
            raise ConfigError(f"{source}: {words}") from None

    def require(self, section: Configurable, *names: str) -> None:
        """Check that settings without a default have been given a value.

        Raises:
            ConfigError: One has not.
        """
        for name in names:
            if not getattr(section, name):
                where = f"c.{type(section).__name__}.{name}"
                setting = section.traits()[name]
                example = setting.metadata.get("example")
                meant = f"{setting.help} For example {example!r}." if example else setting.help
                raise ConfigError(f"{self.source}: set {where}: {meant}")

    def require_file(self, section: Configurable, name: str) -> None:
        """Check that a setting names a file that can be read.

        Raises:
            ConfigError: It does not.
        """
        path = Path(getattr(section, name))
        try:
            with path.open("rb"):
                return
        except OSError as error:
            where = f"{self.source}: c.{type(section).__name__}.{name}"
            raise ConfigError(f"{where}: {path}: {error.strerror}") from None

    @property
    def state_dir(self) -> Path:
        """Where the database, the keys and the CAs are."""
        return Path(self.gateway.state_dir)

    @property
    def run_dir(self) -> Path:
        """Where the sockets are."""
        return Path(self.gateway.run_dir)

    @property
    def database_url(self) -> str:
        """The database."""
        return self.gateway.database_url or f"sqlite+aiosqlite:///{self.state_dir}/gateway.sqlite"


def load_settings(path: Path) -> Settings:
    """Return the settings in a configuration file.

    Raises:
        ConfigError: It is not there, is not Python, or holds a setting that does not exist or fit.
    """
    loader = PyFileConfigLoader(path.name, path=str(path.parent))
    try:
        config = loader.load_config()
    except ConfigFileNotFound:
        raise ConfigError(f"{path}: there is no such file; name one with -f") from None
    except SyntaxError as error:
        raise ConfigError(f"{path}:{error.lineno or 1}: {error.msg}") from None
    except (Exception, SystemExit) as error:
        if line := _line(error, path):
            raise ConfigError(f"{path}:{line}: {type(error).__name__}: {error}") from error
        words = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read: {words}") from error
    return Settings(config, str(path))


def _line(error: BaseException, path: Path) -> int:
    """Return the line of the configuration file in which an exception arose, 0 if it was not in there."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.endswith(path.name):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def _refuse_unknown(config: Config, source: str) -> None:
    for section, values in config.items():
        if section not in SECTIONS:
            raise ConfigError(f"{source}: c.{section}: there is no such section{_meant(section, SECTIONS)}")
        known = SECTIONS[section].class_trait_names(config=True)
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"{source}: c.{section}.{name}: there is no such setting{_meant(name, known)}"
                )


def _meant(word: str, words: Any) -> str:
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""
