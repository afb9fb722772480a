//! What a load finds at its target, and how the rows will get there.

use arrow_schema::SchemaRef;
use etlrs_core::{Error, ErrorKind, LoadMode, LoadPlan, Result};

use super::catalog::{self, Relation};
use super::error::mysql_error;
use super::name::{literal, quote};
use super::wire::{Answer, Connection, Failure};
use super::writing::{Dialect, Put, Writing};
use crate::table::TableName;
use crate::types::no_column;

/// Columns of a table of InnoDB at the most.
const MOST_COLUMNS: usize = 1017;

/// How staged rows become those of the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Publishing {
    /// There is no target: the staging table gets its name.
    Rename,
    /// The staging table, which is like the target, takes its place.
    Swap,
    /// The rows of the target are deleted and the staged ones inserted.
    Refill,
    /// The staged rows are inserted.
    Insert,
    /// The same, but those with a key that is there update its row.
    Upsert,
    /// There is no target: a table with the keys is filled, and gets its name.
    FillNew,
}

/// A target, as it is before the load.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `None`: there is no table.
    pub(super) relation: Option<Relation>,
    pub(super) writings: Vec<Writing>,
    pub(super) publishing: Publishing,
    /// The statement that would make the table.
    pub(super) definition: String,
    pub(super) notes: Vec<String>,
}

impl Target {
    pub(super) async fn look(
        connection: &mut Connection,
        name: &TableName,
        plan: &LoadPlan,
        source: &str,
    ) -> Result<Self> {
        let failed = |error: Failure| mysql_error(source, error);
        check_columns(&plan.schema)?;
        let fields = plan.schema.fields();
        for key in &plan.keys {
            etlrs_core::column_index(&plan.schema, key)?;
        }
        let dialect = Dialect::of(connection.is_mariadb());
        let Some(relation) = Relation::find(connection, name).await.map_err(failed)? else {
            let writing = |field: &std::sync::Arc<arrow_schema::Field>| {
                Writing::created(field, plan.keys.contains(field.name()), plan.keys.len(), dialect)
            };
            let writings = fields.iter().map(writing).collect::<Result<Vec<_>>>()?;
            let mut notes = Vec::new();
            if plan.mode != LoadMode::Create {
                notes.push(format!("the table {name} does not exist and is created"));
            }
            for (field, writing) in fields.iter().zip(&writings) {
                let is_key = plan.mode != LoadMode::Merge && plan.keys.contains(field.name());
                if is_key && writing.declared != Writing::created(field, false, 0, dialect)?.declared {
                    notes.push(format!(
                        "column {:?} is made {}, for longer values are in no primary key; without the key, by \
                         primary_key=false, it takes any",
                        field.name(),
                        writing.declared
                    ));
                }
                let is_instant = matches!(field.data_type(), arrow_schema::DataType::Timestamp(_, Some(_)));
                if is_instant && matches!(writing.put, Put::DateTime { .. }) && writing.declared.starts_with("datetime")
                {
                    notes.push(format!("column {:?} is kept as datetime, in UTC", field.name()));
                }
            }
            // A row that has the key of another one can only be set aside when it is moved.
            let fills = plan.mode == LoadMode::Merge || plan.sifts && !plan.keys.is_empty();
            let publishing = if fills { Publishing::FillNew } else { Publishing::Rename };
            return Ok(Self { relation: None, writings, publishing, definition: String::new(), notes });
        };
        if plan.mode == LoadMode::Create {
            return Err(Error::new(ErrorKind::AlreadyExists, "the target exists")
                .hint("use mode append or replace, or another name"));
        }
        if relation.is_view || !relation.is_table {
            let what = if relation.is_view { "the target is a view" } else { "the target is no table" };
            return Err(Error::new(ErrorKind::InvalidConfig, what).hint("name a table"));
        }
        if !relation.transactional {
            let engine = &relation.engine;
            let message =
                format!("the engine {engine} of the target has no transactions, so a load could be left half done");
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint(format!("ALTER TABLE {} ENGINE=InnoDB", name.backquoted()?)));
        }
        let columns = match_columns(&plan.schema, &relation, dialect)?;
        let direct: Option<Vec<_>> = columns.iter().map(|column| column.direct.clone()).collect();
        let mut writings: Vec<_> = columns.into_iter().map(|column| column.moved).collect();
        let definition = definition(connection, &relation.name).await.map_err(failed)?;
        let mut notes = Vec::new();
        let publishing = match plan.mode {
            LoadMode::Append => Publishing::Insert,
            LoadMode::Merge => {
                check_keys(connection, &relation, plan).await.map_err(failed)??;
                Publishing::Upsert
            }
            _ => {
                refuse_references(connection, &relation).await.map_err(failed)??;
                let hanging = what_hangs_on(connection, &relation).await.map_err(failed)?;
                let takes_place = hanging.is_empty() && plan.mode == LoadMode::Replace && !plan.sifts;
                let direct = direct.filter(|_| takes_place);
                match direct {
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
        Ok(Self { relation: Some(relation), writings, publishing, definition, notes })
    }

    /// The same, to be moved into the table that is there instead of another one taking its place.
    pub(super) fn refill(self, plan: &LoadPlan, dialect: Dialect) -> Result<Self> {
        let Some(relation) = &self.relation else { return Ok(self) };
        let columns = match_columns(&plan.schema, relation, dialect)?;
        let writings = columns.into_iter().map(|column| column.moved).collect();
        Ok(Self { writings, publishing: Publishing::Refill, ..self })
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
        // The server takes no account of case, nor of some accents, in which it then refuses the table.
        if fields[..index].iter().any(|other| other.name().to_lowercase() == field.name().to_lowercase()) {
            return Err(mismatch("two columns have this name for MySQL, which takes no account of case".into())
                .at_column(field.name())
                .hint("rename one"));
        }
    }
    Ok(())
}

/// Every column of the source has one of its name in the target, which can hold it, and those left out are filled.
fn match_columns(schema: &SchemaRef, relation: &Relation, dialect: Dialect) -> Result<Vec<super::writing::Existing>> {
    let mismatch = |message: &'static str| Error::new(ErrorKind::SchemaMismatch, message);
    let mut found = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let Some(column) = relation.column(field.name()).filter(|column| !column.generated) else {
            let names = relation.columns.iter().filter(|c| !c.generated).map(|c| c.name.as_str());
            return Err(no_column(field, names, relation.column(field.name()).is_some()));
        };
        found.push(Writing::existing(field, column, dialect)?);
    }
    let is_given = |name: &str| schema.fields().iter().any(|field| field.name().to_lowercase() == name.to_lowercase());
    let missing = |column: &&catalog::Column| !is_given(&column.name) && !column.has_default && !column.generated;
    match relation.columns.iter().find(missing) {
        Some(column) => Err(mismatch("the target's column is NOT NULL, has no default, and is not among the source's")
            .at_column(&column.name)),
        None => Ok(found),
    }
}

/// The server itself sees to it that a key is there once, and nothing else makes two rows one.
async fn check_keys(connection: &mut Connection, relation: &Relation, plan: &LoadPlan) -> Answer<Result<()>> {
    let keys = &plan.keys;
    let wrong = |message: String| Error::new(ErrorKind::InvalidConfig, message);
    let sorted = |names: &[String]| {
        let mut names: Vec<_> = names.iter().map(|name| name.to_lowercase()).collect();
        names.sort();
        names
    };
    let indexes = catalog::indexes(connection, &relation.name).await?;
    let is_key = |index: &&catalog::Index| index.whole && !index.nullable && sorted(&index.columns) == sorted(keys);
    if !indexes.iter().filter(|index| index.unique).any(|index| is_key(&index)) {
        let list = keys.join(", ");
        return Ok(Err(wrong("the target has no unique index of the keys that are NOT NULL".into())
            .hint(format!("create one on ({list}), so that each key is there once"))));
    }
    // ON DUPLICATE KEY UPDATE takes any of them for the key, but a number that the server has just made is nobody else's.
    let is_given = |column: &str| plan.schema.fields().iter().any(|f| f.name().to_lowercase() == column.to_lowercase());
    let is_made = |name: &String| relation.column(name).is_some_and(|column| column.auto_increment && !is_given(name));
    let may_find = |index: &&catalog::Index| index.unique && !is_key(index) && !index.columns.iter().any(is_made);
    match indexes.iter().find(may_find) {
        Some(other) => Ok(Err(wrong(format!(
            "the target has another unique index, {:?}, by which rows of other keys could be updated",
            other.name
        ))
        .hint("drop it, or use mode append or replace"))),
        None => Ok(Ok(())),
    }
}

/// The table as conditions on the catalogue, whose columns for it begin with `prefix`.
pub(super) fn at(relation: &Relation, schema: &str, table: &str) -> String {
    let name = &relation.name;
    // Names that differ by case alone are those of two tables.
    format!(
        "BINARY {schema} = {} AND BINARY {table} = {}",
        literal(name.schema.as_deref().unwrap_or_default()),
        literal(&name.name)
    )
}

/// Deleting the old rows could take rows of other tables along, or fail at the end.
async fn refuse_references(connection: &mut Connection, relation: &Relation) -> Answer<Result<()>> {
    let sql = format!(
        "SELECT CONSTRAINT_NAME, TABLE_NAME FROM information_schema.REFERENTIAL_CONSTRAINTS
         WHERE {} AND NOT ({}) LIMIT 1",
        at(relation, "UNIQUE_CONSTRAINT_SCHEMA", "REFERENCED_TABLE_NAME"),
        at(relation, "CONSTRAINT_SCHEMA", "TABLE_NAME"),
    );
    let found = connection.rows(&sql).await?;
    let Some(row) = found.first() else { return Ok(Ok(())) };
    let (constraint, table): (String, String) = (row.get(0)?, row.get(1)?);
    let message = format!("the table {table} refers to the target by the foreign key {constraint:?}");
    Ok(Err(Error::new(ErrorKind::Unsupported, message).hint("use mode merge, or drop the foreign key first")))
}

/// Whether rows of the table may need other rows of it.
pub(super) async fn refers_to_itself(connection: &mut Connection, relation: &Relation) -> Answer<bool> {
    let sql = format!(
        "SELECT count(*) > 0 FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE {} AND {}",
        at(relation, "UNIQUE_CONSTRAINT_SCHEMA", "REFERENCED_TABLE_NAME"),
        at(relation, "CONSTRAINT_SCHEMA", "TABLE_NAME"),
    );
    let found = connection.rows(&sql).await?;
    Ok(found.first().map(|row| row.get(0)).transpose()?.unwrap_or(false))
}

/// What would be lost if another table took the place of this one. Privileges and views are of the name, and stay.
pub(super) async fn what_hangs_on(connection: &mut Connection, relation: &Relation) -> Answer<Vec<String>> {
    let sql = format!(
        "SELECT 'triggers' FROM information_schema.TRIGGERS WHERE {}
         UNION SELECT 'foreign keys' FROM information_schema.REFERENTIAL_CONSTRAINTS WHERE {}
         UNION SELECT 'partitions' FROM information_schema.PARTITIONS WHERE {} AND PARTITION_NAME IS NOT NULL",
        at(relation, "EVENT_OBJECT_SCHEMA", "EVENT_OBJECT_TABLE"),
        at(relation, "CONSTRAINT_SCHEMA", "TABLE_NAME"),
        at(relation, "TABLE_SCHEMA", "TABLE_NAME"),
    );
    let found = connection.rows(&sql).await?;
    let mut names: Vec<String> = found.iter().map(|row| row.get(0)).collect::<Answer<_>>()?;
    if relation.is_versioned {
        names.push("its history".into());
    }
    if names.is_empty() && !sees_triggers(connection, relation).await? {
        names.push("triggers, if it has any, which this user may not see".into());
    }
    Ok(names)
}

/// The catalogue shows triggers only to those who may make them.
async fn sees_triggers(connection: &mut Connection, relation: &Relation) -> Answer<bool> {
    let host = "substring_index(current_user(), '@', -1)";
    let user = format!("left(current_user(), length(current_user()) - length({host}) - 1)");
    let who = format!(
        "GRANTEE = concat(char(39), {user}, char(39), '@', char(39), {host}, char(39)) AND PRIVILEGE_TYPE = 'TRIGGER'"
    );
    let (schema, table) = (literal(relation.name.schema.as_deref().unwrap_or_default()), literal(&relation.name.name));
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM information_schema.USER_PRIVILEGES WHERE {who})
            OR EXISTS (SELECT 1 FROM information_schema.SCHEMA_PRIVILEGES WHERE {who} AND {schema} LIKE TABLE_SCHEMA)
            OR EXISTS (SELECT 1 FROM information_schema.TABLE_PRIVILEGES
                WHERE {who} AND TABLE_SCHEMA = {schema} AND TABLE_NAME = {table})"
    );
    let found = connection.rows(&sql).await?;
    Ok(found.first().map(|row| row.get(0)).transpose()?.unwrap_or(false))
}

/// The statement that would make the table, without its name and the next number of a key.
pub(super) async fn definition(connection: &mut Connection, name: &TableName) -> Answer<String> {
    let quoted = name.backquoted().unwrap_or_default();
    definition_of(connection, &quoted).await
}

/// The same of a table whose name is quoted.
pub(super) async fn definition_of(connection: &mut Connection, quoted: &str) -> Answer<String> {
    let found = connection.rows(&format!("SHOW CREATE TABLE {quoted}")).await?;
    let text: String = found.first().map(|row| row.get(1)).transpose()?.unwrap_or_default();
    let text = text.split_once(" (\n").map(|(_, rest)| rest.to_owned()).unwrap_or(text);
    // Only the last line has options of the table.
    let (columns, options) = text.rsplit_once('\n').unwrap_or(("", &text));
    Ok(match options.split_once(" AUTO_INCREMENT=") {
        Some((head, rest)) => {
            let rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
            format!("{columns}\n{head}{rest}")
        }
        None => text,
    })
}
