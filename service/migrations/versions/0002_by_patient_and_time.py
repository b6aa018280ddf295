"""Indexes for what deletes: a patient's rows, and rows older than their retention."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the indexes."""
    op.create_index("predictions_by_patient", "predictions", ["patient"])
    op.create_index("predictions_by_time", "predictions", ["time"])
    op.create_index("reviews_by_time", "reviews", ["time"])
