//! The floor: the least that a fan-out can cost. One thread polls, reads the clients' messages, and runs a bare loop of
//! `send(2)` over the sockets of the room. No Redis, no names, no history, no handling of slow clients.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use rustix::event::epoll;

use crate::ws;

/// The listener's number in epoll; all other numbers are indexes in the list of clients.
const LISTENER: u64 = u64::MAX;

struct Client {
    stream: TcpStream,
    /// Empty until the upgrade.
    room: String,
}

/// Serves until it is killed.
pub fn serve() -> io::Result<()> {
    let listener = bind()?;
    listener.set_nonblocking(true)?;

    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut clients: Vec<Option<Client>> = Vec::new();
    let mut rooms: HashMap<String, Vec<usize>> = HashMap::new();
    let mut buffer = vec![0; 65536];
    loop {
        let mut events = [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; 256];
        let ready = match epoll::wait(&epoll, &mut events[..], None) {
            // A tracer has attached.
            Err(rustix::io::Errno::INTR) => continue,
            ready => ready?,
        };
        let mut said: HashMap<String, Vec<u8>> = HashMap::new();
        for event in &events[..ready] {
            if event.data.u64() == LISTENER {
                accept(&listener, &epoll, &mut clients)?;
                continue;
            }
            let id = event.data.u64() as usize;
            let Some(client) = &mut clients[id] else { continue };
            match client.stream.read(&mut buffer) {
                Ok(read) if read > 0 && client.room.is_empty() => {
                    client.room = room(&buffer[..read]);
                    let _ = client.stream.write(&upgrade());
                    rooms.entry(client.room.clone()).or_default().push(id);
                }
                Ok(read) if read > 0 => listen(&buffer[..read], said.entry(client.room.clone()).or_default()),
                _ => {
                    if let Some(room) = rooms.get_mut(&client.room) {
                        room.retain(|member| *member != id);
                    }
                    clients[id] = None;
                }
            }
        }
        for (room, frames) in &said {
            for member in &rooms[room] {
                if let Some(client) = &mut clients[*member] {
                    let _ = client.stream.write(frames);
                }
            }
        }
    }
}

/// Listens on `PORT` and prints the address.
pub fn bind() -> io::Result<TcpListener> {
    let port = std::env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    listener.bind(&std::net::SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    listener.listen(4096)?;
    let listener = TcpListener::from(listener);
    println!("listening on http://{}", listener.local_addr()?);
    Ok(listener)
}

fn accept(listener: &TcpListener, epoll: &OwnedFd, clients: &mut Vec<Option<Client>>) -> io::Result<()> {
    while let Ok((stream, _)) = listener.accept() {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        epoll::add(epoll, &stream, epoll::EventData::new_u64(clients.len() as u64), epoll::EventFlags::IN)?;
        clients.push(Some(Client { stream, room: String::new() }));
    }
    Ok(())
}

/// The room that the path of an upgrade request names.
pub fn room(request: &[u8]) -> String {
    let request = String::from_utf8_lossy(request);
    request.split_whitespace().nth(1).unwrap_or("/").trim_start_matches("/ws/").to_owned()
}

/// The answer to an upgrade request, and the greeting.
pub fn upgrade() -> Vec<u8> {
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        ws::ACCEPT
    );
    [answer.as_bytes(), &ws::from_server(ws::TEXT, b"welcome")].concat()
}

/// Turns a client's messages into frames for its room.
fn listen(mut bytes: &[u8], frames: &mut Vec<u8>) {
    while let Some(frame) = ws::next_from_client(bytes) {
        if frame.opcode == ws::TEXT {
            frames.extend_from_slice(&ws::from_server(ws::TEXT, frame.payload));
        }
        bytes = &bytes[frame.size..];
    }
}
