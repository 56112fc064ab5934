//! Every supported version of PostgreSQL, with and without page checksums, with every size of WAL
//! segment in use, and with a tablespace: archived, backed up twice, restored and recovered.

use crate::support::*;

/// Version, size of a WAL segment in MB, page checksums.
const TABLE: [(u32, u32, bool); 11] = [
    (15, 1, true),
    (15, 64, false),
    (16, 1, false),
    (16, 16, true),
    (17, 16, false),
    (17, 64, true),
    (18, 1, false),
    (18, 16, true),
    (18, 64, true),
    (19, 1, false),
    (19, 16, true),
];

#[test]
fn every_version_is_archived_backed_up_and_restored() {
    for (major, segment, checksums) in TABLE {
        let Some(programs) = pg::version(major) else {
            continue;
        };
        let build = Cluster::build().programs(programs).wal_segsize(segment);
        let build = if checksums { build.checksums() } else { build };
        let live = Live::with(build, |server| {
            if major >= 17 {
                server.set("summarize_wal", "on");
            }
        });
        live.archive.walkeep(&["check"]).ok();
        let server = &live.server;
        let space = server.scratch().mkdir("space");
        server.psql(&format!("create tablespace space location '{}'", space.display()));
        server.psql("create table t (i int primary key, filler text) tablespace space");
        server.psql("create unlogged table u as select generate_series(1, 100) as i");
        server.psql("insert into t select i, repeat(md5(i::text), 8) from generate_series(1, 20000) i");
        let first = live.backup();
        server.psql("update t set filler = 'changed' where i % 1000 = 0");
        let second = live.backup();
        let row = format!("{major}, {segment} MB, checksums {checksums}");
        assert_eq!(second["parent"], first["id"], "{row}");
        server.psql("insert into t select i, 'behind' from generate_series(20001, 20100) i");
        live.flush_wal();
        let sum = "select count(*), md5(string_agg(filler, ',' order by i)) from t";
        let oid = server.psql("select oid from pg_tablespace where spcname = 'space'");
        for backup in [&first, &second] {
            let scratch = Scratch::new();
            let mapping = format!("{oid}={}", scratch.join("space").display());
            let copy = live.restore(&[&live::text(backup, "id"), "--tablespace", &mapping]);
            let copy = copy.verified().recovered();
            assert_eq!(copy.psql(sum), server.psql(sum), "{row}");
            assert_eq!(copy.psql("select count(*) from u"), "0", "{row}");
            copy.stop(Stop::Fast);
        }
    }
}
