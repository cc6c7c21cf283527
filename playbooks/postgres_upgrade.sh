# The cluster "main" of a PostgreSQL server goes over to another major version, and back; run as root on its host.
# Usage: plan | undoable | rehearse | upgrade | tidy | undo | done | finish    with FROM, TO, BY (copy, clone or link) and STANZA in the environment
#   plan      prints MiB: of the data, that are free, and that are needed; or refuses
#   undoable  the same of the way back
#   rehearse  asks pg_upgrade whether it would work, by an empty cluster, while the server goes on
#   upgrade   stops FROM, which is kept, and starts TO; whatever fails leaves FROM running as it was
#   tidy      extensions, indexes whose order is another one now, statistics
#   undo      stops FROM, which is kept, and starts TO
#   done      all that belongs to it is done
#   finish    drops TO, which was kept
# What cannot be done is said in the last line of standard error, with status 1.
set -euo pipefail
cd /
unset "${!PG@}"
export LC_ALL=C.UTF-8
CONFIG=/etc/postgresql DATA=/var/lib/postgresql LOG=/var/log/postgresql/throat-upgrade.log
# Is there from the first step to the last; the role's site.yml refuses the host meanwhile.
MARK=$DATA/throat-upgrade INDEXES=$DATA/throat-upgrade-indexes SCRATCH=$DATA/throat-upgrade-check
BIN=/usr/lib/postgresql/$TO/bin

refuse() { echo "$*" >&2; exit 1; }
as_postgres() { setpriv --reuid=postgres --regid=postgres --init-groups env HOME=$DATA "$@"; }
# Statements on standard input, to a database of the cluster of a version.
sql() { as_postgres psql --cluster "$1/main" -XAtq --set ON_ERROR_STOP=1 --dbname "$2"; }
databases() { sql "$1" postgres <<<"SELECT datname FROM pg_database WHERE datallowconn AND datname <> 'template0'"; }
is_ours() { grep -qs "^# BEGIN throat.stack" "$CONFIG/$1/main/pg_hba.conf"; }
# What somebody has made is numbered from here on.
is_empty() { ! find "$DATA/$1/main/base" -mindepth 1 -regex '.*/[0-9]+' -printf '%f\n' 2>/dev/null | awk '$1 >= 16384 {found = 1} END {exit !found}'; }
# By hard links it shares its files with the one that has run since.
is_dead() { [ ! -e "$DATA/$1/main/global/pg_control" ]; }
backup_of() {
  as_postgres pgbackrest --stanza="$STANZA" info --output=json 2>/dev/null | python3 -c '
import json, sys
stanza = json.load(sys.stdin)[0]
found = {(db["repo-key"], db["id"]): db["version"] for db in stanza["db"]}
labels = [one["label"] for one in stanza["backup"] if found[one["database"]["repo-key"], one["database"]["id"]] == sys.argv[1]]
print(labels[-1] if labels else "")' "$1"
}
room() {
  local size free needed
  size=$(du --summarize --block-size=1M --exclude=pg_wal "$DATA/$FROM/main" | cut -f 1)
  free=$(df --output=avail --block-size=1M $DATA | tail -n 1)
  needed=$((512 + $1 * size))
  [ "$free" -ge "$needed" ] || refuse "$DATA has $free MiB free, and $needed are needed; make room there, or say -e by=link"
  echo "$size" "$free" "$needed"
}
start() {
  systemctl daemon-reload
  systemctl enable --quiet --now "postgresql@$1-main"
  for _ in $(seq 600); do
    ! as_postgres pg_isready --quiet --cluster "$1/main" || return 0
    sleep 1
    # Debian's unit does not fail when its server does.
    pg_lsclusters --no-header "$1" main | grep -q online || break
  done
  return 1
}
# With what is in conf.d, which Debian's program leaves.
drop() { [ ! -e "$CONFIG/$1/main/postgresql.conf" ] || pg_dropcluster --stop "$1" main; rm -rf "${CONFIG:?}/$1/main"; }
# What pg_upgrade says beside that all is well, in one line.
reason() { sed -E '/ ok$|^(WARNING|DETAIL|HINT|[Pp]erforming|Checking|-)|^Failure, exiting|^$/d' | tr -s '\n ' ' '; }
said_by() { grep -E 'FATAL|ERROR|PANIC' "/var/log/postgresql/postgresql-$1-main.log" | tail -n 1; }

case $1 in
  plan)
    [ -x "$BIN/pg_upgrade" ] || apt-cache show "postgresql-$TO" >/dev/null 2>&1 ||
      refuse "apt knows no postgresql-$TO here; move the host to a Debian that has it, or add a repository that does, and run apt-get update"
    if [ ! -e $MARK ]; then
      ! is_ours "$TO" || refuse "PostgreSQL $TO is kept here from an upgrade that was undone; -e finish=true drops it"
      is_empty "$TO" || refuse "PostgreSQL $TO is here already, with databases of somebody's; it must be empty, or not be there"
    fi
    [ "$BY" != link ] || [ -n "$STANZA" ] || refuse "by: link, but there are no backups, and so no way back; say -e by=copy"
    room $([ "$BY" = copy ] && echo 1 || echo 0)
    ;;
  undoable)
    if is_dead "$TO"; then
      [ -n "$(backup_of "$TO")" ] || refuse "PostgreSQL $TO has given its files to $FROM, and there is no backup of it any more"
      room 1
    else
      room 0
    fi
    ;;
  rehearse)
    trap 'rm -rf $SCRATCH' EXIT
    rm -rf $SCRATCH
    checksums=$(sql "$FROM" postgres <<<"SELECT CASE WHEN current_setting('data_checksums')::bool THEN '--data-checksums' WHEN $TO > 17 THEN '--no-data-checksums' END")
    as_postgres "$BIN/initdb" --no-sync --auth=peer ${checksums:+"$checksums"} --pgdata $SCRATCH >/dev/null
    # Settings of the inventory that the new version does not know.
    echo "include_dir '$CONFIG/$FROM/main/conf.d'" >> $SCRATCH/postgresql.conf
    said=$(as_postgres "$BIN/postgres" -D $SCRATCH -C max_connections 2>&1) || refuse "postgres_settings: $(sed -E 's/^.*(LOG|FATAL): +//; q' <<<"$said")"
    sed -i '$d' $SCRATCH/postgresql.conf
    if ! said=$(as_postgres sh -c 'cd "$1" && shift && exec "$@"' sh $SCRATCH "$BIN/pg_upgrade" --check $([ "$BY" = copy ] || echo "--$BY") \
        -b "/usr/lib/postgresql/$FROM/bin" -B "$BIN" -d "$CONFIG/$FROM/main" -D $SCRATCH 2>&1); then
      lists=$(find $SCRATCH -name '*.txt' -path '*pg_upgrade_output.d*' -exec cat {} +)
      refuse "pg_upgrade --check: $(reason <<<"$said") $(head -n 8 <<<"$lists" | tr -s '\n ' ' ')"
    fi
    ;;
  upgrade)
    if [ ! -e $MARK ]; then
      # With an order that another library has made: the new cluster would not know any more.
      while read -r database; do
        sql "$FROM" "$database" <<<"SELECT format('%s|REINDEX INDEX %s', current_database(), indexrelid::regclass)
          FROM pg_index JOIN pg_database ON datname = current_database()
          WHERE EXISTS (SELECT FROM unnest(indcollation) AS used JOIN pg_collation c ON c.oid = used
            WHERE collversion <> pg_collation_actual_version(c.oid) OR (collprovider = 'd' AND datcollversion <> pg_database_collation_actual_version(pg_database.oid)))"
      done < <(databases "$FROM") > $INDEXES
      echo "$FROM $TO $BY" > $MARK
    fi
    # The empty one that its package has made, or what was left by a run that was killed.
    drop "$TO"
    [ ! -e "$DATA/$FROM/main/global/pg_control.old" ] || mv "$DATA/$FROM/main/global/pg_control"{.old,}
    if ! pg_upgradecluster --version "$TO" --method "${BY/copy/upgrade}" --jobs "$(nproc)" --no-start "$FROM" main >$LOG 2>&1; then
      [ ! -e "$DATA/$FROM/main/global/pg_control.old" ] || mv "$DATA/$FROM/main/global/pg_control"{.old,}
      start "$FROM" || true
      drop "$TO"
      rm -f $MARK $INDEXES
      refuse "pg_upgradecluster: $(sed '1,/pg_upgrade /d' $LOG | reason | head -c 500) (all of it is in $LOG)"
    fi
    # Debian's program takes what is beside them only; as new files, which the server has to read.
    cp --recursive --no-clobber --preserve=mode,ownership "$CONFIG/$FROM/main/conf.d" "$CONFIG/$TO/main/"
    systemctl disable --quiet "postgresql@$FROM-main"
    start "$TO" || refuse "PostgreSQL $TO does not start: $(said_by "$TO")"
    ;;
  tidy)
    while read -r database; do
      sql "$TO" "$database" <<<"SELECT format('ALTER EXTENSION %I UPDATE', name) FROM pg_available_extensions WHERE installed_version <> default_version \\gexec"
    done < <(databases "$TO")
    # Before it is noted that they are in order.
    while IFS="|" read -r database statement; do
      sql "$TO" "$database" <<<"$statement"
      echo "$database: $statement"
    done < <(cat $INDEXES 2>/dev/null)
    while read -r database; do
      sql "$TO" "$database" <<'SQL'
SELECT format('ALTER DATABASE %I REFRESH COLLATION VERSION', datname) FROM pg_database
  WHERE datname = current_database() AND datcollversion <> pg_database_collation_actual_version(oid) \gexec
SELECT format('ALTER COLLATION %s REFRESH VERSION', oid::regcollation) FROM pg_collation WHERE collversion <> pg_collation_actual_version(oid) \gexec
SQL
    done < <(databases "$TO")
    # Debian 13 has a hook for the statistics; an administrator may have others.
    hooks=/etc/postgresql-common/pg_upgradecluster.d
    PGJOBS=$(nproc) as_postgres run-parts --lsbsysinit -a "$FROM" -a main -a "$TO" -a finish $hooks >>$LOG 2>&1 || refuse "a script in $hooks fails: $(tail -n 1 $LOG)"
    [ -e $hooks/analyze ] || as_postgres vacuumdb --cluster "$TO/main" --all --analyze-in-stages --jobs "$(nproc)" >>$LOG 2>&1
    ;;
  undo)
    echo "$FROM $TO undo" > $MARK
    systemctl disable --quiet --now "postgresql@$FROM-main"
    if is_dead "$TO"; then
      find "$DATA/$TO/main" -mindepth 1 -delete
      if ! said=$(as_postgres pgbackrest --stanza="$STANZA" --pg1-path="$DATA/$TO/main" --set="$(backup_of "$TO")" --log-level-console=warn restore 2>&1); then
        start "$FROM" || true
        rm -f $MARK
        refuse "pgbackrest: $(grep ERROR <<<"$said" | head -n 1)"
      fi
    fi
    echo manual > "$CONFIG/$FROM/main/start.conf"
    echo auto > "$CONFIG/$TO/main/start.conf"
    start "$TO" || refuse "PostgreSQL $TO does not start: $(said_by "$TO")"
    ;;
  done)
    rm -f $MARK $INDEXES
    ;;
  finish)
    grep -q ^manual "$CONFIG/$TO/main/start.conf" || refuse "PostgreSQL $TO starts at boot, so that it may have the data; it is not dropped"
    drop "$TO"
    rm -rf /var/log/postgresql/pg_upgradecluster-*
    ;;
esac
