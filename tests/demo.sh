#!/bin/bash
# A table is lost and comes back: archiving, a base backup, a DROP TABLE, a restore to the moment before.
# Everything happens in a scratch directory, with no TCP port, and is gone at the end.
# Usage: tests/demo.sh DIRECTORY_OF_THE_PROGRAMS (make demo does all of it)
# With S3=1 the repository is a bucket of an S3 server that runs as long as the demo does.
# WALKEEP_DEMO_PGBIN names PostgreSQL's programs; the newest that Debian has unless told.
set -euo pipefail

# ---- how it is shown ------------------------------------------------------------------------------------

if [ -t 1 ]; then bold=$'\e[1m' cyan=$'\e[36m' red=$'\e[31m' plain=$'\e[0m'; else bold='' cyan='' red='' plain=''; fi

step='the preparation'
step() { step="step $1: $2"; printf '\n%s%s. %s%s\n' "$bold" "$1" "$2" "$plain"; }
note() { printf '   %s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Shows a command and runs exactly it, for two minutes at most.
type_() {
    printf '%s$ %s%s\n' "$cyan" "$1" "$plain"
    timeout --foreground -k 5 120 bash -c "set -o pipefail; $1" </dev/null
}

# Looks until a command succeeds, for a minute at most.
await() {
    local what=$1 end=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ $SECONDS -lt $end ] || fail "waited a minute in vain until $what"
        sleep 0.1
    done
}

sql() { timeout --foreground -k 5 60 psql -XAtq -v ON_ERROR_STOP=1 -c "$1" </dev/null; }
# A process that nobody has collected yet (in a container without init) has ended all the same.
ended() { [ ! -e "/proc/$1" ] || grep -q '^State:.*[ZX]' "/proc/$1/status"; }
says() { [ "$(sql "$1")" = t ]; }

# ---- as an ordinary user --------------------------------------------------------------------------------

# PostgreSQL refuses to run as root, so root becomes the user postgres. The programs are copied, since the
# checkout may be closed to that user.
as=()
if [ "$(id -u)" = 0 ]; then
    id postgres >/dev/null 2>&1 || fail 'there is no user postgres: install postgresql, or run this as an ordinary user'
    as=(setpriv --reuid postgres --regid postgres --init-groups env HOME=/nonexistent USER=postgres LOGNAME=postgres)
fi
if [ -z "${WALKEEP_DEMO_SCRATCH:-}" ]; then
    base=${TMPDIR:-/tmp}
    # A socket's path has 107 bytes.
    { [ ${#base} -le 60 ] && "${as[@]}" test -w "$base" -a -x "$base"; } || base=/tmp
    WALKEEP_DEMO_SCRATCH=$("${as[@]}" mktemp -d "$base/walkeep-demo-XXXXXX")
    export WALKEEP_DEMO_SCRATCH
    trap 'rm -rf "$WALKEEP_DEMO_SCRATCH"' EXIT
    if [ "${S3:-}" = 1 ]; then
        mkfifo "$WALKEEP_DEMO_SCRATCH/said"
        # It ends when nobody has this pipe any more.
        exec 9> >(exec "${0%/*}/s3/server" demo > "$WALKEEP_DEMO_SCRATCH/said")
        read -r port access secret < "$WALKEEP_DEMO_SCRATCH/said" ||
            fail 'the S3 server does not run: S3=1 .ci/setup demo'
        unset "${!AWS_@}"
        export WALKEEP_DEMO_S3=$port AWS_ACCESS_KEY_ID=$access AWS_SECRET_ACCESS_KEY=$secret
    fi
    "${as[@]}" mkdir "$WALKEEP_DEMO_SCRATCH/bin"
    install -m 0755 -t "$WALKEEP_DEMO_SCRATCH/bin" "$1/walpush" "$1/walfetch" "$1/walkeep" "$0"
    exec "${as[@]}" "$WALKEEP_DEMO_SCRATCH/bin/${0##*/}"
fi
scratch=$WALKEEP_DEMO_SCRATCH
programs=$scratch/bin
cd "$scratch"

newest=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1) || true
export PATH=$programs:${WALKEEP_DEMO_PGBIN:-${newest:-/usr/bin}}:/usr/bin:/bin
unset "${!PG@}"
export PGHOST=$scratch PGDATABASE=postgres PGUSER=postgres LC_ALL=C WALKEEP_CONFIG=$scratch/walkeep.toml
command -v initdb pg_verifybackup pg_amcheck pgbench >/dev/null ||
    fail 'PostgreSQL was not found: on Debian it is the package postgresql'

bench=
stop_all() {
    [ -z "$bench" ] || { kill "$bench" && wait "$bench"; } 2>/dev/null || true
    bench=
    local cluster
    for cluster in first second; do
        [ -e "$scratch/$cluster/postmaster.pid" ] || continue
        timeout 60 pg_ctl -D "$scratch/$cluster" -m fast -w -t 20 stop >/dev/null 2>&1 ||
            timeout 60 pg_ctl -D "$scratch/$cluster" -m immediate -w -t 20 stop >/dev/null 2>&1 || true
    done
}
finish() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [ $status -ge 128 ]; then
        printf "\n%sinterrupted in %s%s\n" "$red" "$step" "$plain" >&2
    elif [ $status -ne 0 ]; then
        printf '\n%sFAILED in %s%s\n' "$red" "$step" "$plain" >&2
        local log
        for log in first second; do
            [ ! -e "$scratch/$log.log" ] || { echo "-- the end of $log.log" && tail -n 12 "$scratch/$log.log"; } >&2
        done
    fi
    stop_all
    cd /
    rm -rf "$scratch"
    exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# What is compared in the end: how many rows, and a hash over all that stands in them.
content="select count(*) || ' rows, content ' || md5(string_agg(o::text, ',' order by id)) from orders o"

printf '%sLosing a table, and getting it back%s\n' "$bold" "$plain"
note "$(postgres --version), $(walkeep --version), as user $(id -un), in $scratch"

# ---- the eight steps ------------------------------------------------------------------------------------

step 1 'A cluster starts archiving through walpush'
type_ 'initdb --data-checksums --auth=trust -U postgres -D first > initdb.log'
cat >> first/postgresql.conf <<END
listen_addresses = ''
unix_socket_directories = '$scratch'
wal_level = replica
archive_mode = on
archive_command = '$programs/walpush --config $scratch/walkeep.toml %p'
END
repository="name = \"local\"
url  = \"file://$scratch/repository\""
if [ -n "${WALKEEP_DEMO_S3:-}" ]; then
    repository="name       = \"bucket\"
url        = \"s3://demo/repository\"
endpoint   = \"http://127.0.0.1:$WALKEEP_DEMO_S3\"
path_style = true"
fi
cat > walkeep.toml <<END
[cluster.main]
pgdata     = "$scratch/first"
connection = "host=$scratch user=postgres dbname=postgres"

[[repository]]
$repository

[wal]
spool = "$scratch/spool"
END
type_ 'tail -n 2 first/postgresql.conf'
type_ 'cat walkeep.toml'
type_ 'pg_ctl -D first -l first.log -w start > /dev/null'

step 2 'walkeep registers the cluster and proves that WAL arrives'
type_ 'walkeep init'
type_ 'walkeep check'

step 3 'A base backup, while pgbench writes'
type_ "psql -Xqc \"create table orders as
    select id, md5(id::text) as item, now() as placed from generate_series(1, 100000) id\""
type_ 'psql -Xqc "alter table orders add primary key (id)"'
type_ 'pgbench -i -q -s 5 > pgbench-init.log 2>&1'
printf '%s$ %s%s\n' "$cyan" 'pgbench -n -c 2 -R 300 -T 600 > pgbench.log 2>&1 &' "$plain"
pgbench -n -c 2 -R 300 -T 600 > pgbench.log 2>&1 </dev/null &
bench=$!
await 'pgbench writes' says 'select count(*) > 100 from pgbench_history'
type_ 'walkeep backup'

step 4 'A table is dropped'
note 'Orders still came in after the backup; they are in the archived WAL alone.'
type_ "psql -Xqc \"insert into orders
    select id, md5(id::text), now() from generate_series(100001, 120000) id\""
before=$(sql "$content")
moment=$(sql 'select clock_timestamp()')
note "orders has $before"
note "It is $moment. Then somebody types:"
type_ 'psql -Xc "drop table orders"'

step 5 'The users go on'
transactions=$(sql 'select count(*) from pgbench_history')
await 'the users went on' says "select count(*) > $transactions + 300 from pgbench_history"
note "$(sql 'select count(*) from pgbench_history') transactions of pgbench so far, $transactions when the table went"
type_ 'psql -Xc "select count(*) from orders"' || note "(as expected)"
note 'What is archived reaches as far as the last complete WAL segment, so the current one is ended:'
segment=$(sql 'select pg_walfile_name(pg_current_wal_lsn())')
type_ 'psql -Xqc "select pg_switch_wal()" > /dev/null'
await 'the WAL is archived' says "select last_archived_wal >= '$segment' from pg_stat_archiver"
type_ 'walkeep list'

step 6 'A second server comes up at the moment before'
type_ "walkeep restore --time '$moment' --to $scratch/second"
note "PostgreSQL's own tool compares every restored file with the backup's manifest:"
type_ 'pg_verifybackup second'
type_ "pg_ctl -D second -o '-p 5433' -l second.log -w start > /dev/null"
export PGPORT=5433
await 'recovery reached the moment and ended' says 'select not pg_is_in_recovery()'
note 'The server says how far it recovered:'
type_ "grep -o 'recovery stopping before.*' second.log"

step 7 'The table is there, complete, and the whole cluster is sound'
type_ 'psql -Xc "select count(*), min(id), max(id), max(placed) from orders"'
after=$(sql "$content")
note "before the drop: $before"
note "restored:        $after"
[ "$before" = "$after" ] || fail 'the restored table is not the one that was dropped'
note 'amcheck reads every table and index, and looks up each row in its indexes:'
type_ 'pg_amcheck --all --install-missing --heapallindexed'
note 'no complaints'
[ "$(sql 'show data_checksums')" = on ] || fail 'the restored cluster has no page checksums'
unset PGPORT
says "select count(*) > $transactions from pgbench_history" || fail 'the first server does not answer any more'
note 'The first server has been running all the time; nothing of it was touched.'

step 8 'Everything is cleaned up'
pids=$(head -qn 1 first/postmaster.pid second/postmaster.pid)
stop_all
for pid in $pids; do
    await "the server with process $pid is gone" ended "$pid"
done
cd /
rm -rf "$scratch"
[ ! -e "$scratch" ] || fail "$scratch is still there"
note "both servers are stopped, $scratch is gone"

printf '\n%sProved:%s the dropped table came back complete: %s as before the drop,\n' "$bold" "$plain" "$before"
printf 'from a base backup taken under load and the WAL that walpush archived; pg_verifybackup and pg_amcheck agree.\n'
