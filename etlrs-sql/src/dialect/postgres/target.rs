//! What a load finds at its target, and what it will do there.

use arrow_schema::SchemaRef;
use etlrs_core::{Error, ErrorKind, LoadMode, LoadPlan, Result};

use super::catalog::{Column, Kind, Relation};
use super::name::quote;
use super::server::{rows, text};
use super::types::{Existing, Writing};
use super::wire::{Answer, Connection, Failure};
use crate::table::TableName;
use crate::types::no_column;

/// Columns that a table can have.
const MOST_COLUMNS: usize = 1600;

/// How the staged rows get into the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publishing {
    /// The staging table becomes the target, which does not exist.
    Rename,
    /// The staging table takes the place of the target, which nothing else hangs on.
    Swap,
    /// The rows are moved into the target, which keeps all that hangs on it; its old rows go first.
    Refill,
    /// The rows are moved into the target, beside its old ones, or into one that is made for them.
    Insert,
    /// Rows with a known key replace the old ones, others are inserted.
    Upsert,
}

impl Publishing {
    /// Whether the staging table itself is the target in the end; if not, it need not survive a crash of the server.
    pub(super) fn keeps_staging(self) -> bool {
        matches!(self, Self::Rename | Self::Swap)
    }

    /// Whether staged rows have a number: their place in the source, so that of two with one key the later one wins, and each can be
    /// named that the target refuses.
    pub(super) fn numbers_rows(self, plan: &LoadPlan) -> bool {
        plan.mode == LoadMode::Merge || plan.sifts && !self.keeps_staging()
    }
}

/// What is known of the target, and how each column is written.
pub(super) struct Target {
    pub(super) relation: Option<Relation>,
    pub(super) writings: Vec<Writing>,
    pub(super) publishing: Publishing,
    /// How the rows would be moved, where they need not be.
    moved: Vec<Writing>,
    /// All that defines the table, as a hash.
    pub(super) definition: String,
    pub(super) notes: Vec<String>,
}

impl Target {
    /// Looks without changing anything.
    ///
    /// # Errors
    /// As [`Loader::check`](etlrs_core::Loader::check).
    pub(super) async fn look(
        connection: &mut Connection,
        name: &TableName,
        plan: &LoadPlan,
        failed: &(dyn Fn(Failure) -> Error + Send + Sync),
    ) -> Result<Self> {
        check_columns(&plan.schema)?;
        let Some(relation) = Relation::find(connection, name).await.map_err(failed)? else {
            let writings =
                plan.schema.fields().iter().map(|field| Writing::created(field)).collect::<Result<Vec<_>>>()?;
            let mut notes = Vec::new();
            if plan.mode != LoadMode::Create {
                notes.push(format!("the table {name} does not exist and is created"));
            }
            let publishing = match plan.mode {
                LoadMode::Merge => Publishing::Upsert,
                // Subscribers would be sent rows of a table that they do not have.
                _ if publishes_all(connection).await.map_err(failed)? => Publishing::Insert,
                // An index, or another type of a column, is made of all rows or not at all.
                _ if plan.sifts && (!plan.keys.is_empty() || writings.iter().any(|writing| writing.cast.is_some())) => {
                    Publishing::Insert
                }
                _ => Publishing::Rename,
            };
            let moved = writings.clone();
            return Ok(Self { relation: None, writings, publishing, moved, definition: String::new(), notes });
        };
        if plan.mode == LoadMode::Create {
            return Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
                .hint("use mode append or replace, or another name"));
        }
        match relation.kind {
            Kind::Table | Kind::Partitioned => {}
            Kind::View | Kind::MaterializedView => {
                return Err(Error::new(ErrorKind::InvalidConfig, "the target is a view").hint("name a table"));
            }
            _ => return Err(Error::new(ErrorKind::InvalidConfig, "the target is no table").hint("name a table")),
        }
        if relation.row_security {
            return Err(Error::new(
                ErrorKind::PermissionDenied,
                "the target hides rows from this user by row security",
            )
            .hint("write as its owner, or as a user with BYPASSRLS"));
        }
        let columns = match_columns(&plan.schema, &relation)?;
        let direct: Option<Vec<_>> = columns.iter().map(|column| column.direct.clone()).collect();
        let moved: Vec<_> = columns.into_iter().map(|column| column.moved).collect();
        let definition = definition(connection, &relation.name.quoted()?).await.map_err(failed)?;
        let mut notes = Vec::new();
        let mut writings = moved.clone();
        let publishing = match plan.mode {
            LoadMode::Append => Publishing::Insert,
            LoadMode::Merge => {
                let unique = has_unique_index(connection, &relation, &plan.keys).await.map_err(failed)?;
                let identity = |column: &&Column| column.identity_always && !plan.keys.contains(&column.name);
                let written = |column: &&Column| plan.schema.field_with_name(&column.name).is_ok();
                if let Some(column) = relation.columns.iter().filter(written).find(identity) {
                    let message = "the server numbers this column itself, so a merge cannot update it";
                    return Err(Error::new(ErrorKind::InvalidConfig, message)
                        .at_column(&column.name)
                        .hint("leave it out: name the others with --columns"));
                }
                if !unique {
                    let keys = plan.keys.join(", ");
                    return Err(Error::new(ErrorKind::InvalidConfig, "the target has no unique index of the keys")
                        .hint(format!("create one on ({keys}), so that each key is there once")));
                }
                Publishing::Upsert
            }
            _ => {
                refuse_references(connection, &relation).await.map_err(failed)??;
                let hanging = what_hangs_on(connection, &relation).await.map_err(failed)?;
                // What a COPY refuses ends it, so rows go where they can be set aside.
                match direct.filter(|_| hanging.is_empty() && !plan.sifts) {
                    Some(direct) => {
                        writings = direct;
                        Publishing::Swap
                    }
                    None => {
                        let with = if hanging.is_empty() { "" } else { ", with " };
                        notes.push(format!(
                            "the rows of {name} are replaced within the table, which stays{with}{}",
                            hanging.join(", ")
                        ));
                        Publishing::Refill
                    }
                }
            }
        };
        let privileges: &[&str] = match publishing {
            Publishing::Insert => &["INSERT"],
            Publishing::Upsert => &["INSERT", "UPDATE", "SELECT"],
            Publishing::Refill => &["INSERT", "DELETE", "SELECT"],
            Publishing::Rename | Publishing::Swap => &[],
        };
        require_privileges(connection, &relation, privileges).await.map_err(failed)??;
        Ok(Self { relation: Some(relation), writings, publishing, moved, definition, notes })
    }

    /// The same, to be moved into the table that is there instead of another one taking its place.
    pub(super) fn refill(self) -> Self {
        Self { writings: self.moved.clone(), publishing: Publishing::Refill, ..self }
    }

    /// What SQL says behind the type of a column in which texts that differ may be equal; `None` for any other.
    pub(super) fn folds(&self, column: &str) -> Option<&str> {
        self.relation.as_ref()?.column(column)?.folds.as_deref()
    }

    /// The columns that are written, as SQL lists them.
    pub(super) fn column_list(schema: &SchemaRef) -> Result<String> {
        Ok(schema.fields().iter().map(|field| quote(field.name())).collect::<Result<Vec<_>>>()?.join(", "))
    }
}

fn check_columns(schema: &SchemaRef) -> Result<()> {
    let mismatch = |message: String| Error::new(ErrorKind::SchemaMismatch, message);
    let fields = schema.fields();
    if fields.is_empty() || fields.len() > MOST_COLUMNS {
        return Err(mismatch(format!("a table has from 1 to {MOST_COLUMNS} columns, not {}", fields.len())));
    }
    for (index, field) in fields.iter().enumerate() {
        quote(field.name()).map_err(|error| error.hint("rename the column"))?;
        if ["ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"].contains(&field.name().as_str()) {
            return Err(mismatch("this is the name of a column that every table has".into())
                .at_column(field.name())
                .hint("rename the column"));
        }
        if fields[..index].iter().any(|other| other.name() == field.name()) {
            return Err(mismatch("two columns have this name".into()).at_column(field.name()).hint("rename one"));
        }
    }
    Ok(())
}

/// Every column of the source has one of its name in the target, which can hold it, and those left out are filled.
fn match_columns(schema: &SchemaRef, relation: &Relation) -> Result<Vec<Existing>> {
    let mismatch = |message: &'static str| Error::new(ErrorKind::SchemaMismatch, message);
    let mut found = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let Some(column) = relation.column(field.name()).filter(|column| !column.generated) else {
            let names = relation.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str());
            return Err(no_column(field, names, relation.column(field.name()).is_some()));
        };
        found.push(Writing::existing(field, column)?);
    }
    let is_given = |column: &Column| schema.fields().iter().any(|field| field.name() == &column.name);
    let filled = |column: &Column| column.has_default || column.generated || !column.not_null;
    match relation.columns.iter().find(|column| !is_given(column) && !filled(column)) {
        Some(column) => Err(mismatch("the target's column is NOT NULL, has no default, and is not among the source's")
            .at_column(&column.name)),
        None => Ok(found),
    }
}

/// Whether rows of the table may need other rows of it.
pub(super) async fn refers_to_itself(connection: &mut Connection, relation: &Relation) -> Answer<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_constraint
        WHERE contype = 'f' AND conrelid = $1::oid AND confrelid = conrelid)::text";
    Ok(text(connection, sql, &[&relation.oid.to_string()]).await?.as_deref() == Some("true"))
}

/// Deleting the old rows could take rows of other tables along, or fail at the end.
async fn refuse_references(connection: &mut Connection, relation: &Relation) -> Answer<Result<()>> {
    let sql = "
        WITH RECURSIVE tree(oid) AS (
            SELECT $1::oid UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid
        )
        SELECT conname::text, conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'
            AND confrelid IN (SELECT oid FROM tree) AND conrelid NOT IN (SELECT oid FROM tree) ORDER BY 1 LIMIT 1";
    let found = rows(connection, sql, &[&relation.oid.to_string()]).await?;
    let Some(row) = found.first() else { return Ok(Ok(())) };
    let (constraint, table): (String, String) = (row.get(0)?, row.get(1)?);
    let message = format!("the table {table} refers to the target by the foreign key {constraint:?}");
    Ok(Err(Error::new(ErrorKind::Unsupported, message).hint("use mode merge, or drop the foreign key first")))
}

/// What would be lost or broken if another table took the place of this one.
async fn what_hangs_on(connection: &mut Connection, relation: &Relation) -> Answer<Vec<String>> {
    const HANGING: &str = "
        WITH t AS (SELECT * FROM pg_class WHERE oid = $1::oid)
        SELECT 'its partitions' FROM t WHERE relkind <> 'r'
        UNION ALL SELECT 'inheritance' FROM pg_inherits WHERE $1::oid IN (inhrelid, inhparent)
        UNION ALL SELECT 'indexes and constraints' FROM pg_index WHERE indrelid = $1::oid
        UNION ALL SELECT 'indexes and constraints' FROM pg_constraint
            WHERE conrelid = $1::oid AND contype NOT IN ('c', 'n')
        UNION ALL SELECT 'triggers' FROM pg_trigger WHERE tgrelid = $1::oid
        UNION ALL SELECT 'rules' FROM pg_rewrite WHERE ev_class = $1::oid
        UNION ALL SELECT 'row security' FROM t WHERE relrowsecurity OR relforcerowsecurity
            OR EXISTS (SELECT FROM pg_policy WHERE polrelid = $1::oid)
        UNION ALL SELECT 'privileges' FROM t WHERE relacl IS NOT NULL
            OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1::oid AND attacl IS NOT NULL)
        UNION ALL SELECT 'its owner' FROM t WHERE relowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
        UNION ALL SELECT 'settings' FROM t WHERE reloptions IS NOT NULL OR reltablespace <> 0
            OR relreplident <> 'd' OR relpersistence <> 'p' OR reloftype <> 0
            OR relam <> (SELECT oid FROM pg_am WHERE amname = 'heap')
            OR EXISTS (SELECT FROM pg_attribute WHERE attrelid = $1::oid AND attnum > 0
                AND (attoptions IS NOT NULL OR attidentity <> '' OR attstattarget >= 0))
            OR EXISTS (SELECT FROM pg_description WHERE classoid = 'pg_class'::regclass AND objoid = $1::oid
                AND objsubid = 0)
            OR EXISTS (SELECT FROM pg_seclabel WHERE objoid = $1::oid)
        UNION ALL SELECT 'statistics' FROM pg_statistic_ext WHERE stxrelid = $1::oid
        UNION ALL SELECT 'publications' FROM pg_publication_rel WHERE prrelid = $1::oid
        UNION ALL SELECT 'subscriptions' FROM pg_subscription_rel WHERE srrelid = $1::oid
        UNION ALL SELECT 'an extension' FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = $1::oid AND deptype = 'e'
        UNION ALL SELECT 'privileges' FROM t, pg_default_acl a WHERE a.defaclobjtype = 'r'
            AND a.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
            AND a.defaclnamespace IN (0, t.relnamespace)
        UNION ALL SELECT 'settings' FROM t, pg_class toast WHERE toast.oid = t.reltoastrelid AND toast.reloptions IS NOT NULL
        UNION ALL SELECT 'settings' FROM pg_attribute a WHERE a.attrelid = $1::oid AND a.attnum > 0
            AND to_jsonb(a)->>'attcompression' <> ''
        UNION ALL SELECT DISTINCT CASE d.classid WHEN 'pg_rewrite'::regclass THEN 'views'
                WHEN 'pg_class'::regclass THEN 'sequences' ELSE 'other objects' END
            FROM pg_depend d
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = $1::oid AND d.deptype IN ('n', 'a', 'e', 'x')
                AND NOT (d.classid = 'pg_constraint'::regclass OR d.classid = 'pg_attrdef'::regclass)
                AND d.deptype <> 'i'
        UNION ALL SELECT 'other objects' FROM pg_depend d JOIN pg_type y ON y.typrelid = $1::oid
            WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid IN (y.oid, y.typarray)
                AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (y.oid, y.typarray))
                AND NOT (d.classid = 'pg_class'::regclass AND d.objid = $1::oid)";
    let found = rows(connection, HANGING, &[&relation.oid.to_string()]).await?;
    let mut names: Vec<String> = found.iter().map(|row| row.get(0)).collect::<Answer<_>>()?;
    // Not asked of pg_publication_tables, which may open every table that is published.
    if publishes_all(connection).await? {
        names.push("publications".into());
    }
    names.dedup();
    Ok(names)
}

/// Whether rows of any new table are sent to subscribers.
async fn publishes_all(connection: &mut Connection) -> Answer<bool> {
    let sql = "SELECT (EXISTS (SELECT FROM pg_publication WHERE puballtables)
        OR to_regclass('pg_catalog.pg_publication_namespace') IS NOT NULL AND EXISTS (SELECT FROM pg_publication p
            WHERE NOT puballtables AND NOT EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid)))::text";
    Ok(text(connection, sql, &[]).await?.as_deref() == Some("true"))
}

/// A hash of all that the catalogue has on columns, defaults, checks and comments of a table.
pub(super) async fn definition(connection: &mut Connection, relation: &str) -> Answer<String> {
    // Numbers of columns that were dropped before make no difference.
    let sql = "SELECT md5(concat_ws('/',
        (SELECT string_agg(concat_ws(',', attname, atttypid, atttypmod, attnotnull, attcollation, attstorage, attidentity,
            attgenerated, pg_get_expr(adbin, adrelid), col_description(attrelid, attnum)), ';' ORDER BY attnum)
            FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
            WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped),
        (SELECT string_agg(concat_ws(',', conname, pg_get_constraintdef(oid), obj_description(oid, 'pg_constraint')), ';'
            ORDER BY conname) FROM pg_constraint WHERE conrelid = $1::regclass AND contype = 'c')))";
    Ok(text(connection, sql, &[relation]).await?.unwrap_or_default())
}

async fn require_privileges(
    connection: &mut Connection,
    relation: &Relation,
    privileges: &[&str],
) -> Answer<Result<()>> {
    for privilege in privileges {
        let sql = "SELECT has_table_privilege($1::oid, $2)::text";
        if text(connection, sql, &[&relation.oid.to_string(), privilege]).await?.as_deref() != Some("true") {
            let message = format!("the user has no privilege to {privilege} on the target");
            return Ok(Err(Error::new(ErrorKind::PermissionDenied, message)
                .hint(format!("let its owner GRANT {privilege} ON {}", relation.name))));
        }
    }
    Ok(Ok(()))
}

/// Whether the server itself sees to it that a key is there once.
async fn has_unique_index(connection: &mut Connection, relation: &Relation, keys: &[String]) -> Answer<bool> {
    // As `quote` writes them, so that no name can be taken for two.
    let sql =
        "SELECT string_agg(format('\"%s\"', replace(a.attname, '\"', '\"\"')), ',' ORDER BY a.attname COLLATE \"C\")
        FROM pg_index i
        CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k(attnum, n)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = $1::oid AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL
            AND i.indexprs IS NULL AND k.n <= i.indnkeyatts
        GROUP BY i.indexrelid, i.indcollation
        HAVING bool_and(i.indcollation[k.n - 1] = a.attcollation)";
    let mut keys: Vec<_> = keys.to_vec();
    keys.sort();
    let keys: Vec<_> = keys.iter().map(|key| quote(key).unwrap_or_default()).collect();
    for row in rows(connection, sql, &[&relation.oid.to_string()]).await? {
        if row.get::<&str, _>(0)? == keys.join(",") {
            return Ok(true);
        }
    }
    Ok(false)
}
