"""When a walltime is over, who is in which groups, jobs nobody knows, and the last good drop-in files."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    op.add_column("servers", sa.Column("ends", sa.DateTime(timezone=True), nullable=True))
    op.add_column("users", sa.Column("groups", sa.JSON(), server_default="[]", nullable=False))
    op.create_table(
        "orphans",
        sa.Column("cluster", sa.String(length=64), nullable=False),
        sa.Column("job_id", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("owner", sa.String(length=64), nullable=False),
        sa.Column("first_seen", sa.DateTime(timezone=True), nullable=False),
        sa.Column("cancelled", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("cluster", "job_id", name=op.f("pk_orphans")),
    )
    op.create_table(
        "site_views",
        sa.Column("cluster", sa.String(length=64), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("cluster", name=op.f("pk_site_views")),
    )


def downgrade() -> None:
    """Undo it."""
    op.drop_table("site_views")
    op.drop_table("orphans")
    op.drop_column("users", "groups")
    op.drop_column("servers", "ends")
