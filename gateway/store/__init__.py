"""What the gateway remembers: sessions, grants, tokens and servers, in a database."""

from gateway.store.database import Database
from gateway.store.servers import ServerStore, TimelineEntry
from gateway.store.sessions import Code, GrantRow, Session, SessionStore
from gateway.store.upgrade import upgrade

__all__ = [
    "Code",
    "Database",
    "GrantRow",
    "ServerStore",
    "Session",
    "SessionStore",
    "TimelineEntry",
    "upgrade",
]
