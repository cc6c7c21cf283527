# The database of a site that moves; run as root on the host of the server, which is asked by its own administrator.
# Usage: size | dump <file> | restore <owner> <file> | exchange | finish    with PORT and NAME (of the database) in the environment
#   size      prints the server's own number, the mark of a move that has not come to its end (or an empty line), MiB, the number of posts, and a migration a line
#   dump      writes the file, and prints the rows of each table, <table>|<rows>
#   restore   makes <name>_moving of the file beside the present database, proves its indexes, and prints the same of it
#   exchange  gives it the name; the database that had it is kept as <name>_before_move, unless it is what an unfinished move has left
#   finish    takes the mark away
set -euo pipefail
cd /
MARK="of a move that has not come to its end"
as_postgres() { runuser -u postgres -- env PGPORT="$PORT" "$@"; }
# Statements on standard input, to a database.
sql() { as_postgres psql -XAtq --set ON_ERROR_STOP=1 --set name="$NAME" --set mark="$MARK" --dbname "$1"; }
rows() {
  sql "$1" <<'SQL'
SELECT format('SELECT %L, count(*) FROM %I.%I', schemaname || '.' || tablename, schemaname, tablename)
FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY schemaname, tablename \gexec
SQL
}

case $1 in
  size)
    sql "$NAME" <<'SQL'
SELECT system_identifier FROM pg_control_system();
SELECT coalesce(shobj_description(oid, 'pg_database'), '') FROM pg_database WHERE datname = :'name';
SELECT pg_database_size(:'name') >> 20;
SELECT count(*) FROM sub_post;
SELECT name FROM migratehistory ORDER BY name;
SQL
    ;;
  dump)
    # Root opens the file, in a directory that the server's administrator may not enter.
    as_postgres pg_dump --format custom "$NAME" > "$2"
    rows "$NAME"
    ;;
  restore)
    as_postgres dropdb --if-exists --force "${NAME}_moving"
    # As the role postgres makes it. All in it will belong to the site's user, whoever had it.
    as_postgres createdb --template template0 --encoding UTF8 --locale C.UTF-8 --owner "$2" "${NAME}_moving"
    sql postgres <<'SQL'
SELECT :'name' || '_moving' AS moving \gset
COMMENT ON DATABASE :"moving" IS :'mark';
REVOKE ALL ON DATABASE :"moving" FROM PUBLIC;
SQL
    as_postgres pg_restore --exit-on-error --no-owner --no-privileges --role "$2" --jobs "$(nproc)" --dbname "${NAME}_moving" "$3"
    sql "${NAME}_moving" <<'SQL'
ANALYZE;
CREATE EXTENSION IF NOT EXISTS amcheck;
DO $$ BEGIN
  PERFORM bt_index_check(index => i.indexrelid, heapallindexed => true)
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
  WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relpersistence = 'p' AND i.indisready AND i.indisvalid;
END $$;
DROP EXTENSION amcheck;
SQL
    rows "${NAME}_moving"
    ;;
  exchange)
    # Nobody asks but a pooler with connections that are idle, which makes new ones.
    sql postgres <<'SQL'
SELECT :'name' || '_moving' AS moving, :'name' || '_unfinished' AS unfinished,
  :'name' || CASE WHEN shobj_description(oid, 'pg_database') = :'mark' THEN '_unfinished' ELSE '_before_move' END AS kept
FROM pg_database WHERE datname = :'name' \gset
DROP DATABASE IF EXISTS :"kept" WITH (FORCE);
ALTER DATABASE :"name" ALLOW_CONNECTIONS false;
SELECT count(pg_terminate_backend(pid, 10000)) AS ended FROM pg_stat_activity WHERE datname IN (:'name', :'moving') \gset
BEGIN;
ALTER DATABASE :"name" RENAME TO :"kept";
ALTER DATABASE :"moving" RENAME TO :"name";
COMMIT;
ALTER DATABASE :"kept" ALLOW_CONNECTIONS true;
DROP DATABASE IF EXISTS :"unfinished" WITH (FORCE);
SQL
    ;;
  finish)
    sql postgres <<<'COMMENT ON DATABASE :"name" IS NULL;'
    ;;
esac
