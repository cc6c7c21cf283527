"""Create the tables."""
from app.models import TABLES


def migrate(migrator, database, fake=False, **kwargs):
    for table in TABLES:
        migrator.create_model(table)
