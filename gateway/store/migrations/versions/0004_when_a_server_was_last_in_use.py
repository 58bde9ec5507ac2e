"""When a server was last in use, and when it will be stopped for being idle."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.add_column("servers", sa.Column("active", sa.DateTime(timezone=True), nullable=True))
    op.add_column("servers", sa.Column("idle_end", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Undo it."""
    op.drop_column("servers", "idle_end")
    op.drop_column("servers", "active")
