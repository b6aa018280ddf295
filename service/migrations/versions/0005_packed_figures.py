"""What judging reads of an answer, as bytes beside its body; rows that are there have none and are read from that."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the columns: at once, however many rows there are."""
    op.add_column("predictions", sa.Column("figures", sa.LargeBinary))
    op.add_column("predictions", sa.Column("reasons", sa.Text))
