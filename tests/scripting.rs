//! Runs the examples of docs/scripting.md verbatim against a real server.

mod common;

use common::*;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const TOKEN: &str = "a-token-of-the-tests-1";

/// The first block of this language below this heading.
#[track_caller]
fn example(heading: &str, language: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scripting.md");
    let text = std::fs::read_to_string(path).expect("docs/scripting.md");
    let (_, section) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no {heading}"));
    let (_, block) = section.split_once(&format!("```{language}\n")).unwrap_or_else(|| panic!("no {language}"));
    block.split_once("\n```").expect("it ends").0.to_owned()
}

/// A program that is ended with the test.
struct Bot(Child);

impl Drop for Bot {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn chat(instance: &Instance) -> String {
    format!("http://{}", instance.addr)
}

/// A bot does not answer what its first `welcome` holds, and it appears in the room's list before its `welcome` arrives. So
/// the question is repeated until there is an answer.
fn ask_until_answered(client: &mut Client, question: &str, is_answer: impl Fn(&Value) -> bool) {
    poll_until("an answer", PATIENCE, || {
        client.say(question);
        client.take(std::time::Duration::from_millis(500)).iter().any(&is_answer)
    });
}

/// Posts a text as a script and returns the status.
fn post(instance: &Instance, room: &str, token: &str) -> u16 {
    let mut connection = http::Connection::open(instance.addr);
    let headers = format!("Host: test\r\nAuthorization: Bearer {token}\r\nContent-Length: 2");
    connection.write(format!("POST /r/{room}/messages HTTP/1.1\r\n{headers}\r\n\r\nhi"));
    connection.response(false).status
}

#[test]
fn the_file_with_tokens_is_accepted() {
    let file = std::env::temp_dir().join(unique("bobbin-tokens"));
    let lines = example("Tokens", "");
    std::fs::write(&file, &lines).expect("a small file");
    let instance = Instance::start(&[("POST_TOKENS_FILE", file.to_str().expect("a plain path"))]);
    let _ = std::fs::remove_file(&file);
    for (script, room, status) in [
        ("Deploy Bot", "lobby", 201),
        ("Deploy Bot", "tea", 403),
        ("Alertmanager", "ops", 201),
        ("Alertmanager", "lobby", 403),
        ("Archive", "tea", 201),
    ] {
        let line = lines.lines().find(|line| line.starts_with(script)).expect(script);
        let token = line.split_whitespace().nth_back(1).expect("a token");
        assert_eq!(post(&instance, room, token), status, "{script} in {room}");
    }
    assert!(http::get(instance.addr, "/r/lobby/messages").text().contains("\"name\":\"Deploy Bot\""));
}

#[test]
fn the_deploy_notice_is_posted_once() {
    let instance = Instance::start(&[("POST_TOKEN", TOKEN)]);
    let mut ada = Client::join(instance.addr, "ops", "Ada");
    let script = example("A deploy notice", "sh");
    for _ in 0..2 {
        let mut sh = Command::new("sh");
        sh.args(["-euc", &script]).env("CHAT", chat(&instance)).env("ROOM", "ops");
        let output = sh.env("POST_TOKEN", TOKEN).env("VERSION", "v1.2").output().expect("a shell");
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains("\"id\""), "{output:?}");
    }
    let notice = ada.until("the notice", |frame| frame["type"] == "message");
    assert_eq!((&notice["name"], &notice["text"]), (&json!("Deploy"), &json!("v1.2 is live")));
    assert_eq!(http::get(instance.addr, "/r/ops/messages").text().lines().count(), 1);
}

#[test]
fn the_bot_in_a_shell_answers() {
    let instance = Instance::start(&[("POST_TOKEN", TOKEN)]);
    let mut ada = Client::join(instance.addr, "tea", "Ada");
    ada.say("!time");
    let mut sh = Command::new("sh");
    sh.args(["-c", &example("A bot in a shell", "sh")]).env("CHAT", chat(&instance)).env("ROOM", "tea");
    let _bot = Bot(sh.env("POST_TOKEN", TOKEN).spawn().expect("a shell"));
    ask_until_answered(&mut ada, "!time", |answer| {
        answer["text"].as_str().is_some_and(|text| text.starts_with("It is "))
    });
}

#[test]
fn the_bot_in_python_comes_back_misses_nothing_and_says_nothing_twice() {
    let redis = Redis::durable();
    let port = common::redis::free_port().to_string();
    let mut first = Instance::on(&redis, &[("PORT", &port)]);
    // No proxy is needed: the second instance takes the first one's port.
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python");
    let mut bot = Command::new(python);
    bot.args(["-"]).env("CHAT", chat(&first)).env("ROOM", "tea").stdin(Stdio::piped());
    let mut bot = Bot(bot.spawn().expect("Python with websockets (tests/setup.sh)"));
    bot.0
        .stdin
        .take()
        .expect("it is piped")
        .write_all(example("A bot in Python", "python").as_bytes())
        .expect("Python");
    let mut ada = Client::join(first.addr, "tea", "Ada");
    ask_until_answered(&mut ada, "!echo hello", |answer| answer["text"] == "hello" && answer["name"] == "Echo");
    ada.say("!echo one");
    ada.until("its echo", |frame| frame["text"] == "one" && frame["name"] == "Echo");

    // The question is sent while it is away: it answers when it is back.
    first.kill();
    let other = Instance::on(&redis, &[]);
    let mut ada = Client::back(other.addr, "tea", "Ada", &ada.secret.clone(), None);
    ada.say("!echo two");
    let second = Instance::on(&redis, &[("PORT", &port)]);
    ada.until("its echo", |frame| frame["text"] == "two" && frame["name"] == "Echo");
    ada.say("!echo three");
    ada.until("its echo", |frame| frame["text"] == "three" && frame["name"] == "Echo");
    let log = http::get(second.addr, "/r/tea/messages").text();
    let said = |text: &str| log.lines().filter(|line| line.contains(&format!("\"text\":\"{text}\""))).count();
    assert_eq!((said("one"), said("two"), said("three")), (1, 1, 1), "{log}");
}
