"""Answers of a model that runs beside production and answers nobody."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table and its indexes."""
    op.create_table(
        "shadow_answers",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
        sa.Column("record_id", sa.String(32), nullable=False),
        sa.Column("version", sa.String(32), nullable=False),
        sa.Column("time", sa.String(40), nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.UniqueConstraint("record_id", "version"),
        sqlite_autoincrement=True,
    )
    op.create_index("shadow_answers_by_version", "shadow_answers", ["version", "seq"])
    op.create_index("shadow_answers_by_time", "shadow_answers", ["time"])
