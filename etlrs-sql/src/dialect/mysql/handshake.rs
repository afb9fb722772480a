//! How a connection begins: who the server is, TLS, and who we are
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_connection_phase.html>).

use bytes::{Buf, BufMut, Bytes};
use ring::digest;

use super::address::Address;
use super::wire::{Answer, Connection, Failure, MALFORMED, Refusal};
use crate::network::{self, Host, Protection, Socket, tls};

/// What client and server can (`include/mysql_com.h`).
mod capability {
    pub(super) const LONG_PASSWORD: u32 = 1;
    pub(super) const LONG_FLAG: u32 = 1 << 2;
    pub(super) const CONNECT_WITH_DB: u32 = 1 << 3;
    /// Without it the server refuses LOAD DATA LOCAL. What is sent is only ever what [`super::Connection::load`] was called
    /// for: a server that asks for a file gets none.
    pub(super) const LOCAL_FILES: u32 = 1 << 7;
    pub(super) const PROTOCOL_41: u32 = 1 << 9;
    pub(super) const SSL: u32 = 1 << 11;
    pub(super) const TRANSACTIONS: u32 = 1 << 13;
    pub(super) const SECURE_CONNECTION: u32 = 1 << 15;
    pub(super) const PLUGIN_AUTH: u32 = 1 << 19;
    pub(super) const PLUGIN_AUTH_LENENC: u32 = 1 << 21;
    pub(super) const DEPRECATE_EOF: u32 = 1 << 24;

    pub(super) const NEEDED: u32 = PROTOCOL_41 | SECURE_CONNECTION;
    pub(super) const WISHED: u32 =
        LONG_PASSWORD | LONG_FLAG | LOCAL_FILES | TRANSACTIONS | PLUGIN_AUTH | PLUGIN_AUTH_LENENC | DEPRECATE_EOF;
}

/// utf8mb4_general_ci, which every server has.
const UTF8MB4: u8 = 45;

/// The server ends its rows with the packet that ends other answers.
pub(super) const DEPRECATE_EOF: u32 = capability::DEPRECATE_EOF;

impl Connection {
    /// Connects and authenticates.
    pub(super) async fn connect(address: &Address) -> Answer<Self> {
        let socket: Box<dyn Socket> = match &address.host {
            Host::Socket(path) => network::connect_file(path).await?,
            Host::Name(name) => Box::new(network::connect(name, address.port).await?),
        };
        let mut connection = Self::new(socket);
        let greeting = Greeting::parse(connection.packet().await?)?;
        connection.id = greeting.id.into();
        connection.version = greeting.version.clone();
        if greeting.capabilities & capability::NEEDED != capability::NEEDED {
            return Err(Failure::Protocol("it is of a version before 4.1"));
        }
        connection.capabilities = greeting.capabilities & capability::WISHED | capability::NEEDED;
        if address.database.is_some() {
            connection.capabilities |= capability::CONNECT_WITH_DB;
        }
        connection.authenticate(address, &greeting).await?;
        Ok(connection)
    }

    async fn authenticate(&mut self, address: &Address, greeting: &Greeting) -> Answer<()> {
        // A socket in the file system is as good as TLS.
        let mut secure = matches!(address.host, Host::Socket(_));
        if let (Host::Name(name), true) = (&address.host, address.tls.protection != Protection::Disable) {
            if greeting.capabilities & capability::SSL != 0 {
                self.capabilities |= capability::SSL;
                self.write_head();
                self.flush_packet().await?;
                // What came in clear behind the greeting could have been put there by anybody.
                if !self.input.is_empty() {
                    return Err(Failure::Protocol("it says more than it should before TLS"));
                }
                let plain = std::mem::replace(&mut self.socket, Box::new(tokio::io::empty()));
                self.socket = tls::secure(plain, name, &address.tls).await?;
                secure = true;
            } else if address.tls.protection != Protection::Prefer {
                return Err(Failure::Tls("the server has no TLS".into()));
            }
        }
        let password = address.password.as_ref().map_or(&b""[..], |password| password.expose().as_bytes());
        let mut scramble = greeting.scramble.clone();
        let first = respond(&greeting.plugin, password, &scramble, secure).unwrap_or_default();
        self.write_head();
        self.output.put_slice(address.user.as_bytes());
        self.output.put_u8(0);
        match u8::try_from(first.len()) {
            Ok(length @ ..251) => self.output.put_u8(length),
            // A length-encoded integer, as was agreed on. A token in clear text may be as long.
            _ => {
                self.output.put_u8(0xfc);
                self.output.put_u16_le(u16::try_from(first.len()).unwrap_or(u16::MAX));
            }
        }
        self.output.put_slice(&first);
        if let Some(database) = &address.database {
            self.output.put_slice(database.as_bytes());
            self.output.put_u8(0);
        }
        if self.capabilities & capability::PLUGIN_AUTH != 0 {
            self.output.put_slice(greeting.plugin.as_bytes());
            self.output.put_u8(0);
        }
        self.flush_packet().await?;
        loop {
            let mut packet = self.packet().await?;
            match packet.first() {
                Some(0) => return Ok(()),
                Some(0xff) => return Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
                Some(0xfe) if packet.len() > 1 => {
                    packet.advance(1);
                    let plugin = String::from_utf8_lossy(&until_nul(&mut packet)).into_owned();
                    scramble = packet.strip_suffix(&[0]).unwrap_or(&packet).to_vec();
                    let answer = respond(&plugin, password, &scramble, secure)?;
                    self.output.put_slice(&answer);
                }
                // caching_sha2_password: the server knows the password already, or wants it whole.
                Some(1) if packet.get(1) == Some(&3) => continue,
                Some(1) if packet.get(1) == Some(&4) => {
                    if !secure {
                        return Err(Failure::Tls("the server wants the password in clear, which needs TLS".into()));
                    }
                    self.output.put_slice(password);
                    self.output.put_u8(0);
                }
                _ => return Err(Failure::Protocol("it wants a way of authentication that is not known here")),
            }
            self.flush_packet().await?;
        }
    }

    /// What a request for TLS and the whole answer to the greeting begin with.
    fn write_head(&mut self) {
        self.output.put_u32_le(self.capabilities);
        self.output.put_u32_le(1 << 30);
        self.output.put_u8(UTF8MB4);
        self.output.put_bytes(0, 23);
    }
}

/// What the server says first.
struct Greeting {
    version: String,
    id: u32,
    capabilities: u32,
    scramble: Vec<u8>,
    plugin: String,
}

impl Greeting {
    fn parse(mut packet: Bytes) -> Answer<Self> {
        match packet.first() {
            Some(0xff) => return Err(Failure::Server(Box::new(Refusal::parse(&packet)))),
            Some(10) => packet.advance(1),
            _ => return Err(Failure::Protocol("it is not that of MySQL or MariaDB")),
        }
        let version = String::from_utf8_lossy(&until_nul(&mut packet)).into_owned();
        // Before 11 MariaDB pretends to be a replica of version 5.5.
        let version = version.strip_prefix("5.5.5-").unwrap_or(&version).to_owned();
        if packet.len() < 31 {
            return Err(MALFORMED);
        }
        let id = packet.get_u32_le();
        let mut scramble = packet.split_to(8).to_vec();
        packet.advance(1);
        let low = packet.get_u16_le();
        packet.advance(3);
        let high = packet.get_u16_le();
        let length = usize::from(packet.get_u8());
        packet.advance(10);
        let rest = packet.split_to(length.saturating_sub(8).max(13).min(packet.len()));
        scramble.extend_from_slice(rest.strip_suffix(&[0]).unwrap_or(&rest));
        let plugin = String::from_utf8_lossy(&until_nul(&mut packet)).into_owned();
        let plugin = if plugin.is_empty() { "mysql_native_password".to_owned() } else { plugin };
        Ok(Self { version, id, capabilities: u32::from(high) << 16 | u32::from(low), scramble, plugin })
    }
}

fn until_nul(packet: &mut Bytes) -> Bytes {
    let end = packet.iter().position(|byte| *byte == 0).unwrap_or(packet.len());
    let found = packet.split_to(end);
    packet.advance(1.min(packet.len()));
    found
}

/// What proves the password to the server, by the way that it calls so.
fn respond(plugin: &str, password: &[u8], scramble: &[u8], secure: bool) -> Answer<Vec<u8>> {
    let sha = |algorithm, parts: &[&[u8]]| digest::digest(algorithm, &parts.concat());
    let xor = |a: &[u8], b: &[u8]| a.iter().zip(b).map(|(a, b)| a ^ b).collect();
    match plugin {
        "mysql_native_password" | "caching_sha2_password" if password.is_empty() => Ok(Vec::new()),
        "mysql_native_password" => {
            let sha1 = |parts: &[&[u8]]| sha(&digest::SHA1_FOR_LEGACY_USE_ONLY, parts);
            let once = sha1(&[password]);
            Ok(xor(once.as_ref(), sha1(&[scramble, sha1(&[once.as_ref()]).as_ref()]).as_ref()))
        }
        "caching_sha2_password" => {
            let sha256 = |parts: &[&[u8]]| sha(&digest::SHA256, parts);
            let once = sha256(&[password]);
            Ok(xor(once.as_ref(), sha256(&[sha256(&[once.as_ref()]).as_ref(), scramble]).as_ref()))
        }
        "mysql_clear_password" | "sha256_password" | "dialog" if secure => Ok([password, &[0]].concat()),
        "mysql_clear_password" | "sha256_password" | "dialog" => {
            Err(Failure::Tls("the server wants the password in clear, which needs TLS".into()))
        }
        // The operating system says who it is.
        "unix_socket" | "auth_socket" => Ok(Vec::new()),
        _ => Err(Failure::Protocol("it wants a way of authentication that is not known here")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the documentation of the protocol: a scramble of 20 bytes and what answers it, checked with a server.
    #[test]
    fn passwords_are_proved_and_not_sent() {
        let scramble = b"01234567890123456789";
        for plugin in ["mysql_native_password", "caching_sha2_password"] {
            let answer = respond(plugin, b"hunter2", scramble, false).ok().unwrap();
            assert!(!answer.is_empty() && !answer.windows(7).any(|window| window == b"hunter2"));
            assert_eq!(respond(plugin, b"", scramble, false).ok().unwrap(), b"");
        }
        assert!(respond("mysql_clear_password", b"hunter2", scramble, false).is_err());
        assert!(respond("client_ed25519", b"hunter2", scramble, true).is_err());
    }
}
