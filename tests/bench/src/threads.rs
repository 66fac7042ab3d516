//! The floor for one thread per connection: each client has a thread that blocks in `read(2)`. Through Redis, that thread
//! sends a bare `PUBLISH` without an answer, and one more thread reads the subscriptions and runs a bare loop of `send(2)`
//! over the sockets of the room; alone, the client's own thread runs that loop. Nothing is kept or ordered.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;

use crate::floor::{bind, room, upgrade};
use crate::ws;

const STACK: usize = 64 * 1024;

struct Rooms {
    members: RwLock<HashMap<String, Vec<Arc<TcpStream>>>>,
    redis: Option<Redis>,
}

struct Redis {
    publisher: Mutex<TcpStream>,
    subscriber: Mutex<TcpStream>,
}

/// Serves until it is killed.
pub fn serve(through_redis: bool) -> io::Result<()> {
    let listener = bind()?;
    let redis = if through_redis { Some(Redis::connect()?) } else { None };
    let rooms = Arc::new(Rooms { members: RwLock::default(), redis });
    if let Some(redis) = &rooms.redis {
        let stream = redis.subscriber.lock().unwrap_or_else(PoisonError::into_inner).try_clone()?;
        let rooms = rooms.clone();
        thread::Builder::new().spawn(move || rooms.hear(stream))?;
    }
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let rooms = rooms.clone();
        thread::Builder::new().stack_size(STACK).spawn(move || rooms.follow(&Arc::new(stream)))?;
    }
}

impl Redis {
    fn connect() -> io::Result<Redis> {
        let url = std::env::var("REDIS_URL").map_err(io::Error::other)?;
        let address = url.trim_start_matches("redis://");
        let (mut publisher, subscriber) = (TcpStream::connect(address)?, TcpStream::connect(address)?);
        for stream in [&publisher, &subscriber] {
            stream.set_nodelay(true)?;
        }
        publisher.write_all(&command(&[b"CLIENT", b"REPLY", b"OFF"]))?;
        Ok(Redis { publisher: Mutex::new(publisher), subscriber: Mutex::new(subscriber) })
    }
}

impl Rooms {
    fn follow(&self, stream: &Arc<TcpStream>) -> io::Result<()> {
        let mut buffer = vec![0; 4096];
        let read = (&**stream).read(&mut buffer)?;
        let room = room(&buffer[..read]);
        self.enter(&room, stream.clone())?;
        (&**stream).write_all(&upgrade())?;
        loop {
            let read = match (&**stream).read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(read) => read,
            };
            let mut bytes = &buffer[..read];
            while let Some(frame) = ws::next_from_client(bytes) {
                if frame.opcode == ws::TEXT {
                    self.say(&room, frame.payload)?;
                }
                bytes = &bytes[frame.size..];
            }
        }
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(room) = members.get_mut(&room) {
            room.retain(|member| !Arc::ptr_eq(member, stream));
        }
        Ok(())
    }

    fn enter(&self, room: &str, stream: Arc<TcpStream>) -> io::Result<()> {
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        let is_new = !members.contains_key(room);
        members.entry(room.to_owned()).or_default().push(stream);
        if is_new && let Some(redis) = &self.redis {
            let mut subscriber = redis.subscriber.lock().unwrap_or_else(PoisonError::into_inner);
            subscriber.write_all(&command(&[b"SUBSCRIBE", room.as_bytes()]))?;
        }
        Ok(())
    }

    fn say(&self, room: &str, text: &[u8]) -> io::Result<()> {
        match &self.redis {
            Some(redis) => {
                let command = command(&[b"PUBLISH", room.as_bytes(), text]);
                redis.publisher.lock().unwrap_or_else(PoisonError::into_inner).write_all(&command)?;
            }
            None => self.deliver(room, text),
        }
        Ok(())
    }

    fn deliver(&self, room: &str, text: &[u8]) {
        let frame = ws::from_server(ws::TEXT, text);
        let members = self.members.read().unwrap_or_else(PoisonError::into_inner);
        for member in members.get(room).into_iter().flatten() {
            let _ = socket2::SockRef::from(&**member).send_with_flags(&frame, libc::MSG_DONTWAIT);
        }
    }

    /// Reads what Redis pushes: arrays of three strings, `message`, the channel and the payload; after `subscribe` the
    /// third is a number.
    fn hear(&self, stream: TcpStream) -> io::Result<()> {
        let mut stream = BufReader::with_capacity(65536, stream);
        let mut line = String::new();
        loop {
            let mut parts: [Vec<u8>; 3] = Default::default();
            line.clear();
            if stream.read_line(&mut line)? == 0 {
                return Ok(());
            }
            for part in &mut parts {
                line.clear();
                stream.read_line(&mut line)?;
                if let Some(length) = line.strip_prefix('$') {
                    part.resize(length.trim_end().parse::<usize>().map_err(io::Error::other)? + 2, 0);
                    stream.read_exact(part)?;
                    part.truncate(part.len() - 2);
                }
            }
            let [kind, room, text] = parts;
            if kind == b"message" {
                self.deliver(&String::from_utf8_lossy(&room), &text);
            }
        }
    }
}

/// A command as Redis reads it.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}
