//! Damage that is in the backup itself is found, also beside what is merely unusual.

use super::unusual::{back_up_without, library, of_libraries, script};
use super::*;

const PAGE: usize = 8192;

/// A name of the objects to damage, with the database.
type Object<'a> = (&'a str, &'a str);

/// Path of the file of a relation.
fn file(server: &Cluster, (database, name): Object) -> std::path::PathBuf {
    let outcome = script(
        server,
        "postgres",
        database,
        format!("\\pset tuples_only\n\\pset format unaligned\nselect pg_relation_filepath({name})"),
    );
    server.data().join(outcome.ok().stdout.trim())
}

/// Changes a page of a file.
fn change(path: &Path, page: usize, change: impl FnOnce(&mut [u8])) {
    let mut bytes = read(path);
    change(&mut bytes[page * PAGE..(page + 1) * PAGE]);
    std::fs::write(path, bytes).expect("damage a page");
}

/// Offset of the first item of a heap page.
fn first_item(page: &[u8]) -> usize {
    usize::from(u16::from_le_bytes([page[24], page[25]]) & 0x7fff)
}

const OBJECTS: &str = "
create table garbage as select generate_series(1, 10000) i;
create table from_the_past as select generate_series(1, 10000) i;
create table in_toast (i int, t text);
alter table in_toast alter t set storage external;
insert into in_toast select g, repeat(md5(g::text), 300) from generate_series(1, 20) g;
create table lost as select generate_series(1, 10000) i;
create table hours (t timestamptz);
insert into hours values (now());
create materialized view view as select * from garbage;
create sequence counter;
select nextval('counter');
create function f_breaks(int) returns int language plpgsql immutable as 'begin return $1; end';
create table indexed (i int, t text);
insert into indexed select g, md5(g::text) from generate_series(1, 5000) g;
create index indexed_zeroed on indexed (i);
create index indexed_breaks on indexed (f_breaks(i));
create collation german (provider = icu, locale = 'de');
create index indexed_german on indexed (t collate german);
update pg_collation set collversion = '0.0' where collname = 'german';
create or replace function f_breaks(int) returns int language plpgsql immutable
  as 'begin raise exception ''broken''; end';
";

#[test]
fn damage_is_found_beside_everything_that_is_unusual() {
    let libraries = Scratch::new();
    let (citext, seg) = (library(&libraries, "citext.so"), library(&libraries, "seg.so"));
    // Without checksums, neither the backup nor the restore can know.
    let live = Live::with(Cluster::build().wal_segsize(1), |server| server.set("autovacuum", "off"));
    let server = &live.server;
    script(server, "postgres", "postgres", OBJECTS).ok();
    script(server, "postgres", "postgres", of_libraries(&citext, &seg)).ok();
    let of = |name| file(server, ("postgres", name));
    let garbage = [
        of("'garbage'"),
        of("'view'"),
        file(server, ("libraries", "'measured'")),
        file(server, ("libraries", "'only_measured'")),
    ];
    let zeroed = [of("'indexed_zeroed'"), of("'indexed_breaks'"), of("'indexed_german'")];
    let toast = of("(select reltoastrelid from pg_class where relname = 'in_toast')");
    let (past, hours, counter, lost) = (of("'from_the_past'"), of("'hours'"), of("'counter'"), of("'lost'"));
    server.psql("checkpoint");
    server.stop(Stop::Fast);
    for path in &garbage {
        change(path, 0, |page| page[..24].fill(0xff));
    }
    for path in &zeroed {
        change(path, 3, |page| page.fill(0));
    }
    change(&toast, 4, |page| page.fill(0));
    change(&counter, 0, |page| page[PAGE - 8..].fill(0));
    change(&past, 2, |page| {
        let item = first_item(page);
        page[item..item + 4].copy_from_slice(&2_794_968_000u32.to_le_bytes());
        // The hints that the transaction has ended.
        page[item + 21] &= !0x0f;
    });
    change(&hours, 0, |page| {
        let value = first_item(page) + 24;
        page[value..value + 8].copy_from_slice(&(i64::MIN + 1).to_le_bytes());
    });
    std::fs::remove_file(&lost).expect("remove a file");
    server.start();
    back_up_without(&live, [citext, seg]);
    let report = drill(&live.archive, &[], 3);
    let (read, amcheck) = (check(&report, "read"), check(&report, "amcheck"));
    assert_eq!((read.0, amcheck.0), (Some(false), Some(false)), "{report:#}");
    for name in ["garbage", "view", "measured", "in_toast", "from_the_past", "lost", "hours", "counter"] {
        assert!(read.1.contains(&format!("public.{name} of")), "{name}: {report:#}");
    }
    for name in ["indexed_zeroed", "indexed_breaks", "indexed_german", "only_measured"] {
        assert!(amcheck.1.contains(&format!("public.{name} of")), "{name}: {report:#}");
    }
}
