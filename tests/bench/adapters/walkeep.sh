# $WALKEEP_BIN is the directory that holds walpush, walfetch and
# walkeep; it must lie under $PEERS (the chroot sees only that).
CONF="--config $A_DIR/walkeep.toml"
caps() { echo "push fetch drain replay backup incr restore"; }
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
T
    "$WALKEEP_BIN/walkeep" $CONF init
}
push_cmd() { echo "$WALKEEP_BIN/walpush $CONF %p"; }
fetch_cmd() { echo "$WALKEEP_BIN/walfetch $CONF %f %p"; }
backup_full() { "$WALKEEP_BIN/walkeep" $CONF backup --full --quiet; }
backup_incr() { "$WALKEEP_BIN/walkeep" $CONF backup --quiet; }
restore() { "$WALKEEP_BIN/walkeep" $CONF restore --to "$1" --quiet; }
expire() { :; }
