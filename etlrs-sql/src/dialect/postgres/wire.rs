//! One connection: the messages of the protocol, version 3.0
//! (<https://www.postgresql.org/docs/current/protocol.html>). The crate `postgres-protocol` makes and takes apart all but
//! those of a COPY, which are moved in bulk here.
//!
//! Dropping a future in the middle of an exchange leaves a connection that is good for nothing but dropping.

use std::io;

use bytes::{Buf, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::address::Address;
use crate::network::{self, Host, Protection, Row, Socket, send, tls};

/// Bytes asked of the socket at a time.
const READ: usize = 64 << 10;

/// An error of the server.
#[derive(Default)]
pub(crate) struct Refusal {
    pub(super) code: String,
    /// `ERROR`, or `FATAL` and `PANIC`, which end the connection.
    pub(super) severity: String,
    pub(super) message: String,
    pub(super) column: Option<String>,
    pub(super) constraint: Option<String>,
    /// Where it was noticed: `COPY t, line 3, column c`.
    pub(super) place: Option<String>,
}

pub(super) type Failure = network::Failure<Refusal>;
pub(super) type Answer<T> = network::Answer<T, Refusal>;

/// The SQLSTATE of an error of the server.
pub(super) fn code(failure: &Failure) -> Option<&str> {
    match failure {
        Failure::Server(refusal) => Some(&refusal.code),
        _ => None,
    }
}

impl Refusal {
    fn new(body: &ErrorResponseBody) -> Self {
        use fallible_iterator::FallibleIterator;
        let mut refusal = Self::default();
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            let value = || String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => refusal.code = value(),
                // Not translated, unlike S.
                b'V' => refusal.severity = value(),
                b'M' => refusal.message = value(),
                b'c' => refusal.column = Some(value()),
                b'n' => refusal.constraint = Some(value()),
                b'W' => refusal.place = Some(value()),
                _ => {}
            }
        }
        refusal
    }

    /// Whether the connection ended with it.
    pub(super) fn is_fatal(&self) -> bool {
        self.severity != "ERROR"
    }
}

fn row(body: &DataRowBody) -> Answer<Row> {
    use fallible_iterator::FallibleIterator;
    let (buffer, mut ranges, mut values) = (body.buffer(), body.ranges(), Vec::new());
    while let Some(range) = ranges.next()? {
        values.push(range.map(|range| String::from_utf8_lossy(buffer.get(range).unwrap_or_default()).into_owned()));
    }
    Ok(Row::new(values))
}

/// A connection to a server, after authentication.
pub(crate) struct Connection {
    pub(super) socket: Box<dyn Socket>,
    /// What tells the session from others.
    pub(super) session: String,
    input: BytesMut,
    output: BytesMut,
}

impl Connection {
    /// Connects and authenticates.
    pub(super) async fn connect(address: &Address) -> Answer<Self> {
        let socket = connect(address).await?;
        let mut connection = Self { socket, session: String::new(), input: BytesMut::new(), output: BytesMut::new() };
        let mut parameters = vec![
            ("user", address.user.as_str()),
            ("database", address.database.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", address.application_name.as_str()),
        ];
        if let Some(options) = &address.options {
            parameters.push(("options", options));
        }
        frontend::startup_message(parameters, &mut connection.output)?;
        connection.flush().await?;
        connection.authenticate(address).await?;
        Ok(connection)
    }

    async fn authenticate(&mut self, address: &Address) -> Answer<()> {
        let password = address.password.as_ref().map(|password| password.expose().as_bytes());
        let missing = || {
            Failure::Server(Box::new(Refusal {
                code: "28P01".into(),
                severity: "FATAL".into(),
                message: "the server asks for a password and there is none".into(),
                ..Refusal::default()
            }))
        };
        let mut scram: Option<sasl::ScramSha256> = None;
        loop {
            match self.message().await? {
                Message::AuthenticationOk | Message::BackendKeyData(_) => continue,
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password.ok_or_else(missing)?, &mut self.output)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let password = password.ok_or_else(missing)?;
                    let hash = md5_hash(address.user.as_bytes(), password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut self.output)?;
                }
                Message::AuthenticationSasl(body) => {
                    use fallible_iterator::FallibleIterator;
                    let mut mechanisms = body.mechanisms();
                    let mut offered = false;
                    while let Some(mechanism) = mechanisms.next()? {
                        offered |= mechanism == sasl::SCRAM_SHA_256;
                    }
                    if !offered {
                        return Err(Failure::Protocol("it wants a way of authentication that is not SCRAM-SHA-256"));
                    }
                    let state =
                        sasl::ScramSha256::new(password.ok_or_else(missing)?, sasl::ChannelBinding::unsupported());
                    frontend::sasl_initial_response(sasl::SCRAM_SHA_256, state.message(), &mut self.output)?;
                    scram = Some(state);
                }
                Message::AuthenticationSaslContinue(body) => {
                    let state = scram.as_mut().ok_or(Failure::Protocol("it goes on with what was not begun"))?;
                    state.update(body.data())?;
                    frontend::sasl_response(state.message(), &mut self.output)?;
                }
                Message::AuthenticationSaslFinal(body) => {
                    let state = scram.as_mut().ok_or(Failure::Protocol("it ends what was not begun"))?;
                    // The server proves that it knows the password too.
                    state.finish(body.data()).map_err(|_| Failure::Protocol("it does not prove who it is"))?;
                }
                Message::ErrorResponse(body) => return Err(Failure::Server(Box::new(Refusal::new(&body)))),
                Message::ReadyForQuery(_) => return Ok(()),
                _ => return Err(Failure::Protocol("it wants a way of authentication that is not known here")),
            }
            self.flush().await?;
        }
    }

    /// Statements without parameters; gives the number of rows of the last one. None of their text may come from data
    /// unquoted.
    pub(super) async fn execute(&mut self, sql: &str) -> Answer<u64> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await?;
        let mut affected = 0;
        loop {
            match self.answer().await? {
                Message::CommandComplete(body) => affected = rows_of(body.tag()?),
                Message::ReadyForQuery(_) => return Ok(affected),
                Message::CopyInResponse(_) | Message::CopyOutResponse(_) => {
                    return Err(Failure::Protocol("it begins a COPY that was not asked for"));
                }
                _ => {}
            }
        }
    }

    /// The rows of one statement with text parameters, which it casts itself.
    pub(super) async fn rows(&mut self, sql: &str, parameters: &[&str]) -> Answer<Vec<Row>> {
        frontend::parse("", sql, [], &mut self.output)?;
        let put = |value: &&str, out: &mut BytesMut| {
            out.extend_from_slice(value.as_bytes());
            Ok(IsNull::No)
        };
        frontend::bind("", "", [], parameters.iter(), put, [], &mut self.output)
            .map_err(|_| Failure::Protocol("a parameter is too long"))?;
        frontend::execute("", 0, &mut self.output)?;
        frontend::sync(&mut self.output);
        self.flush().await?;
        let mut rows = Vec::new();
        loop {
            match self.answer().await? {
                Message::DataRow(body) => rows.push(row(&body)?),
                Message::ReadyForQuery(_) => return Ok(rows),
                _ => {}
            }
        }
    }

    /// Begins `COPY … TO STDOUT`.
    pub(super) async fn copy_out(&mut self, sql: &str) -> Answer<()> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await?;
        match self.answer().await? {
            Message::CopyOutResponse(_) => Ok(()),
            _ => Err(Failure::Protocol("it does not begin the COPY")),
        }
    }

    /// Appends what the server sends of a COPY to `block`, whole messages as far as they fit into `limit`, and one at the
    /// least. `false`: that was the end, and the connection is ready again.
    pub(super) async fn copy_read(&mut self, block: &mut Vec<u8>, limit: usize) -> Answer<bool> {
        loop {
            let mut at = 0;
            // A message is a letter and a length, which counts itself.
            while let Some(&[b'd', a, b, c, d]) = self.input.get(at..at + 5) {
                let length = u32::from_be_bytes([a, b, c, d]) as usize;
                if length < 4 {
                    return Err(Failure::Protocol("it is malformed"));
                }
                let end = at + 1 + length;
                let Some(payload) = self.input.get(at + 5..end) else { break };
                if !block.is_empty() && block.len() + payload.len() > limit {
                    self.input.advance(at);
                    return Ok(true);
                }
                block.extend_from_slice(payload);
                at = end;
            }
            self.input.advance(at);
            match self.input.first() {
                Some(b'd') | None => self.fill().await?,
                Some(_) => match self.answer().await? {
                    Message::CopyDone | Message::CommandComplete(_) => {}
                    Message::ReadyForQuery(_) => return Ok(false),
                    _ => return Err(Failure::Protocol("it sends something else within a COPY")),
                },
            }
        }
    }

    /// Begins statements of which the last is `COPY … FROM STDIN`.
    pub(super) async fn copy_in(&mut self, sql: &str) -> Answer<()> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await?;
        loop {
            match self.answer().await? {
                Message::CommandComplete(_) => {}
                Message::CopyInResponse(_) => return Ok(()),
                _ => return Err(Failure::Protocol("it does not begin the COPY")),
            }
        }
    }

    /// Sends `block`, whose first bytes, as many as [`HEAD`] has, are room for the head of its message.
    pub(super) async fn copy_write(&mut self, block: &mut [u8]) -> Answer<()> {
        let length = u32::try_from(block.len() - 1).map_err(|_| Failure::Protocol("a block is too long"))?;
        if let Some(head) = block.first_chunk_mut::<HEAD>() {
            *head = [b'd', 0, 0, 0, 0];
            head[1..].copy_from_slice(&length.to_be_bytes());
        }
        Ok(send(&mut *self.socket, block, &mut self.input).await?)
    }

    /// Ends the COPY; gives the number of rows that the server counted.
    pub(super) async fn copy_finish(&mut self) -> Answer<u64> {
        frontend::copy_done(&mut self.output);
        self.flush().await?;
        let mut rows = 0;
        loop {
            match self.answer().await? {
                Message::CommandComplete(body) => rows = rows_of(body.tag()?),
                Message::ReadyForQuery(_) => return Ok(rows),
                _ => {}
            }
        }
    }

    /// Says good-bye, so that the server does not note in its log that a client vanished.
    pub(super) async fn terminate(mut self) {
        frontend::terminate(&mut self.output);
        if self.flush().await.is_ok() {
            _ = self.socket.shutdown().await;
        }
    }

    async fn flush(&mut self) -> Answer<()> {
        send(&mut *self.socket, &self.output, &mut self.input).await?;
        self.output.clear();
        Ok(())
    }

    async fn fill(&mut self) -> Answer<()> {
        self.input.reserve(READ);
        if self.socket.read_buf(&mut self.input).await? == 0 {
            return Err(Failure::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(())
    }

    /// The next message that is not just news.
    async fn message(&mut self) -> Answer<Message> {
        loop {
            match Message::parse(&mut self.input)? {
                Some(Message::NoticeResponse(_) | Message::NotificationResponse(_) | Message::ParameterStatus(_)) => {}
                Some(message) => return Ok(message),
                None => self.fill().await?,
            }
        }
    }

    /// The next message of an answer. After an error the rest of the answer is taken, so that the connection is ready again.
    async fn answer(&mut self) -> Answer<Message> {
        let refusal = match self.message().await? {
            Message::ErrorResponse(body) => Refusal::new(&body),
            message => return Ok(message),
        };
        // A fatal error is the last thing that comes.
        while !refusal.is_fatal() && !matches!(self.message().await?, Message::ReadyForQuery(_)) {}
        Err(Failure::Server(Box::new(refusal)))
    }
}

/// Connects, and agrees on TLS.
async fn connect(address: &Address) -> Answer<Box<dyn Socket>> {
    let name = match &address.host {
        Host::Socket(folder) => {
            return Ok(network::connect_file(&folder.join(format!(".s.PGSQL.{}", address.port))).await?);
        }
        Host::Name(name) => name,
    };
    let mut socket = network::connect(name, address.port).await?;
    if address.tls.protection == Protection::Disable {
        return Ok(Box::new(socket));
    }
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // One byte and no more: what follows it in clear could have been put there by anybody.
    match socket.read_u8().await? {
        b'S' => tls::secure(Box::new(socket), name, &address.tls).await,
        b'N' if address.tls.protection == Protection::Prefer => Ok(Box::new(socket)),
        b'N' => Err(Failure::Tls("the server has no TLS".into())),
        _ => Err(Failure::Protocol("it does not say whether it has TLS, so it may be no PostgreSQL")),
    }
}

/// Bytes at the front of a block for [`Connection::copy_write`].
pub(super) const HEAD: usize = 5;

/// The number of rows in `COPY 5`, `INSERT 0 5`, `UPDATE 5`.
fn rows_of(tag: &str) -> u64 {
    tag.rsplit(' ').next().and_then(|rows| rows.parse().ok()).unwrap_or(0)
}
