"""What Alembic runs: the migrations, on the connection and in the transaction that service.migrate gives it."""

from alembic import context

from service.contract.schema import metadata


def run() -> None:
    """Run what is missing."""
    context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
    with context.begin_transaction():
        context.run_migrations()


# Alembic loads this file by its path; whoever imports the packages' modules only looks at it.
if __name__ == "env_py":
    run()
