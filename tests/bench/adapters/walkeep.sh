# $WALKEEP_BIN is the directory that holds walpush, walfetch and
# walkeep; it must lie under $PEERS (the chroot sees only that).
# VARIANT: words joined by '-':
#   s3     repository on the loopback S3 server, TLS in front of it (as pgBackRest must have it)
#   http   the same without TLS
#   sync   one segment at a time, nothing ahead
#   far    all segments ahead in one call, for `noop`
#   dN     the S3 server is N milliseconds away
#   read   backups that do not ask the server's WAL summaries: every file is read
#   base   the programs in $WALKEEP_BASE (under $PEERS too) instead: another build, to compare with
#   zstd   the floor of a fetch: the same object decompressed by the public tool and checked by nobody
has() { [[ "-$VARIANT-" == *"-$1-"* ]]; }
has_s3() { has s3 || has http; }
if has base; then WALKEEP_BIN=${WALKEEP_BASE:?names the directory of the other build}; fi
CONF="--config $A_DIR/walkeep.toml"
caps() { echo "push fetch drain replay backup incr restore delta$(has far && echo " async" || true)"; }
ahead() {
    if has sync; then printf 'push_ahead = 0\nfetch_ahead = 0\n'; fi
    if has far; then echo 'push_ahead = 64'; fi
}
async_ready() { find "$A_DIR/spool" -path '*/push/0*' -type f 2>/dev/null | wc -l; }
setup() {
    mkdir -p "$A_DIR/repo"
    {
        cat <<T
[cluster.main]
pgdata = "$PGDATA"
connection = "host=$PGHOST port=$PGPORT user=postgres dbname=postgres"
[wal]
spool = "$A_DIR/spool"
$(ahead)
[[repository]]
T
        if has_s3; then
            start_s3
            (umask 077; echo benchkey > "$A_DIR/access"; echo benchsecret > "$A_DIR/secret")
            cat <<T
name = "bucket"
url = "s3://bench/repo"
region = "us-east-1"
path_style = true
access_key_file = "$A_DIR/access"
secret_key_file = "$A_DIR/secret"
T
            if has http; then
                echo "endpoint = \"http://127.0.0.1:$S3_PORT\""
            else
                echo "endpoint = \"https://127.0.0.1:$S3_TLS_PORT\""
                echo "ca_file = \"$A_DIR/s3.crt\""
            fi
        else
            echo 'name = "local"'
            echo "url = \"file://$A_DIR/repo\""
        fi
        echo '[repository.retention]'
        echo 'keep_last = 1'
        if has read; then printf '[backup]\nwal_summaries = false\n'; fi
    } > "$A_DIR/walkeep.toml"
    "$WALKEEP_BIN/walkeep" $CONF init
}
teardown() { stop_s3; }
push_cmd() { echo "$WALKEEP_BIN/walpush $CONF %p"; }
# The segments of the benches are all of timeline 1 and its first 4 GiB.
fetch_cmd() {
    case $VARIANT in
    zstd)
        local wal=$A_DIR/repo/main/$(ls "$A_DIR/repo/main/identity")/wal/00000001/00000000
        echo "sh -c 'zstd -q -dc \"\$0\" > \"\$1\"' $wal/%f %p"
        ;;
    *) echo "$WALKEEP_BIN/walfetch $CONF %f %p" ;;
    esac
}
backup_full() { "$WALKEEP_BIN/walkeep" $CONF backup --full --quiet; }
backup_incr() { "$WALKEEP_BIN/walkeep" $CONF backup --quiet; }
restore() { "$WALKEEP_BIN/walkeep" $CONF restore --to "$1" --quiet; }
restore_delta() { "$WALKEEP_BIN/walkeep" $CONF restore --to "$1" --delta --quiet; }
expire() { :; }
repo_dirs() { if has_s3; then echo "$A_DIR/s3/bench"; else echo "$A_DIR/repo"; fi; }
