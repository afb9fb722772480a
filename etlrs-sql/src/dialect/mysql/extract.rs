use std::sync::Arc;

use arrow_schema::{DataType, Schema};
use etlrs_core::{
    Error, ErrorKind, Extractor, Result, RunContext, RunId, Scan, ScanRequest, async_trait, type_name, unknown_name,
};

use super::catalog::{self, Column, Relation};
use super::condition::condition;
use super::decode::Decoder;
use super::name::{literal, quote, quote_given};
use super::server::MysqlPool;
use super::snapshot::Snapshot;
use super::split::{self, Piece};
use super::types::{Reading, Wire};
use super::wire::{ColumnDefinition, Connection, Failure, forms};
use crate::MysqlSourceOptions;
use crate::cursor::{Bounds, Cursor, kept_as, without_user};
use crate::hash::hash;
use crate::network::ServerScan;
use crate::options::{ZeroDates, readers_at_a_time};
use crate::pieces::partitions;
use crate::table::TableName;

/// A table, a view or a query of a database of MySQL or MariaDB.
///
/// All partitions are of one moment, so what is written meanwhile changes nothing: the readers begin while the table is locked
/// against writing, for some milliseconds. Without the privilege for that, and for a query, there is one reader. A table is
/// split by its primary key; `docs/type-mapping.md` tells how types map.
///
/// ```no_run
/// // Needs a server.
/// use etlrs_core::*;
/// use etlrs_sql::{MysqlExtractor, MysqlPool};
///
/// # async fn example() -> Result<()> {
/// let pool = MysqlPool::connect_lazy("mysql://me@127.0.0.1/shop")?;
/// let cx = RunContext::new(PerformanceConfig::default());
/// let scan = MysqlExtractor::table(pool, "orders")?.scan(&cx, &ScanRequest::all()).await?;
/// let orders = DatasetSnapshot::collect(&cx, &*scan).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct MysqlExtractor {
    pool: MysqlPool,
    subject: Subject,
    options: MysqlSourceOptions,
}

#[derive(Clone, Debug)]
enum Subject {
    Table(TableName),
    Query(String),
}

impl MysqlExtractor {
    /// Of a table or view: `orders`, `sales.orders`, `"a name with dots.".t`.
    ///
    /// # Errors
    /// `InvalidConfig` for what is no name.
    pub fn table(pool: MysqlPool, name: &str) -> Result<Self> {
        let name = TableName::parse(name)?;
        name.backquoted()?;
        Ok(Self::of(pool, Subject::Table(name)))
    }

    /// Of what a query gives: one SELECT, in a transaction that cannot change anything.
    pub fn query(pool: MysqlPool, sql: impl Into<String>) -> Self {
        let sql: String = sql.into();
        Self::of(pool, Subject::Query(sql.trim().trim_end_matches(';').to_owned()))
    }

    pub(super) fn of_table(pool: MysqlPool, name: TableName) -> Self {
        Self::of(pool, Subject::Table(name))
    }

    fn of(pool: MysqlPool, subject: Subject) -> Self {
        Self { pool, subject, options: MysqlSourceOptions::default() }
    }

    /// With options other than the defaults.
    #[must_use]
    pub fn with_options(mut self, options: MysqlSourceOptions) -> Self {
        self.options = options;
        self
    }

    async fn look(&self, cx: &RunContext, request: &ScanRequest) -> Result<ServerScan<Snapshot, Decoder>> {
        let source = match &self.subject {
            Subject::Table(name) => format!("{}#{name}", self.pool.shown()),
            Subject::Query(_) => format!("{}, the query", self.pool.shown()),
        };
        let mut notes = Vec::new();
        let looked = self.pieces(cx, request, &mut notes).await.map_err(|error| error.in_source(&source))?;
        let Looked { mut snapshot, from, whole, definitions, columns, primary_key, pieces } = looked;
        let in_source = |error: Error| error.in_source(&source);
        let readings = self.readings(&definitions, &columns).map_err(in_source)?;
        let all = Schema::new(readings.iter().map(|reading| reading.field.clone()).collect::<Vec<_>>());
        let bounds = self.bounds(&snapshot, &from, &readings, request).await.map_err(in_source)?;
        let may_be_null =
            |reading: &Reading| *reading.field.name() == self.options.cursor && reading.field.is_nullable();
        if bounds.is_some() && readings.iter().any(may_be_null) {
            notes.push(format!("rows whose {} is null are not read", self.options.cursor));
        }
        let conditions = request.filter.iter().filter_map(|test| condition(test, &readings));
        let conditions: Vec<_> = conditions.chain(bounds.iter().map(|bounds| bounds.condition.clone())).collect();
        let projection = request.projection(&all).map_err(in_source)?;
        let readings: Vec<_> = projection.iter().map(|&position| readings[position].clone()).collect();
        let words = pieces.iter().map(|piece| piece.words.as_str());
        let partitions = partitions(words, request.recorded.as_deref()).map_err(in_source)?;
        let list = readings.iter().map(select_item).collect::<Vec<_>>().join(", ");
        // Without columns there are still rows to count.
        let list = if list.is_empty() { "1".to_owned() } else { list };
        let is_whole = projection.iter().copied().eq(0..all.fields().len())
            && readings.iter().all(|reading| reading.cast.is_none())
            && conditions.is_empty();
        let statement = |piece: &Piece| {
            if let Some(sql) = whole.as_ref().filter(|_| is_whole) {
                // As it is, for an order of its own is lost within another query.
                return sql.clone();
            }
            let terms: Vec<_> = piece.condition.iter().chain(&conditions).map(|term| format!("({term})")).collect();
            let condition = if terms.is_empty() { String::new() } else { format!(" WHERE {}", terms.join(" AND ")) };
            format!("SELECT {list} FROM {from}{condition}")
        };
        let statements: Vec<_> = pieces.iter().map(statement).collect();
        snapshot.expected = self.forms(&snapshot, &statements[0]).await.map_err(in_source)?;
        let schema = Arc::new(all.project(&projection)?);
        let (columns, read) = (schema.clone(), readings);
        Ok(ServerScan {
            schema,
            decoder: Box::new(move |max_rows, max_bytes| Decoder::new(columns.clone(), &read, max_rows, max_bytes)),
            statements,
            partitions,
            notes,
            subject: format!("{source} {:?} {:?}", self.subject, self.options),
            source,
            cursor: bounds.and_then(|bounds| bounds.reached),
            primary_key,
            readers: snapshot.readers(),
            fetch_size: self.options.fetch_size,
            snapshot: Arc::new(snapshot),
        })
    }

    /// Fixes the moment, and what is read of it.
    async fn pieces(&self, cx: &RunContext, request: &ScanRequest, notes: &mut Vec<String>) -> Result<Looked> {
        let failed = |error| self.pool.failed(error);
        let mut leader = self.pool.take().await?;
        let lock_wait = self.options.lock_timeout.duration().as_secs().max(1);
        leader.execute(&format!("SET SESSION lock_wait_timeout = {lock_wait}")).await.map_err(failed)?;
        let name = match &self.subject {
            Subject::Table(name) => name,
            Subject::Query(sql) => {
                if !self.options.split_by.is_empty() {
                    notes.push(
                        "split_by is for tables and views: the readers of a query could not share a moment".into(),
                    );
                }
                notes.push("a query is read by one reader".into());
                // A comment at the end of the query must not take the parenthesis in.
                let from = format!("({sql}\n) AS query");
                let definitions = leader.describe(sql).await.map_err(failed)?;
                if definitions.is_empty() {
                    return Err(
                        Error::new(ErrorKind::InvalidConfig, "the query gives no columns").hint("write a SELECT")
                    );
                }
                let snapshot = Snapshot::single(&self.pool, leader).await?;
                let pieces = vec![Piece::whole()];
                return Ok(Looked {
                    snapshot,
                    from,
                    whole: Some(sql.clone()),
                    definitions,
                    columns: Vec::new(),
                    primary_key: Vec::new(),
                    pieces,
                });
            }
        };
        let relation = self.find(&mut leader, name).await?;
        let from = relation.name.backquoted()?;
        let mark = read_mark(cx.run_id(), &relation.name);
        match leader.rows(&format!("SELECT get_lock({mark}, 0)")).await {
            // Some clusters have no such locks. It only prevents a mistake.
            Ok(_) | Err(Failure::Server(_)) => {}
            Err(error) => return Err(failed(error)),
        }
        let indexes = catalog::indexes(&mut leader, &relation.name).await.map_err(failed)?;
        let primary = indexes.iter().find(|index| index.name == "PRIMARY" && index.whole);
        let primary_key = primary.map(|index| index.columns.clone()).unwrap_or_default();
        let keys = split::key(&relation, &indexes, &self.keys(&relation)?);
        let wished = split::count(&relation, request.partitions);
        let readers = match keys.as_slice() {
            [] => 1,
            _ => {
                let readers = cx.config().workers().min(cx.config().connections().saturating_sub(1));
                readers_at_a_time(readers, self.options.parallel_queries).clamp(1, wished.max(1))
            }
        };
        if keys.is_empty() && (wished > 1 || relation.is_view) {
            let what = match (relation.is_view, primary_key.is_empty()) {
                (true, _) => "a view",
                (false, true) => "a table without a primary key",
                (false, false) => "a table whose primary key has no type that rows can be split by",
            };
            notes.push(format!(
                "{what} is read by one reader; the source option split_by=COLUMN, of an index, lets several read it"
            ));
        }
        let snapshot = Snapshot::shared(&self.pool, leader, &relation, readers, lock_wait, notes).await?;
        let mut reader = snapshot.reader().await?;
        // By their names, for `*` leaves out those that are invisible.
        let names: Vec<_> = relation.columns.iter().map(|column| quote_given(&column.name)).collect();
        let looked = async {
            let definitions = reader.describe(&format!("SELECT {} FROM {from}", names.join(", "))).await?;
            let pieces = if keys.is_empty() || wished < 2 {
                vec![Piece::whole()]
            } else {
                split::by_key(&mut reader, &relation, &indexes, &keys, wished).await?
            };
            Ok((definitions, pieces))
        };
        let (definitions, pieces) = looked.await.map_err(failed)?;
        snapshot.put_back(reader);
        Ok(Looked { snapshot, from, whole: None, definitions, columns: relation.columns, primary_key, pieces })
    }

    async fn find(&self, connection: &mut Connection, name: &TableName) -> Result<Relation> {
        if name.schema.is_none() && self.pool.database().is_none() {
            return Err(no_database());
        }
        let failed = |error| self.pool.failed(error);
        if let Some(relation) = Relation::find(connection, name).await.map_err(failed)? {
            return Ok(relation);
        }
        let names = catalog::names(connection, name.schema.as_deref()).await.map_err(failed)?;
        Err(unknown_name("table", &name.name, &names))
    }

    /// The columns that the user wants the rows split by.
    fn keys<'c>(&self, relation: &'c Relation) -> Result<Vec<&'c Column>> {
        let names: Vec<_> = relation.columns.iter().map(|column| column.name.as_str()).collect();
        let wanted = self.options.split_by.split(',').map(str::trim).filter(|name| !name.is_empty());
        let found = |name: &str| {
            let column = relation.column(name).ok_or_else(|| unknown_name("column", name, &names))?;
            if split::is_usable(column) {
                return Ok(column);
            }
            let message = format!("rows cannot be split by a column of type {}", column.data_type);
            Err(Error::new(ErrorKind::InvalidConfig, message)
                .at_column(name)
                .hint("choose one of numbers, text, bytes or dates"))
        };
        wanted.map(found).collect()
    }

    /// How the values of a statement are written, which must be so when it is run.
    async fn forms(&self, snapshot: &Snapshot, statement: &str) -> Result<Vec<(u8, u16, u16)>> {
        let mut reader = snapshot.reader().await?;
        let definitions = reader.describe(statement).await.map_err(|error| self.pool.failed(error))?;
        snapshot.put_back(reader);
        Ok(forms(&definitions))
    }

    /// The rows that are new by the cursor that the user wants, as of the snapshot.
    async fn bounds(
        &self,
        snapshot: &Snapshot,
        from: &str,
        readings: &[Reading],
        request: &ScanRequest,
    ) -> Result<Option<Bounds>> {
        let options = &self.options;
        let Some(cursor) = Cursor::new(&options.cursor, &options.cursor_after, options.cursor_lag, request)? else {
            return Ok(None);
        };
        let names: Vec<_> = readings.iter().map(|reading| reading.field.name().as_str()).collect();
        let reading = readings.iter().find(|reading| reading.field.name() == cursor.column);
        let reading = reading.ok_or_else(|| unknown_name("column", cursor.column, &names))?;
        let type_name = type_name(reading.field.data_type());
        if reading.cast.is_some() {
            return Err(cursor.unusable(&type_name));
        }
        let is_time = matches!(reading.wire, Wire::Date | Wire::DateTime);
        let wrong = || {
            let message = format!("cursor_after is no value of type {type_name}");
            let error = Error::new(ErrorKind::InvalidConfig, message).at_column(cursor.column);
            if is_time { error.hint("write it as in 2024-01-31 or 2024-01-31 23:59:59.5") } else { error }
        };
        let after = cursor.after.map(|after| constant(reading, after).ok_or_else(wrong)).transpose()?;
        let after = match after {
            Some(after) if cursor.lag == 0 => Some(after),
            Some(after) if is_time => Some(format!("({after} - INTERVAL {} SECOND)", cursor.lag)),
            Some(after) if reading.wire != Wire::Text => Some(format!("({after} - {})", cursor.lag)),
            Some(_) => return Err(cursor.unusable(&type_name)),
            None => None,
        };
        let name = quote(cursor.column)?;
        let mut newer = cursor.newer(&name, after.as_deref());
        if reading.zero_is_null {
            newer = format!("{newer} AND {name} <> 0");
        }
        let sql = format!("SELECT CAST(max({name}) AS CHAR) FROM {from} WHERE {newer}");
        let mut reader = snapshot.reader().await?;
        let found = reader.rows(&sql).await.map_err(|error| self.pool.failed(error))?;
        let greatest = found.first().map(|row| row.get::<Option<String>, _>(0)).transpose();
        let greatest = greatest.map_err(|error| self.pool.failed(error))?.flatten();
        snapshot.put_back(reader);
        let with_constant = |text: String| {
            let constant = constant(reading, &text).ok_or_else(|| cursor.unusable(&type_name))?;
            Ok::<_, Error>((constant, text))
        };
        Ok(Some(cursor.bounds(newer, &name, greatest.map(with_constant).transpose()?)))
    }

    fn readings(&self, definitions: &[ColumnDefinition], columns: &[Column]) -> Result<Vec<Reading>> {
        let names: Vec<_> = definitions.iter().map(|column| column.name.as_str()).collect();
        if let Some((name, _)) = self.options.types.0.iter().find(|(name, _)| !names.contains(&name.as_str())) {
            return Err(unknown_name("column", name, &names));
        }
        if let Some((_, twice)) = names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)) {
            let message = "the query gives two columns of this name";
            return Err(Error::new(ErrorKind::InvalidConfig, message)
                .at_column(*twice)
                .hint("name one of them otherwise, with AS"));
        }
        let column = |name: &str| columns.iter().find(|column| column.name == name);
        let reading = |definition: &ColumnDefinition| {
            let wished = self.options.types.get(&definition.name);
            let reading = Reading::new(definition, column(&definition.name), wished)?;
            Ok(match self.options.zero_dates {
                ZeroDates::Null => reading.without_zero_dates(),
                ZeroDates::Fail => reading,
            })
        };
        definitions.iter().map(reading).collect()
    }
}

/// The name of the server's lock that tells a load into a table that its rows are read by the same run, by whatever name.
pub(super) fn read_mark(run: RunId, table: &TableName) -> String {
    // As the server names the table, so that there are no two ways to write it.
    literal(&format!("etlrs reads {:016x}", hash(&format!("{run} {table}"))))
}

pub(super) fn no_database() -> Error {
    Error::new(ErrorKind::InvalidConfig, "the URL names no database")
        .hint("write mysql://USER@HOST/DATABASE#TABLE, or DATABASE.TABLE")
}

/// What a scan found.
struct Looked {
    snapshot: Snapshot,
    from: String,
    /// The query, if it is one.
    whole: Option<String>,
    definitions: Vec<ColumnDefinition>,
    columns: Vec<Column>,
    primary_key: Vec<String>,
    pieces: Vec<Piece>,
}

/// A value of a column as SQL; `None` for what is none, or of a type that is not compared so.
fn constant(reading: &Reading, text: &str) -> Option<String> {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let plain = |others: &[u8]| text.bytes().all(|byte| byte.is_ascii_digit() || others.contains(&byte)) && digits > 0;
    match reading.wire {
        Wire::Decimal => (plain(b"-.") && text.rfind('-').unwrap_or(0) == 0).then(|| text.to_owned()),
        Wire::Date => plain(b"-").then(|| format!("DATE'{text}'")),
        Wire::DateTime => moment(text, matches!(reading.field.data_type(), DataType::Timestamp(_, Some(_)))),
        Wire::Text => Some(literal(text)),
        _ if reading.field.data_type().is_integer() => text.parse::<i128>().ok().map(|number| number.to_string()),
        _ => None,
    }
}

/// A date, or a date and a time, with an offset from UTC if the column counts moments.
fn moment(text: &str, is_instant: bool) -> Option<String> {
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, time.trim_start()),
        None => (text, "00:00:00"),
    };
    let (time, offset) = match time.strip_suffix(['Z', 'z']) {
        Some(time) => (time, "+00:00".to_owned()),
        None => match time.find(['+', '-']) {
            Some(at) => (&time[..at], time[at..].to_owned()),
            None => (time, String::new()),
        },
    };
    let plain = |text: &str, others: &[u8]| {
        text.bytes().all(|byte| byte.is_ascii_digit() || others.contains(&byte))
            && text.bytes().any(|byte| byte.is_ascii_digit())
    };
    if !plain(date, b"-") || !plain(time, b":.") {
        return None;
    }
    let literal = format!("TIMESTAMP'{date} {time}'");
    if offset.is_empty() {
        return Some(literal);
    }
    let (sign, digits) = offset.split_at(1);
    let digits = digits.replacen(':', "", usize::from(digits.len() == 5 && digits.as_bytes()[2] == b':'));
    let (hours, minutes) = match digits.len() {
        2 => (digits.as_str(), "00"),
        4 => digits.split_at_checked(2)?,
        _ => return None,
    };
    let fits = is_instant && plain(&digits, b"") && hours <= "15" && minutes <= "59";
    // CONVERT_TZ knows fewer offsets, and gives what is out of its range back as it is. Before the year 1 there is null, which
    // nothing comes after.
    let back = if sign == "+" { '-' } else { '+' };
    fits.then(|| format!("COALESCE({literal} {back} INTERVAL '{hours}:{minutes}' HOUR_MINUTE, {literal})"))
}

fn select_item(reading: &Reading) -> String {
    let name = quote_given(reading.field.name());
    match &reading.cast {
        Some(cast) => format!("{} AS {name}", cast.replace("{}", &name)),
        None => name,
    }
}

#[async_trait]
impl Extractor for MysqlExtractor {
    async fn scan(&self, cx: &RunContext, request: &ScanRequest) -> Result<Arc<dyn Scan>> {
        Ok(Arc::new(self.look(cx, request).await?))
    }

    fn cursor(&self) -> Option<String> {
        let subject = match &self.subject {
            Subject::Table(name) => name.to_string(),
            Subject::Query(sql) => sql.clone(),
        };
        kept_as(&without_user(self.pool.shown()), &subject, &self.options.cursor, &self.options.cursor_after)
    }

    fn rereads(&self) -> bool {
        self.options.cursor_lag > 0
    }
}
