//! Plain HTTP/1.1 over a TcpStream, so that tests see a response byte by byte.

use super::PATIENCE;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

/// One answer.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// In order, names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header, the first if there are several.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.text()))
    }
}

/// One connection, which may carry several requests.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    #[track_caller]
    pub fn open(addr: SocketAddr) -> Connection {
        Connection::over(TcpStream::connect_timeout(&addr, PATIENCE).expect("a connection"))
    }

    /// Wraps a TCP connection made by the test.
    pub fn over(stream: TcpStream) -> Connection {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        Connection { stream: BufReader::new(stream) }
    }

    /// The TCP connection, and what was read from it beyond the last answer.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let early = self.stream.buffer().to_vec();
        (self.stream.into_inner(), early)
    }

    /// Writes raw bytes.
    #[track_caller]
    pub fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.get_mut().write_all(bytes.as_ref()).expect("the request is written");
    }

    /// Sends a request and reads its answer. `headers` end in `\r\n` each.
    #[track_caller]
    pub fn request(&mut self, method: &str, path: &str, headers: &str) -> Response {
        self.write(format!("{method} {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n"));
        self.response(method == "HEAD")
    }

    /// Sends a request and returns the status of its answer; `None` if the connection ends without one.
    pub fn try_status(&mut self, request: &[u8]) -> Option<u16> {
        self.stream.get_mut().write_all(request).ok()?;
        let mut line = String::new();
        self.stream.read_line(&mut line).ok()?;
        line.split(' ').nth(1)?.parse().ok()
    }

    /// Reads one answer. One to `HEAD` has no body, whatever its headers say.
    #[track_caller]
    pub fn response(&mut self, head: bool) -> Response {
        let first = self.line();
        let mut words = first.split(' ');
        assert_eq!(words.next(), Some("HTTP/1.1"), "not a status line: {first:?}");
        let status = words.next().and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no status: {first:?}"));
        let mut response = Response { status, headers: Vec::new(), body: Vec::new() };
        loop {
            let line = self.line();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            response.headers.push((name.to_ascii_lowercase(), value.trim().into()));
        }
        if !head && status >= 200 && status != 204 && status != 304 {
            response.body = self.body(&response);
        }
        response
    }

    /// Whether the server closes the connection within this connection's patience.
    pub fn closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }

    /// Sets how long reads may take.
    pub fn patience(&self, patience: std::time::Duration) {
        self.stream.get_ref().set_read_timeout(Some(patience)).expect("a timeout");
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap_or_else(|e| panic!("no answer: {e}"));
        assert!(line.ends_with("\r\n"), "the answer ends early: {line:?}");
        line.truncate(line.len() - 2);
        line
    }

    #[track_caller]
    fn body(&mut self, response: &Response) -> Vec<u8> {
        let mut body = Vec::new();
        if response.header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
            loop {
                let size = usize::from_str_radix(&self.line(), 16).expect("a chunk's size");
                let start = body.len();
                body.resize(start + size, 0);
                self.stream.read_exact(&mut body[start..]).expect("a chunk");
                self.line();
                if size == 0 {
                    return body;
                }
            }
        } else if let Some(length) = response.header("content-length") {
            body.resize(length.parse().expect("a length"), 0);
            self.stream.read_exact(&mut body).expect("the whole body");
        } else {
            self.stream.read_to_end(&mut body).expect("a body to the end");
        }
        body
    }
}

/// One `GET` on a new connection.
#[track_caller]
pub fn get(addr: SocketAddr, path: &str) -> Response {
    request(addr, "GET", path, "")
}

/// One request on a new connection.
#[track_caller]
pub fn request(addr: SocketAddr, method: &str, path: &str, headers: &str) -> Response {
    Connection::open(addr).request(method, path, headers)
}

/// The value of one series in `/metrics`, or the sum of several if `name` has labels.
#[track_caller]
pub fn metric(addr: SocketAddr, name: &str) -> f64 {
    let text = get(addr, "/metrics").text();
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = if rest.starts_with('{') { rest.split_once('}')?.1 } else { rest };
        rest.strip_prefix(' ')?.trim().parse::<f64>().ok()
    });
    values
        .fold(None, |sum: Option<f64>, v| Some(sum.unwrap_or(0.0) + v))
        .unwrap_or_else(|| panic!("no {name} in\n{text}"))
}
