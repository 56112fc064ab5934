# $WALKEEP_BIN is the directory that holds walpush, walfetch and
# walkeep; it must lie under $PEERS (the chroot sees only that).
CONF="--config $A_DIR/walkeep.toml"
caps() { echo "push fetch drain replay backup incr restore delta"; }
setup() {
    mkdir -p "$A_DIR/repo"
    cat > "$A_DIR/walkeep.toml" <<T
[cluster.main]
pgdata = "$PGDATA"
connection = "host=$PGHOST port=$PGPORT user=postgres dbname=postgres"
[[repository]]
name = "local"
url = "file://$A_DIR/repo"
[repository.retention]
keep_last = 1
[wal]
spool = "$A_DIR/spool"
$([ "$VARIANT" = sync ] && printf 'push_ahead = 0\nfetch_ahead = 0')
T
    "$WALKEEP_BIN/walkeep" $CONF init
}
push_cmd() { echo "$WALKEEP_BIN/walpush $CONF %p"; }
# VARIANT sync: one segment at a time, nothing ahead.
# VARIANT zstd: the floor of a fetch, the same object decompressed by the public tool and checked by nobody. The
# segments of the benches are all of timeline 1 and its first 4 GiB.
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
