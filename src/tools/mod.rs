//! Everything besides serving: the admin subcommands and `export`, which work over HTTP, `--check`, and `--import`.

pub mod check;
pub mod import;

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::settings::tools::{Tool, ToolCall};

/// Timeout of one request. Removing all messages of one client from a long log takes some seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Messages per request of `export`.
const PAGE: usize = 500;

/// Pause after a response with status 429 or 503, and how often in a row a 503 is tried again.
const PAUSE: Duration = Duration::from_secs(1);
const RETRIES: u32 = 10;

/// Why a subcommand failed.
#[derive(Debug)]
pub enum ToolError {
    /// The server refused: the status and the reason.
    Refused(u16, String),
    /// The server is unreachable, or its response is not valid HTTP.
    Http(ureq::Error),
    /// The output cannot be written.
    Output(io::Error),
    /// The response is not in Bobbin's format.
    NotBobbin,
}

impl fmt::Display for ToolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ToolError::Refused(401, _) => f.write_str(
                "refused: set ADMIN_TOKEN or ADMIN_TOKEN_FILE to the server's value; for an export, PASSPHRASE may do",
            ),
            ToolError::Refused(status, why) => write!(f, "refused with {status}: {}", why.trim()),
            ToolError::Http(error) => write!(f, "can't reach the server: {error}"),
            ToolError::Output(error) => write!(f, "can't write: {error}"),
            ToolError::NotBobbin => f.write_str("this is not a Bobbin server; check --url"),
        }
    }
}

impl std::error::Error for ToolError {}

impl From<ureq::Error> for ToolError {
    fn from(error: ureq::Error) -> ToolError {
        ToolError::Http(error)
    }
}

impl From<io::Error> for ToolError {
    fn from(error: io::Error) -> ToolError {
        ToolError::Output(error)
    }
}

/// Sends the request and prints the response.
///
/// # Errors
/// [`ToolError`].
pub fn run(call: &ToolCall, output: &mut impl Write) -> Result<(), ToolError> {
    let server = Server { agent: agent(&call.url), call };
    let rooms = |room: &str, rest: &str| format!("/admin/rooms/{room}{rest}");
    match &call.tool {
        Tool::Export(room) => export(&server, room, output),
        Tool::Rooms => print(&server.get("/admin/rooms")?, output),
        Tool::People(room) => print(&server.get(&rooms(room, ""))?, output),
        Tool::Bans => print(&server.get("/admin/bans")?, output),
        Tool::Remove(Some(room), which) => print(&server.delete(&rooms(room, &format!("/messages{which}")))?, output),
        Tool::Remove(None, which) => remove_everywhere(&server, which, output),
        Tool::Lift(whom) => print(&server.delete(&format!("/admin/bans/{whom}"))?, output),
        Tool::Ban(whom, minutes) => {
            let key = if whom.contains(['.', ':']) { "address" } else { "by" };
            print(&server.post("/admin/bans", &json!({ key: whom, "minutes": minutes }))?, output)
        }
    }
}

/// Prints a list as one line per element, without the object around it.
fn print(text: &str, output: &mut impl Write) -> Result<(), ToolError> {
    let value: Value = serde_json::from_str(text).map_err(|_| ToolError::NotBobbin)?;
    let people = value.get("people").filter(|people| people.is_array());
    match people.unwrap_or(&value) {
        Value::Array(items) => items.iter().try_for_each(|item| writeln!(output, "{item}"))?,
        other => writeln!(output, "{other}")?,
    }
    Ok(())
}

/// Removes messages in all rooms, and prints how many there were.
fn remove_everywhere(server: &Server<'_>, which: &str, output: &mut impl Write) -> Result<(), ToolError> {
    let parse = |text: String| serde_json::from_str::<Value>(&text).map_err(|_| ToolError::NotBobbin);
    let rooms = parse(server.get("/admin/rooms")?)?;
    let (mut removed, mut found) = (0, 0);
    for room in rooms.as_array().ok_or(ToolError::NotBobbin)? {
        let room = room["room"].as_str().ok_or(ToolError::NotBobbin)?;
        let path = format!("/admin/rooms/{room}/messages{which}");
        let count = parse(patiently(|| server.delete(&path))?)?["removed"].as_u64().ok_or(ToolError::NotBobbin)?;
        removed += count;
        found += u64::from(count > 0);
    }
    Ok(writeln!(output, "{}", json!({ "removed": removed, "rooms": found }))?)
}

/// Asks again if there were too many requests from this address, and a few times if the server is busy.
fn patiently(ask: impl Fn() -> Result<String, ToolError>) -> Result<String, ToolError> {
    let mut busy = 0;
    loop {
        match ask() {
            Err(ToolError::Refused(status @ (429 | 503), _)) if status == 429 || busy < RETRIES => {
                busy += u32::from(status == 503);
                std::thread::sleep(PAUSE);
            }
            answer => return answer,
        }
    }
}

/// Prints the whole log, page by page.
fn export(server: &Server<'_>, room: &str, output: &mut impl Write) -> Result<(), ToolError> {
    let mut after = "0-0".to_owned();
    loop {
        let page = patiently(|| server.get(&format!("/r/{room}/messages?after={after}&limit={PAGE}")))?;
        let Some(last) = page.lines().last() else { break };
        let last: Value = serde_json::from_str(last).map_err(|_| ToolError::NotBobbin)?;
        after = last["id"].as_str().ok_or(ToolError::NotBobbin)?.to_owned();
        output.write_all(page.as_bytes())?;
    }
    Ok(output.flush()?)
}

struct Server<'a> {
    agent: Agent,
    call: &'a ToolCall,
}

impl Server<'_> {
    fn get(&self, path: &str) -> Result<String, ToolError> {
        answer(self.agent.get(self.url(path)).header("Authorization", self.authorization()).call()?)
    }

    fn delete(&self, path: &str) -> Result<String, ToolError> {
        answer(self.agent.delete(self.url(path)).header("Authorization", self.authorization()).call()?)
    }

    fn post(&self, path: &str, body: &Value) -> Result<String, ToolError> {
        let request = self.agent.post(self.url(path)).header("Authorization", self.authorization());
        answer(request.content_type("application/json").send(body.to_string())?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.call.url)
    }

    fn authorization(&self) -> String {
        format!("Bearer {}", self.call.token.as_deref().unwrap_or_default())
    }
}

fn answer(mut response: Response<ureq::Body>) -> Result<String, ToolError> {
    let text = response.body_mut().read_to_string()?;
    let status = response.status();
    if status.is_success() { Ok(text) } else { Err(ToolError::Refused(status.as_u16(), text)) }
}

/// An HTTP client that trusts the system's certificate authorities. It does not follow redirects, which would leak the
/// token.
fn agent(url: &str) -> Agent {
    let mut tls = TlsConfig::builder();
    if url.starts_with("https://") {
        // Fails only if a provider is already installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let found = rustls_native_certs::load_native_certs().certs;
        let roots: Vec<_> = found.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    let config = Agent::config_builder().http_status_as_error(false).max_redirects(0).timeout_global(Some(TIMEOUT));
    config.user_agent("bobbin").tls_config(tls.build()).build().into()
}
