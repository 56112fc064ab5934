//! Tables and B-trees of a database, and the statements that read and check them.

use super::cause::{Cause, ENCODING_CODES};
use super::databases::rename_to_ascii;
use super::findings::CheckFindings;
use super::runner::Runner;
use crate::error::{Error, Kind, Result};
use crate::pg::client::{Row, Session, column};

/// Schema of the functions of amcheck.
const SCHEMA: &str = "walkeep_drill";

/// Encodings of names and values are not checked while they are copied: bytes of a SQL_ASCII
/// database need not be UTF-8.
const COPY_OPTIONS: &str = "TO '/dev/null' (ENCODING 'SQL_ASCII')";

/// Oids of types from here on belong to users and extensions (`FirstNormalObjectId`).
const FIRST_USER_OID: u32 = 16384;

/// Major version from which on `COPY` reads materialized views.
const COPY_OF_VIEWS: u32 = 18_00_00;

/// Query for the tables of a database. `builtin` are the columns whose values the server shows
/// without the library of an extension.
const TABLES: &str = "\
    SELECT c.oid, c.relkind::text AS kind, format('%I.%I', n.nspname, c.relname) AS name, \
           pg_relation_size(c.oid) AS bytes, c.relam = 2 AND c.relkind <> 'S' AS is_heap, \
           (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '' \
               AND atttypid < $1) AS builtin, \
           EXISTS (SELECT FROM pg_attribute \
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND atttypid >= $1) AS has_user_types, \
           (SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute \
             WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = 's') AS generated \
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relkind IN ('r', 'm', 't', 'S') AND c.relpersistence <> 't' \
       AND (c.relkind <> 'm' OR c.relispopulated)";

/// Query for the B-trees of a database that are in use.
const BTREES: &str = "\
    SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name, pg_relation_size(c.oid) AS bytes, \
           i.indexprs IS NOT NULL OR i.indpred IS NOT NULL AS has_code \
      FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.relam = 403 AND c.relkind = 'i' AND c.relpersistence <> 't' \
       AND i.indisready AND i.indisvalid AND i.indislive";

/// A table or an index to read or to check.
pub struct Item {
    /// Position of the database among those of the drill.
    pub database: usize,
    pub oid: u32,
    pub name: String,
    pub bytes: u64,
    pub work: Work,
}

/// Work on an item.
pub enum Work {
    Read(TableScan),
    /// Checks the pages and rows of a heap.
    CheckHeap {
        statement: String,
    },
    CheckBTree(BTreeCheck),
}

/// Statements that read a table to its last byte.
pub struct TableScan {
    /// Reads all values: `COPY` also assembles them from the TOAST table, which is read once more,
    /// page by page.
    pub statement: String,
    /// Whether the statement plans a query of a relation that may have indexes with expressions,
    /// which planning evaluates.
    pub is_planned: bool,
    /// Whether all columns have types of PostgreSQL itself.
    pub is_builtin: bool,
    /// Reads the values of columns with types of PostgreSQL itself, without converting them to
    /// text; `None` for a query and for tables without such columns.
    pub fallback: Option<String>,
    /// Reads the stored generated columns, which `COPY` of a table leaves out.
    pub generated: Option<String>,
}

/// Statements that check a B-tree.
pub struct BTreeCheck {
    /// Whether the index has expressions or a predicate.
    pub has_code: bool,
    /// Compares the index with its table too, for which expressions are evaluated.
    pub with_table: String,
    pub alone: String,
    /// Whether a collation of the index has another version on this host than the index.
    pub has_other_collation: String,
}

/// Lists the tables and B-trees of the database of a session. With `amcheck`, creates the functions
/// that check them; when that is not possible, the findings get a note.
pub fn list(
    session: &Session,
    database: usize,
    name: &str,
    amcheck: bool,
    runner: &Runner<'_>,
    findings: [&mut CheckFindings; 2],
) -> Result<Vec<Item>> {
    let bound = Some(runner.remaining());
    let [read, checked] = findings;
    let tables = || session.query(TABLES, &[&FIRST_USER_OID], bound);
    let rows = match tables() {
        Err(error) if error.sqlstate().is_some_and(|code| ENCODING_CODES.contains(&code)) => {
            rename_to_ascii(session, runner)?;
            tables()
        }
        rows => rows,
    };
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => {
            runner.check()?;
            let line = format!("the tables of database {name}: {error}");
            match Cause::of(&error) {
                Cause::Data => read.bad.push(line),
                Cause::Obstacle | Cause::Host => read.unread.push(line),
            }
            return Ok(Vec::new());
        }
    };
    let version = session.server_version_num();
    let mut items = Vec::new();
    for row in &rows {
        items.push(Item::of(database, row, Work::Read(TableScan::of(row, version)?))?);
    }
    if !amcheck {
        return Ok(items);
    }
    let created = create_functions(session, runner).and_then(|()| session.query(BTREES, &[], bound));
    match created {
        Ok(btrees) => {
            for row in rows.iter().filter(|row| matches!(column(row, "is_heap"), Ok(true))) {
                let oid: u32 = column(row, "oid")?;
                let statement = format!(
                    "SELECT format('block %s, item %s: %s', blkno, offnum, msg) \
                       FROM {SCHEMA}.verify_heapam({oid}::regclass, false, true) LIMIT 10"
                );
                items.push(Item::of(database, row, Work::CheckHeap { statement })?);
            }
            for row in &btrees {
                items.push(Item::of(database, row, Work::CheckBTree(BTreeCheck::of(row)?))?);
            }
        }
        Err(error) => {
            runner.check()?;
            let line = format!("database {name}: {error}");
            match Cause::of(&error) {
                Cause::Data => checked.bad.push(line),
                Cause::Obstacle => checked.notes.push(line),
                Cause::Host => checked.unread.push(line),
            }
        }
    }
    Ok(items)
}

/// Creates the functions of amcheck in a schema of their own, or moves them there.
fn create_functions(session: &Session, runner: &Runner<'_>) -> Result<()> {
    let statements = format!(
        "CREATE SCHEMA IF NOT EXISTS {SCHEMA}; \
         CREATE EXTENSION IF NOT EXISTS amcheck SCHEMA {SCHEMA}; \
         ALTER EXTENSION amcheck SET SCHEMA {SCHEMA}; ALTER EXTENSION amcheck UPDATE"
    );
    session.batch(&statements, Some(runner.remaining()))
}

impl Item {
    fn of(database: usize, row: &Row, work: Work) -> Result<Item> {
        let bytes: i64 = column(row, "bytes")?;
        Ok(Item {
            database,
            oid: column(row, "oid")?,
            name: column(row, "name")?,
            bytes: u64::try_from(bytes)
                .map_err(|_| Error::new(Kind::Failed, format!("a table has {bytes} bytes")))?,
            work,
        })
    }
}

impl TableScan {
    fn of(row: &Row, version: u32) -> Result<TableScan> {
        let (kind, name): (&str, &str) = (column(row, "kind")?, column(row, "name")?);
        let oid: u32 = column(row, "oid")?;
        let builtin: Option<&str> = column(row, "builtin")?;
        let generated: Option<&str> = column(row, "generated")?;
        let is_planned = kind == "m" && version < COPY_OF_VIEWS;
        let is_copied = kind == "r" || kind == "m" && !is_planned;
        let query = |columns: &str| format!("COPY (SELECT {columns} FROM ONLY {name}) {COPY_OPTIONS}");
        Ok(TableScan {
            statement: match kind {
                "t" => format!("SELECT count(*) FROM {name}"),
                // A query of the sequence would not check its page.
                "S" => format!("SELECT pg_sequence_last_value({oid}::regclass)"),
                _ if is_planned => query("*"),
                _ => format!("COPY {name} {COPY_OPTIONS}"),
            },
            is_planned,
            is_builtin: !column::<bool>(row, "has_user_types")?,
            fallback: builtin
                .filter(|_| is_copied)
                .map(|columns| format!("COPY {name} ({columns}) TO '/dev/null' (FORMAT binary)")),
            generated: generated.map(query),
        })
    }
}

impl BTreeCheck {
    fn of(row: &Row) -> Result<BTreeCheck> {
        let oid: u32 = column(row, "oid")?;
        let check = |with_table| format!("SELECT {SCHEMA}.bt_index_check({oid}::regclass, {with_table})");
        Ok(BTreeCheck {
            has_code: column(row, "has_code")?,
            with_table: check(true),
            alone: check(false),
            has_other_collation: format!(
                "SELECT coalesce(bool_or(CASE k.collprovider \
                            WHEN 'd' THEN d.datcollversion <> pg_database_collation_actual_version(d.oid) \
                            ELSE k.collversion <> pg_collation_actual_version(k.oid) END), false) \
                   FROM pg_index i, unnest(i.indcollation) AS used(collation_oid), pg_collation k, pg_database d \
                  WHERE i.indexrelid = {oid} AND k.oid = used.collation_oid AND d.datname = current_database()"
            ),
        })
    }
}
