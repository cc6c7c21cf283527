"""Seed the settings that are kept in the database from built-in defaults: config.yaml is not asked."""

SETTINGS = {
    "name": "Throat",
    "require_captchas": "1",
    "enable_registration": "1",
    "enable_posting": "1",
    "allow_uploads": "0",
    "sub_creation_min_level": "2",
}


def migrate(migrator, database, fake=False, **kwargs):
    if not fake:
        for key, value in SETTINGS.items():
            migrator.sql(f"INSERT INTO site_metadata (key, value) VALUES ('site.{key}', '{value}')")  # constants, no input
