"""A timeline tells what happened on the way, for whom, how long it took and how often."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the change."""
    with op.batch_alter_table("timeline", schema=None) as batch_op:
        batch_op.add_column(sa.Column("detail", sa.Text(), server_default=sa.text("''"), nullable=False))
        batch_op.add_column(sa.Column("seconds", sa.Float(), nullable=True))
        batch_op.add_column(sa.Column("times", sa.Integer(), server_default=sa.text("1"), nullable=False))
        batch_op.add_column(sa.Column("until", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    """Undo it."""
    with op.batch_alter_table("timeline", schema=None) as batch_op:
        for name in ("until", "times", "seconds", "detail"):
            batch_op.drop_column(name)
