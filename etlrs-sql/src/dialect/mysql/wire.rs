//! One connection: the packets of the protocol
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/PAGE_PROTOCOL.html>,
//! <https://mariadb.com/docs/server/reference/clientserver-protocol>).
//!
//! A packet is a length in three bytes, a number that counts up within an exchange, and so many bytes; one of the greatest
//! length goes on in the next. Rows of a table are asked for with a prepared statement, for the other protocol, of text, cuts
//! digits off floats.
//!
//! Dropping a future in the middle of an exchange leaves a connection that is good for nothing but dropping.

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::handshake::DEPRECATE_EOF;
use crate::network::{self, Row, Socket, send};

/// Bytes asked of the socket at a time.
const READ: usize = 64 << 10;

/// Bytes of a packet at the most.
pub(super) const LONGEST: usize = 0xff_ffff;

/// Bytes of rows that are sent in one packet: far below any `max_allowed_packet`.
const CHUNK: usize = 256 << 10;

/// An error of the server.
pub(crate) struct Refusal {
    pub(super) code: u16,
    pub(super) message: String,
}

pub(super) type Failure = network::Failure<Refusal>;
pub(super) type Answer<T> = network::Answer<T, Refusal>;

/// The number of an error of the server.
pub(super) fn code(failure: &Failure) -> Option<u16> {
    match failure {
        Failure::Server(refusal) => Some(refusal.code),
        _ => None,
    }
}

/// What a statement did.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) rows: u64,
    status: u16,
    pub(super) warnings: u16,
}

/// What the server says of a column of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ColumnDefinition {
    pub(super) name: String,
    pub(super) charset: u16,
    pub(super) length: u32,
    pub(super) kind: u8,
    pub(super) flags: u16,
    pub(super) decimals: u8,
}

mod command {
    pub(super) const QUIT: u8 = 1;
    pub(super) const QUERY: u8 = 3;
    pub(super) const PING: u8 = 14;
    pub(super) const PREPARE: u8 = 22;
    pub(super) const EXECUTE: u8 = 23;
    pub(super) const CLOSE: u8 = 25;
    pub(super) const SET_OPTION: u8 = 27;
}

/// A connection to a server, after authentication.
pub(crate) struct Connection {
    pub(super) socket: Box<dyn Socket>,
    pub(super) input: BytesMut,
    pub(super) output: BytesMut,
    sequence: u8,
    pub(super) capabilities: u32,
    /// As the server calls the connection.
    pub(super) id: u64,
    /// What tells the session from others, those of another server too.
    pub(super) session: String,
    /// `10.11.14-MariaDB-…`, `8.4.3`.
    pub(super) version: String,
    /// The statement whose rows are on their way.
    statement: Option<u32>,
    /// Whether what comes next is rows, or nothing; not within anything else.
    between_rows: bool,
    /// Whether the server warned of something in the last result.
    warned: bool,
    /// Type, flag of the sign and character set of the columns that are expected.
    expected: Option<Vec<(u8, u16, u16)>>,
}

/// What tells how the values of columns are written.
pub(super) fn forms(columns: &[ColumnDefinition]) -> Vec<(u8, u16, u16)> {
    columns.iter().map(|column| (column.kind, column.flags & UNSIGNED, column.charset)).collect()
}

/// The flag of a column that has no sign.
pub(super) const UNSIGNED: u16 = 32;

impl Connection {
    /// Over a socket on which the server is about to say who it is.
    pub(super) fn new(socket: Box<dyn Socket>) -> Self {
        Self {
            socket,
            input: BytesMut::new(),
            output: BytesMut::new(),
            sequence: 0,
            capabilities: 0,
            id: 0,
            session: String::new(),
            version: String::new(),
            statement: None,
            between_rows: true,
            warned: false,
            expected: None,
        }
    }

    /// A statement without rows. None of its text may come from data unquoted.
    pub(super) async fn execute(&mut self, sql: &str) -> Answer<Done> {
        self.execute_bytes(sql.as_bytes()).await
    }

    /// The same, of a statement with bytes in it that are no text.
    pub(super) async fn execute_bytes(&mut self, sql: &[u8]) -> Answer<Done> {
        self.query(sql).await?;
        let packet = self.answer().await?;
        match packet.first() {
            Some(0) => done(packet),
            _ => {
                self.skip_result(packet).await?;
                Ok(Done::default())
            }
        }
    }

    /// Statements with semicolons between them, whose rows nobody wants.
    pub(super) async fn script(&mut self, sql: &str) -> Answer<()> {
        /// In the status: another result follows.
        const MORE: u16 = 8;
        self.command(&[command::SET_OPTION, 0, 0]).await?;
        self.answer().await?;
        self.query(sql.as_bytes()).await?;
        loop {
            let packet = self.answer().await?;
            let status = match packet.first() {
                Some(0) => done(packet)?.status,
                _ => self.skip_result(packet).await?,
            };
            if status & MORE == 0 {
                break;
            }
        }
        self.command(&[command::SET_OPTION, 1, 0]).await?;
        self.answer().await.map(|_| ())
    }

    /// The rows of a statement, as text.
    pub(super) async fn rows(&mut self, sql: &str) -> Answer<Vec<Row>> {
        self.query(sql.as_bytes()).await?;
        let mut first = self.answer().await?;
        if first.first() == Some(&0) {
            return Ok(Vec::new());
        }
        let count = length(&mut first)? as usize;
        self.columns(count).await?;
        let mut rows = Vec::new();
        while let Some(mut packet) = self.row().await? {
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                if packet.first() == Some(&0xfb) {
                    packet.advance(1);
                    values.push(None);
                } else {
                    values.push(Some(String::from_utf8_lossy(&text(&mut packet)?).into_owned()));
                }
            }
            rows.push(Row::new(values));
        }
        Ok(rows)
    }

    /// The columns that a query gives, without running it.
    pub(super) async fn describe(&mut self, sql: &str) -> Answer<Vec<ColumnDefinition>> {
        let (statement, columns) = self.prepare(sql).await?;
        self.close_statement(statement).await?;
        Ok(columns)
    }

    async fn prepare(&mut self, sql: &str) -> Answer<(u32, Vec<ColumnDefinition>)> {
        self.command(&[&[command::PREPARE], sql.as_bytes()].concat()).await?;
        let mut packet = self.answer().await?;
        if packet.len() < 9 || packet.get_u8() != 0 {
            return Err(MALFORMED);
        }
        let statement = packet.get_u32_le();
        let (columns, parameters) = (packet.get_u16_le(), packet.get_u16_le());
        if parameters > 0 {
            self.columns(parameters.into()).await?;
        }
        let columns = if columns > 0 { self.columns(columns.into()).await? } else { Vec::new() };
        Ok((statement, columns))
    }

    async fn close_statement(&mut self, statement: u32) -> Answer<()> {
        // There is no answer.
        self.command(&[&[command::CLOSE][..], &statement.to_le_bytes()].concat()).await
    }

    /// The rows that are asked for next are in these forms, or they cannot be read.
    pub(super) fn expect(&mut self, forms: Vec<(u8, u16, u16)>) {
        self.expected = Some(forms);
    }

    /// Has the server begin with the rows of a query, in the binary form.
    pub(super) async fn begin_rows(&mut self, sql: &str) -> Answer<()> {
        self.between_rows = false;
        let (statement, described) = self.prepare(sql).await?;
        self.statement = Some(statement);
        // No cursor, once.
        self.command(&[&[command::EXECUTE][..], &statement.to_le_bytes(), &[0, 1, 0, 0, 0]].concat()).await?;
        let mut first = self.answer().await?;
        let count = length(&mut first)? as usize;
        let columns = self.columns(count).await?;
        let expected = self.expected.take().unwrap_or_else(|| forms(&described));
        if forms(&columns) != expected {
            return Err(Failure::Protocol(
                "the columns are of other types than they were when the table was looked at",
            ));
        }
        self.between_rows = true;
        Ok(())
    }

    /// Appends rows to `block`, as far as they fit into `limit`, and one at the least: packets as they come, or, for what
    /// needs more than one, `ff ff ff 00`, the length in four bytes, and the whole. `false`: that was the end, and the
    /// connection is ready again.
    pub(super) async fn read_rows(&mut self, block: &mut Vec<u8>, limit: usize) -> Answer<bool> {
        loop {
            let (mut at, mut full) = (0, false);
            // A row of the binary form begins with 0.
            while let Some(&[a, b, c, _, 0]) = self.input.get(at..at + 5) {
                let length = u32::from_le_bytes([a, b, c, 0]) as usize;
                let end = at + 4 + length;
                if length == LONGEST || end > self.input.len() {
                    break;
                }
                full = !(block.is_empty() && at == 0) && block.len() + end > limit;
                if full {
                    break;
                }
                at = end;
            }
            block.extend_from_slice(&self.input[..at]);
            self.input.advance(at);
            if full {
                return Ok(true);
            }
            match self.input.get(..5) {
                None => self.fill(5).await?,
                Some(&[a, b, c, _, 0]) if [a, b, c] != [0xff; 3] => {
                    self.fill(4 + u32::from_le_bytes([a, b, c, 0]) as usize).await?;
                }
                Some(_) => match self.row().await? {
                    Some(row) => {
                        let length = u32::try_from(row.len()).map_err(|_| Failure::Protocol("a row is too long"))?;
                        block.extend_from_slice(&[0xff, 0xff, 0xff, 0]);
                        block.extend_from_slice(&length.to_le_bytes());
                        block.extend_from_slice(&row);
                        if block.len() >= limit {
                            return Ok(true);
                        }
                    }
                    None => {
                        self.refuse_losses().await?;
                        if let Some(statement) = self.statement.take() {
                            self.close_statement(statement).await?;
                        }
                        return Ok(false);
                    }
                },
            }
        }
    }

    /// Takes what is still to come of a query that another connection has killed, until this one can be used again.
    pub(super) async fn drain(&mut self) -> Answer<()> {
        const INTERRUPTED: u16 = 1317;
        if !self.between_rows {
            return Err(Failure::Protocol("it was left within an exchange"));
        }
        let mut block = Vec::new();
        loop {
            block.clear();
            match self.read_rows(&mut block, READ).await {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if matches!(code(&error), Some(INTERRUPTED | 1969)) => break,
                Err(error) => return Err(error),
            }
        }
        if let Some(statement) = self.statement.take() {
            self.close_statement(statement).await?;
        }
        // If the query had ended by itself, this is what is killed.
        match self.rows("SELECT 1").await {
            Err(error) if code(&error) == Some(INTERRUPTED) => self.rows("SELECT 1").await.map(|_| ()),
            other => other.map(|_| ()),
        }
    }

    /// Begins `LOAD DATA LOCAL`, for which rows follow.
    pub(super) async fn load(&mut self, sql: &str) -> Answer<()> {
        self.query(sql.as_bytes()).await?;
        let packet = self.packet().await?;
        match packet.first() {
            Some(0xfb) => Ok(()),
            Some(0xff) => Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
            _ => Err(Failure::Protocol("it does not wait for rows")),
        }
    }

    /// Sends bytes of rows.
    pub(super) async fn load_rows(&mut self, block: &[u8]) -> Answer<()> {
        for chunk in block.chunks(CHUNK) {
            let head = self.head(chunk.len());
            self.output.put_slice(&head);
            self.output.put_slice(chunk);
            self.flush().await?;
        }
        Ok(())
    }

    /// Ends the rows.
    pub(super) async fn load_finish(&mut self) -> Answer<Done> {
        let head = self.head(0);
        self.output.put_slice(&head);
        self.flush().await?;
        let packet = self.answer().await?;
        done(packet)
    }

    pub(super) async fn ping(&mut self) -> Answer<()> {
        self.command(&[command::PING]).await?;
        self.answer().await.map(|_| ())
    }

    /// Says good-bye.
    pub(super) async fn quit(mut self) {
        if self.command(&[command::QUIT]).await.is_ok() {
            _ = self.socket.shutdown().await;
        }
    }

    async fn query(&mut self, sql: &[u8]) -> Answer<()> {
        self.command(&[&[command::QUERY], sql].concat()).await
    }

    async fn command(&mut self, body: &[u8]) -> Answer<()> {
        self.sequence = 0;
        // What is exactly as long as a packet can be is followed by an empty one.
        let mut rest = body;
        loop {
            let (part, more) = rest.split_at(rest.len().min(LONGEST));
            let head = self.head(part.len());
            self.output.put_slice(&head);
            self.output.put_slice(part);
            self.flush().await?;
            if part.len() < LONGEST {
                return Ok(());
            }
            rest = more;
        }
    }

    fn head(&mut self, length: usize) -> [u8; 4] {
        // At most three bytes.
        let [a, b, c, _] = (length as u32).to_le_bytes();
        let head = [a, b, c, self.sequence];
        self.sequence = self.sequence.wrapping_add(1);
        head
    }

    /// Sends what was put into the buffer as one packet.
    pub(super) async fn flush_packet(&mut self) -> Answer<()> {
        let body = self.output.split();
        let head = self.head(body.len());
        self.output.put_slice(&head);
        self.output.put_slice(&body);
        self.flush().await
    }

    async fn flush(&mut self) -> Answer<()> {
        send(&mut *self.socket, &self.output, &mut self.input).await?;
        self.output.clear();
        Ok(())
    }

    /// Reads until there are so many bytes.
    async fn fill(&mut self, enough: usize) -> Answer<()> {
        while self.input.len() < enough {
            self.input.reserve(READ.max(enough - self.input.len()));
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }

    /// The next packet, whole.
    pub(super) async fn packet(&mut self) -> Answer<Bytes> {
        let (mut before, mut between_rows) = (BytesMut::new(), false);
        loop {
            self.fill(4).await?;
            let length = u32::from_le_bytes([self.input[0], self.input[1], self.input[2], 0]) as usize;
            self.fill(4 + length).await?;
            self.sequence = self.input[3].wrapping_add(1);
            self.input.advance(4);
            let part = self.input.split_to(length);
            if length < LONGEST && before.is_empty() {
                return Ok(part.freeze());
            }
            // Whoever drops this now loses a part.
            let was_between_rows = std::mem::replace(&mut self.between_rows, false);
            between_rows |= was_between_rows;
            before.extend_from_slice(&part);
            if length < LONGEST {
                self.between_rows = between_rows;
                return Ok(before.freeze());
            }
        }
    }

    /// The first packet of an answer, which is no error.
    async fn answer(&mut self) -> Answer<Bytes> {
        let packet = self.packet().await?;
        match packet.first() {
            Some(0xff) => Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
            Some(0xfb) => {
                // It asks for a file that nobody offered, and gets nothing.
                let head = self.head(0);
                self.output.put_slice(&head);
                self.flush().await?;
                self.packet().await?;
                Err(Failure::Protocol("it asks for a file"))
            }
            Some(_) => Ok(packet),
            None => Err(MALFORMED),
        }
    }

    async fn columns(&mut self, count: usize) -> Answer<Vec<ColumnDefinition>> {
        let mut columns = Vec::with_capacity(count.min(4096));
        for _ in 0..count {
            columns.push(ColumnDefinition::parse(self.answer().await?)?);
        }
        if self.capabilities & DEPRECATE_EOF == 0 {
            self.packet().await?;
        }
        Ok(columns)
    }

    /// The next row of a result, in whatever form.
    async fn row(&mut self) -> Answer<Option<Bytes>> {
        let packet = self.packet().await?;
        match packet.first() {
            Some(0xff) => Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
            // A text of 16 MB begins so too.
            Some(0xfe) if packet.len() < LONGEST => {
                self.warned = self.end_of_rows(packet)?.warnings > 0;
                Ok(None)
            }
            Some(_) => Ok(Some(packet)),
            None => Err(MALFORMED),
        }
    }

    /// What the packet behind the last row says.
    fn end_of_rows(&self, mut packet: Bytes) -> Answer<Done> {
        packet.advance(1);
        if self.capabilities & DEPRECATE_EOF != 0 {
            return ended(packet);
        }
        if packet.len() < 4 {
            return Err(MALFORMED);
        }
        let (warnings, status) = (packet.get_u16_le(), packet.get_u16_le());
        Ok(Done { rows: 0, status, warnings })
    }

    /// What the server has to say on the last statement.
    pub(super) async fn warnings(&mut self) -> Answer<Vec<Refusal>> {
        let mut warnings = Vec::new();
        for row in self.rows("SHOW WARNINGS LIMIT 100").await? {
            let code: u64 = row.get(1)?;
            warnings.push(Refusal { code: u16::try_from(code).unwrap_or_default(), message: row.get(2)? });
        }
        Ok(warnings)
    }

    /// Makes an error of a warning that something of a row was left out.
    async fn refuse_losses(&mut self) -> Answer<()> {
        /// What group_concat() had no room for, and a result that became null for its size.
        const LOSSES: &[u16] = &[1260, 1301];
        if !std::mem::take(&mut self.warned) {
            return Ok(());
        }
        let lost = self.warnings().await?.into_iter().find(|warning| LOSSES.contains(&warning.code));
        lost.map_or(Ok(()), |warning| Err(Failure::Server(Box::new(warning))))
    }

    /// Gives the status at the end.
    async fn skip_result(&mut self, mut first: Bytes) -> Answer<u16> {
        let count = length(&mut first)? as usize;
        self.columns(count).await?;
        loop {
            let packet = self.packet().await?;
            match packet.first() {
                Some(0xff) => return Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
                Some(0xfe) if packet.len() < LONGEST => return Ok(self.end_of_rows(packet)?.status),
                _ => {}
            }
        }
    }
}

pub(super) const MALFORMED: Failure = Failure::Protocol("it is malformed");

impl Refusal {
    /// `ff`, the number, `#` with the SQLSTATE, and the words.
    pub(super) fn parse(packet: &[u8]) -> Self {
        let code = packet.get(1..3).map_or(0, |code| u16::from_le_bytes([code[0], code[1]]));
        let rest = packet.get(3..).unwrap_or_default();
        let words = if rest.first() == Some(&b'#') { rest.get(6..).unwrap_or_default() } else { rest };
        Self { code, message: String::from_utf8_lossy(words).into_owned() }
    }
}

impl ColumnDefinition {
    fn parse(mut packet: Bytes) -> Answer<Self> {
        // Catalogue, database, table and its name before any alias.
        for _ in 0..4 {
            text(&mut packet)?;
        }
        let name = String::from_utf8_lossy(&text(&mut packet)?).into_owned();
        text(&mut packet)?;
        if length(&mut packet)? < 12 || packet.len() < 12 {
            return Err(MALFORMED);
        }
        let (charset, length) = (packet.get_u16_le(), packet.get_u32_le());
        let (kind, flags, decimals) = (packet.get_u8(), packet.get_u16_le(), packet.get_u8());
        Ok(Self { name, charset, length, kind, flags, decimals })
    }
}

/// `00`, affected rows, the last key that was made, status, warnings.
fn done(mut packet: Bytes) -> Answer<Done> {
    if !packet.has_remaining() || packet.get_u8() != 0 {
        return Err(MALFORMED);
    }
    ended(packet)
}

fn ended(mut packet: Bytes) -> Answer<Done> {
    let rows = length(&mut packet)?;
    length(&mut packet)?;
    if packet.len() < 4 {
        return Err(MALFORMED);
    }
    Ok(Done { rows, status: packet.get_u16_le(), warnings: packet.get_u16_le() })
}

/// A number of one byte, or of as many as its first byte tells.
fn length(packet: &mut Bytes) -> Answer<u64> {
    if !packet.has_remaining() {
        return Err(MALFORMED);
    }
    let width = match packet.get_u8() {
        0xfc => 2,
        0xfd => 3,
        0xfe => 8,
        short @ 0..=0xfa => return Ok(short.into()),
        _ => return Err(MALFORMED),
    };
    if packet.len() < width { Err(MALFORMED) } else { Ok(packet.get_uint_le(width)) }
}

/// Bytes behind their length.
fn text(packet: &mut Bytes) -> Answer<Bytes> {
    let length = usize::try_from(length(packet)?).unwrap_or(usize::MAX);
    if packet.len() < length { Err(MALFORMED) } else { Ok(packet.split_to(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_width() {
        for (bytes, expected) in [
            (&[5][..], Some(5)),
            (&[0xfc, 1, 2], Some(0x201)),
            (&[0xfd, 1, 2, 3], Some(0x30201)),
            (&[0xfe, 1, 0, 0, 0, 0, 0, 0, 0], Some(1)),
            (&[0xfc, 1], None),
            (&[0xff], None),
            (&[], None),
        ] {
            assert_eq!(length(&mut Bytes::copy_from_slice(bytes)).ok(), expected, "{bytes:?}");
        }
    }
}
