//! The byte stream to Redis, plain or TLS. One thread reads while others write, so that commands and push messages
//! share one connection.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

/// Bytes per read from the network.
const READ_BUFFER: usize = 16 * 1024;

/// A connected stream. All methods take `&self`; only one thread may read.
pub enum Socket {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<Tls>),
}

/// The state shared by both directions of a TLS connection. It is locked to encrypt and decrypt, never during network
/// I/O: a writer blocked by Redis must not block the reader.
pub struct Tls {
    tcp: TcpStream,
    session: Mutex<ClientConnection>,
    /// Held while encrypted bytes are written, so that they leave in the order of their encryption.
    out: Mutex<()>,
}

impl Socket {
    /// Completes the TLS handshake on a connected stream whose timeouts are set.
    pub fn tls(tcp: TcpStream, config: Arc<ClientConfig>, host: &str) -> io::Result<Socket> {
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        session.set_buffer_limit(None);
        while session.is_handshaking() {
            session.complete_io(&mut &tcp)?;
        }
        Ok(Socket::Tls(Box::new(Tls { tcp, session: Mutex::new(session), out: Mutex::new(()) })))
    }

    /// The underlying TCP stream, to set its timeouts.
    pub fn tcp(&self) -> &TcpStream {
        match self {
            Socket::Plain(tcp) => tcp,
            Socket::Tls(tls) => &tls.tcp,
        }
    }

    /// Ends the connection: blocked reads and writes return.
    pub fn shutdown(&self) {
        // It may be closed already.
        let _ = self.tcp().shutdown(Shutdown::Both);
    }

    /// Writes all bytes.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Socket::Plain(tcp) => (&mut &*tcp).write_all(bytes),
            Socket::Tls(tls) => tls.send(bytes),
        }
    }
}

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Socket::Plain(tcp) => read(tcp, buffer),
            Socket::Tls(tls) => tls.read(buffer),
        }
    }
}

/// Reads once. The system does not restart reads with a timeout: stopping and continuing the process interrupts them,
/// which must not end the connection.
fn read(mut tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tcp.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

impl Tls {
    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn send(&self, plain: &[u8]) -> io::Result<()> {
        let _order = self.out.lock().unwrap_or_else(PoisonError::into_inner);
        let mut encrypted = Vec::with_capacity(plain.len() + 512);
        {
            let mut session = self.session();
            session.writer().write_all(plain)?;
            while session.wants_write() {
                session.write_tls(&mut encrypted)?;
            }
        }
        (&mut &self.tcp).write_all(&encrypted)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.session().reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
            let mut raw = [0; READ_BUFFER];
            let count = read(&self.tcp, &mut raw)?;
            if count == 0 {
                return Ok(0);
            }
            let mut rest = &raw[..count];
            while !rest.is_empty() {
                let mut session = self.session();
                session.read_tls(&mut rest)?;
                session.process_new_packets().map_err(io::Error::other)?;
            }
            // TLS itself may have to respond, for example to a key update.
            if self.session().wants_write() {
                self.send(&[])?;
            }
        }
    }
}
