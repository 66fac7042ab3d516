//! An echo server built from the server's own session code, for the Autobahn cases: it shows how Bobbin handles frames,
//! with large messages and no rate limit.

use bobbin::fanout::Lanes;
use bobbin::fanout::socket::SharedSocket;
use bobbin::limits::Bucket;
use bobbin::metrics::Metrics;
use bobbin::session::transport::Transport;
use bobbin::start::Start;
use std::error::Error;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::Message;

/// The largest message in the cases, in bytes.
const LARGEST: usize = 16 << 20;
/// More time than all cases take.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    let lanes = Arc::new(Lanes::start(1, 0, &Arc::new(Metrics::default()))?);
    for stream in listener.incoming() {
        let (stream, lanes) = (stream?, lanes.clone());
        std::thread::spawn(move || echo(stream, &lanes));
    }
    Ok(())
}

/// Sends every message back, until the client closes or violates the protocol.
fn echo(stream: TcpStream, lanes: &Lanes) {
    // As in the server, tungstenite does the handshake.
    let Ok(upgraded) = stream.try_clone().map(tungstenite::accept) else { return };
    drop(upgraded);
    let off = Bucket::new(0.0, 0.0, Instant::now());
    let mut socket =
        Transport::websocket(SharedSocket::new(stream), Start::new(None), 0, lanes, Vec::new(), LARGEST, off);
    // Unlike a session, it has no timed work that would interrupt a read.
    socket.get_mut().due += LONGEST;
    while let Ok(message) = socket.read() {
        let echoed = match message {
            Message::Text(_) | Message::Binary(_) => socket.send(message),
            _ => socket.flush(),
        };
        if echoed.is_err() {
            break;
        }
    }
    let _ = socket.get_mut().send_answers();
}
