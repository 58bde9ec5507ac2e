"""The tables. Times are UTC; hashes are SHA-256 in hex: no cookie, code or token stands here in clear."""

from datetime import UTC, datetime

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    false,
    text,
)


class Instant(TypeDecorator[datetime]):
    """A point in time that always comes back aware and in UTC, also from SQLite, which forgets the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return ``value`` in UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return ``value`` with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)

meta = Table(
    "meta",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)

users = Table(
    "users",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("admin", Boolean, nullable=False),
    Column("groups", JSON, nullable=False, default=list, server_default=text("'[]'")),
    Column("created", Instant, nullable=False),
    Column("last_login", Instant),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user", ForeignKey("users.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("created", Instant, nullable=False),
    Column("expires", Instant, nullable=False, index=True),
)

codes = Table(
    "codes",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("session_hash", ForeignKey("sessions.hash", ondelete="CASCADE"), nullable=False),
    Column("server_path", Text, nullable=False),
    Column("state_hash", String(64), nullable=False),
    Column("host", Text, nullable=False),
    Column("expires", Instant, nullable=False, index=True),
)

tokens = Table(
    "tokens",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("user", ForeignKey("users.name", ondelete="CASCADE"), nullable=False),
    Column("note", Text, nullable=False),
    Column("admin", Boolean, nullable=False),
    Column("created", Instant, nullable=False),
    Column("expires", Instant, nullable=False, index=True),
)

servers = Table(
    "servers",
    metadata,
    Column("id", String(16), primary_key=True),
    Column("user", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("cluster", String(64), nullable=False),
    Column("application", String(64), nullable=False),
    Column("choices", JSON, nullable=False),
    Column("run", String(32), nullable=False),
    Column("secrets", LargeBinary),
    Column("phase", String(16), nullable=False, index=True),
    Column("wanted", Boolean, nullable=False),
    Column("created", Instant, nullable=False),
    Column("changed", Instant, nullable=False),
    Column("job_id", String(64)),
    Column("host", String(255)),
    Column("port", Integer),
    Column("restarts", Integer, nullable=False, server_default=text("0")),
    Column("generation", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("reason", String(16)),
    Column("message", Text, nullable=False, server_default=text("''")),
    Column("native_reason", Text, nullable=False, server_default=text("''")),
    Column("starts", Instant),
    Column("ends", Instant),
    Column("active", Instant),
    Column("idle_end", Instant),
    Column("cleaned", Boolean, nullable=False, server_default=false()),
)
Index("ix_servers_user_name", servers.c.user, servers.c.name, servers.c.created)
#: At most one start of a server that has not ended, whoever asks for it at the same moment.
Index(
    "uq_servers_live",
    servers.c.user,
    servers.c.name,
    unique=True,
    sqlite_where=servers.c.phase != "ended",
    postgresql_where=servers.c.phase != "ended",
)

grants = Table(
    "grants",
    metadata,
    Column("cookie_hash", String(64), primary_key=True),
    Column("server_id", ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True),
    Column("session_hash", ForeignKey("sessions.hash", ondelete="CASCADE"), nullable=False, index=True),
    Column("expires", Instant, nullable=False),
)

#: Servers of which a grant was taken back and whose open connections may not have been ended yet.
revocations = Table(
    "revocations",
    metadata,
    Column("server_id", ForeignKey("servers.id", ondelete="CASCADE"), primary_key=True),
)

timeline = Table(
    "timeline",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=True),
    Column("server_id", ForeignKey("servers.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("at", Instant, nullable=False),
    Column("event", String(16), nullable=False),
    Column("phase", String(16), nullable=False),
    Column("text", Text, nullable=False),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("seconds", Float),
    Column("times", Integer, nullable=False, server_default=text("1")),
    Column("until", Instant),
)

#: Jobs with names of this instance that no server knows.
orphans = Table(
    "orphans",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("job_id", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("first_seen", Instant, nullable=False),
    Column("cancelled", Instant),
)

#: The last drop-in files of each cluster that were good.
site_views = Table(
    "site_views",
    metadata,
    Column("cluster", String(64), primary_key=True),
    Column("value", JSON, nullable=False),
    Column("at", Instant, nullable=False),
)
