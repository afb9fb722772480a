use std::time::Duration;

use etlrs_core::{ColumnTypes, OptionArgument, OptionValue};

#[cfg(feature = "mysql")]
etlrs_core::options! {
    /// How a table, view or query of MySQL or MariaDB is read.
    pub struct MysqlSourceOptions {
        /// Types of single columns, over those that they have: text takes any value as the server writes it.
        types, with_types: ColumnTypes = ColumnTypes::default();
        /// What becomes of the date 0000-00-00, which is none: it ends the run, or is null.
        zero_dates, with_zero_dates: ZeroDates = ZeroDates::Fail;
        /// One SELECT that is read in place of a table.
        query, with_query: String = String::new();
        /// Columns by whose values the rows are split, separated by commas; a table is split by its primary key without them.
        split_by, with_split_by: String = String::new();
        /// Column that grows with time. Of its values only those are read that come after cursor_after, up to the greatest
        /// that there is at the start, which the result tells; rows without a value are left out.
        cursor, with_cursor: String = String::new();
        /// What the cursor was at the end of the run before; by default what the target has kept of it, if it does.
        cursor_after, with_cursor_after: String = String::new();
        /// How far before cursor_after to read again, for rows that came late: a number, or seconds. Use it with mode merge.
        cursor_lag, with_cursor_lag: u32 = 0;
        /// Rows that are handed on at a time, as far as batch_size allows; 0 is batch_size.
        fetch_size, with_fetch_size: u32 = 0;
        /// Queries that run at the same time at the most; 0 is as many as there are threads.
        parallel_queries, with_parallel_queries: u32 = 0;
        /// How long to wait for the server to answer when it is connected to.
        connect_timeout, with_connect_timeout: Seconds = Seconds(30);
        /// How long nothing may come or go on a connection until the server is asked whether it still works for it; if it does
        /// not, or does not answer, the connection is given up. 0 is for ever.
        network_timeout, with_network_timeout: Seconds = Seconds(300);
        /// How long to wait for transactions that hold a lock on the table: those that alter it, say.
        lock_timeout, with_lock_timeout: Seconds = Seconds(60);
    }
}

#[cfg(feature = "mysql")]
etlrs_core::options! {
    /// How a table of MySQL or MariaDB is written.
    pub struct MysqlTargetOptions {
        /// How long to wait for the server to answer when it is connected to.
        connect_timeout, with_connect_timeout: Seconds = Seconds(30);
        /// How long nothing may come or go on a connection until the server is asked whether it still works for it; if it does
        /// not, or does not answer, the connection is given up. 0 is for ever.
        network_timeout, with_network_timeout: Seconds = Seconds(300);
        /// How long to wait for transactions that hold a lock on the target, at the start and when all rows are staged.
        lock_timeout, with_lock_timeout: Seconds = Seconds(600);
        /// Whether a table that is made gets the primary key of the source's table.
        primary_key, with_primary_key: bool = true;
        /// SQL that is run before anything is staged.
        pre_sql, with_pre_sql: String = String::new();
        /// SQL that is run when the rows are published; if it fails, they are there all the same.
        post_sql, with_post_sql: String = String::new();
    }
}

#[cfg(feature = "postgres")]
etlrs_core::options! {
    /// How a PostgreSQL table, view or query is read.
    pub struct PostgresSourceOptions {
        /// Types of single columns, over those that they have: text takes any value as PostgreSQL writes it.
        types, with_types: ColumnTypes = ColumnTypes::default();
        /// One SELECT that is read in place of a table.
        query, with_query: String = String::new();
        /// Columns by whose values the rows are split, separated by commas; a table is split by its pages without them.
        split_by, with_split_by: String = String::new();
        /// Column that grows with time. Of its values only those are read that come after cursor_after, up to the greatest
        /// that there is at the start, which the result tells; rows without a value are left out.
        cursor, with_cursor: String = String::new();
        /// What the cursor was at the end of the run before; by default what the target has kept of it, if it does.
        cursor_after, with_cursor_after: String = String::new();
        /// How far before cursor_after to read again, for rows that came late: a number, or seconds. Use it with mode merge.
        cursor_lag, with_cursor_lag: u32 = 0;
        /// Rows that are handed on at a time, as far as batch_size allows; 0 is batch_size.
        fetch_size, with_fetch_size: u32 = 0;
        /// Queries that run at the same time at the most; 0 is as many as there are threads.
        parallel_queries, with_parallel_queries: u32 = 0;
        /// How long to wait for the server to answer when it is connected to.
        connect_timeout, with_connect_timeout: Seconds = Seconds(30);
        /// How long nothing may come or go on a connection until the server is asked whether it still works for it; if it does
        /// not, or does not answer, the connection is given up. 0 is for ever.
        network_timeout, with_network_timeout: Seconds = Seconds(300);
        /// How long to wait for transactions that hold a lock on the table: those that alter it, say.
        lock_timeout, with_lock_timeout: Seconds = Seconds(60);
        /// Whether rows that row security hides from this user may be left out; if not, a table that has such is refused.
        row_security, with_row_security: bool = false;
    }
}

#[cfg(feature = "postgres")]
etlrs_core::options! {
    /// How a PostgreSQL table is written.
    pub struct PostgresTargetOptions {
        /// How long to wait for the server to answer when it is connected to.
        connect_timeout, with_connect_timeout: Seconds = Seconds(30);
        /// How long nothing may come or go on a connection until the server is asked whether it still works for it; if it does
        /// not, or does not answer, the connection is given up. 0 is for ever.
        network_timeout, with_network_timeout: Seconds = Seconds(300);
        /// How long to wait for transactions that hold a lock on the target, at the start and when all rows are staged.
        lock_timeout, with_lock_timeout: Seconds = Seconds(600);
        /// Whether a table that is made gets the primary key of the source's table.
        primary_key, with_primary_key: bool = true;
        /// SQL that is run before anything is staged, in a transaction of its own.
        pre_sql, with_pre_sql: String = String::new();
        /// SQL that is run in the transaction that publishes the rows, after them; if it fails, they are not there.
        post_sql, with_post_sql: String = String::new();
    }
}

#[cfg(feature = "sqlite")]
etlrs_core::options! {
    /// How a SQLite table is read.
    ///
    /// ```
    /// use etlrs_sql::SqliteSourceOptions;
    ///
    /// let options = SqliteSourceOptions::default().with_busy_timeout(30);
    /// # let _ = options;
    /// ```
    pub struct SqliteSourceOptions {
        /// Types of single columns, over the declared ones; text keeps whatever value is stored.
        types, with_types: ColumnTypes = ColumnTypes::default();
        /// One SELECT that is read in place of a table.
        query, with_query: String = String::new();
        /// Column that grows with time. Of its values only those are read that come after cursor_after, up to the greatest
        /// that there is at the start, which the result tells; rows without a value are left out.
        cursor, with_cursor: String = String::new();
        /// What the cursor was at the end of the run before; by default what the target has kept of it, if it does.
        cursor_after, with_cursor_after: String = String::new();
        /// How far before cursor_after to read again, for rows that came late: a number. Use it with mode merge.
        cursor_lag, with_cursor_lag: u32 = 0;
        /// Rows that are handed on at a time, as far as batch_size allows; 0 is batch_size.
        fetch_size, with_fetch_size: u32 = 0;
        /// Queries that run at the same time at the most; 0 is as many as there are threads.
        parallel_queries, with_parallel_queries: u32 = 0;
        /// Whether a statement is compiled once for all the batches of a piece, and not anew for each.
        prepared_statements, with_prepared_statements: bool = true;
        /// How long to wait for a database that another program has locked.
        busy_timeout, with_busy_timeout: Seconds = Seconds(5);
    }
}

#[cfg(feature = "sqlite")]
etlrs_core::options! {
    /// How a SQLite table is written.
    pub struct SqliteTargetOptions {
        /// How long to wait for a database that another program has locked.
        busy_timeout, with_busy_timeout: Seconds = Seconds(5);
        /// Whether a table that is made is STRICT, so that it holds only values of its types, which are fewer.
        strict, with_strict: bool = false;
        /// Whether a table that is made gets the primary key of the source's table.
        primary_key, with_primary_key: bool = true;
        /// SQL that is run before anything is staged, in a transaction of its own.
        pre_sql, with_pre_sql: String = String::new();
        /// SQL that is run in the transaction that publishes the rows, after them; if it fails, they are not there.
        post_sql, with_post_sql: String = String::new();
    }
}

/// Rows of a batch, of which the user wishes at most so many.
pub(crate) fn rows_at_a_time(batch_size: usize, fetch_size: u32) -> usize {
    match usize::try_from(fetch_size) {
        Ok(0) | Err(_) => batch_size,
        Ok(fetch_size) => fetch_size.min(batch_size),
    }
}

/// Readers of a scan, of which the user wishes at most so many.
pub(crate) fn readers_at_a_time(readers: usize, parallel_queries: u32) -> usize {
    match usize::try_from(parallel_queries) {
        Ok(0) | Err(_) => readers,
        Ok(queries) => queries.min(readers),
    }
}

/// What becomes of dates and times of day 0 in month 0 of year 0, by which programs of MySQL say that there is none.
#[cfg(feature = "mysql")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ZeroDates {
    /// They end the run.
    #[default]
    Fail,
    /// They are null.
    Null,
}

#[cfg(feature = "mysql")]
impl OptionValue for ZeroDates {
    const KIND: &'static str = "fail or null";

    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self::Fail),
            "null" => Ok(Self::Null),
            _ => Err("it must be fail or null".into()),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Fail => "fail".into(),
            Self::Null => "null".into(),
        }
    }
}

/// A time of at most a day, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seconds(pub u32);

impl Seconds {
    const DAY: u32 = 86_400;

    /// At least one, for none would be no limit.
    #[cfg(feature = "postgres")]
    pub(crate) fn milliseconds(self) -> u128 {
        self.duration().as_millis().max(1)
    }

    pub(crate) fn duration(self) -> Duration {
        // SQLite counts milliseconds in 32 bits.
        Duration::from_secs(self.0.min(Self::DAY).into())
    }
}

impl OptionArgument<Seconds> for u32 {
    fn into_option_value(self) -> Seconds {
        Seconds(self)
    }
}

impl OptionValue for Seconds {
    const KIND: &'static str = "seconds";

    fn parse(text: &str) -> Result<Self, String> {
        let seconds = text.strip_suffix('s').unwrap_or(text).parse().ok().filter(|&seconds| seconds <= Self::DAY);
        seconds.map(Self).ok_or_else(|| "it must be a whole number of seconds, at most 86400".into())
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}
