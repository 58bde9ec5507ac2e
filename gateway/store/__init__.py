"""What the gateway remembers: sessions, grants, tokens and servers, in a database."""

from gateway.store.database import Database
from gateway.store.history import History, keep_short
from gateway.store.servers import ServerStore
from gateway.store.sessions import Code, GrantRow, Session, SessionStore
from gateway.store.site_views import SiteViewStore
from gateway.store.upgrade import upgrade

__all__ = [
    "Code",
    "Database",
    "GrantRow",
    "History",
    "ServerStore",
    "Session",
    "SessionStore",
    "SiteViewStore",
    "keep_short",
    "upgrade",
]
