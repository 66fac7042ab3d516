//! Proves how the page is served: compressed, under a sub-path, embedded or not, with a room's own title, and with a
//! 404 page that links to the lobby.

mod common;

use common::http::{Response, get, request};
use common::*;

const BROWSER: &str = "Accept: text/html,application/xhtml+xml\r\nAccept-Encoding: gzip, deflate, br\r\n";

fn gunzip(response: &Response) -> String {
    let mut text = String::new();
    let mut decoder = flate2::read::GzDecoder::new(&response.body[..]);
    std::io::Read::read_to_string(&mut decoder, &mut text).expect("a gzip file");
    text
}

/// The paths that the page itself refers to, and the page.
fn paths_of_the_page(instance: &Instance) -> Vec<String> {
    let html = get(instance.addr, "/").text();
    let named = html.split(" href=\"").chain(html.split(" src=\"")).filter_map(|part| part.split('"').next());
    let mut paths: Vec<String> = named.filter(|path| path.starts_with('/')).map(str::to_owned).collect();
    paths.sort();
    paths.dedup();
    paths.push("/".to_owned());
    paths
}

#[test]
fn the_whole_page_takes_thirty_kilobytes_compressed() {
    let instance = Instance::start(&[]);
    let mut sizes = Vec::new();
    for path in paths_of_the_page(&instance) {
        let plain = get(instance.addr, &path);
        let packed = request(instance.addr, "GET", &path, BROWSER);
        assert_eq!((plain.status, packed.status), (200, 200), "{path}");
        assert_eq!(packed.header("vary"), Some("Accept-Encoding"), "{path}");
        if packed.header("content-encoding").is_some() {
            assert_eq!(gunzip(&packed), plain.text(), "{path}");
            assert_ne!(packed.header("etag"), plain.header("etag"), "{path}: another body has another tag");
        }
        if !path.ends_with(".png") {
            sizes.push((packed.body.len(), path));
        }
    }
    let sum: usize = sizes.iter().map(|(size, _)| size).sum();
    assert!(sizes.len() >= 6 && sum <= 30_000, "{sum} bytes: {sizes:?}");
}

#[test]
fn every_answer_carries_the_security_headers() {
    let instance = Instance::start(&[]);
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/app.js"),
        ("GET", "/healthz"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/nowhere"),
        ("GET", "/r/No way"),
        ("GET", "/r/Team"),
        ("POST", "/"),
        ("GET", "/ws/lobby"),
        ("BREW", "/%zz"),
    ] {
        let response = request(instance.addr, method, path, "");
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(response.header(name), Some(value), "{method} {path}: {response:?}");
        }
        let policy = response.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("frame-ancestors 'none'"), "{method} {path}: {policy}");
        assert!(response.header("permissions-policy").is_some_and(|p| p.contains("camera=()")), "{method} {path}");
    }
}

#[test]
fn a_304_does_not_claim_a_length() {
    let instance = Instance::start(&[]);
    for path in ["/", "/app.js"] {
        let etag = get(instance.addr, path).header("etag").expect("an ETag").to_owned();
        let again = request(instance.addr, "GET", path, &format!("If-None-Match: {etag}\r\n"));
        assert_eq!((again.status, again.header("content-length")), (304, None), "{path}: {again:?}");
    }
}

#[test]
fn capitals_and_a_last_slash_lead_to_the_room() {
    let instance = Instance::start(&[]);
    for (path, room) in [("/r/Team", "/r/team"), ("/r/team/", "/r/team"), ("/r/TEAM-a_1//", "/r/team-a_1")] {
        let response = get(instance.addr, path);
        assert_eq!((response.status, response.header("location")), (308, Some(room)), "{path}");
    }
    // Scripts and other programs are redirected too, with their query. Browsers do not follow a WebSocket's redirect;
    // the line explains it.
    for (path, to) in [
        ("/r/Team?x=1&y", "/r/team?x=1&y"),
        ("/r/Team/messages?after=1-0", "/r/team/messages?after=1-0"),
        ("/r/team/messages/", "/r/team/messages"),
        ("/r/Team/alertmanager", "/r/team/alertmanager"),
        ("/ws/Team", "/ws/team"),
        ("/ws/team/?origin=x", "/ws/team?origin=x"),
    ] {
        let response = get(instance.addr, path);
        assert_eq!((response.status, response.header("location")), (308, Some(to)), "{path}");
        let address = to.split('?').next().expect("a path");
        assert_eq!(response.text(), format!("the address is {address}\n"));
    }
    for path in ["/r/Team/nowhere", "/ws/Team/messages", "/r//", "/ws/", "/r/No way/messages"] {
        assert_ne!(get(instance.addr, path).status, 308, "{path}");
    }
    let base = Instance::start(&[("BASE_PATH", "/chat/")]);
    assert_eq!(get(base.addr, "/chat?x=1").header("location"), Some("/chat/?x=1"));
    assert_eq!(get(base.addr, "/chat/ws/Team").header("location"), Some("/chat/ws/team"));
    assert_eq!(get(base.addr, "/chat/r/Team").header("location"), Some("/chat/r/team"));
    assert_eq!(get(base.addr, "/r/Team").header("location"), Some("/chat/r/team"), "where a proxy takes the path away");
    assert_eq!(get(base.addr, "/chat").header("location"), Some("/chat/"));
}

#[test]
fn an_address_that_is_none_has_a_page_with_a_way_out() {
    let instance = Instance::start(&[("BASE_PATH", "/chat")]);
    for path in ["/chat/nowhere", "/chat/r/", "/chat/r/no.way", "/chat/r/%3Cb%3E"] {
        let page = request(instance.addr, "GET", path, "Accept: text/html\r\n");
        assert_eq!(page.status, 404, "{path}");
        assert!(page.header("content-type").is_some_and(|kind| kind.starts_with("text/html")), "{path}");
        assert!(page.text().contains("href=\"/chat/\"") && !page.text().contains("<b>"), "{path}: {}", page.text());
        let line = get(instance.addr, path);
        assert_eq!((line.status, line.text().lines().count()), (404, 1), "a program gets one line: {path}");
        assert!(line.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")), "{path}");
    }
}

#[test]
fn a_link_to_a_room_shows_its_name_and_a_private_one_not_even_that() {
    let instance = Instance::start(&[("HISTORY_MESSAGES", "250"), ("HISTORY_DAYS", "7")]);
    let page = get(instance.addr, "/r/garden");
    let html = page.text();
    assert!(html.contains("<meta property=\"og:title\" content=\"#garden · Bobbin\">"), "{html}");
    assert!(html.contains("<title>#garden · Bobbin</title>"), "{html}");
    assert!(html.contains("data-access=\"open\" data-kept=\"250\" data-days=\"7\""), "{html}");
    assert_eq!(page.header("x-robots-tag"), None);
    assert_eq!(html, gunzip(&request(instance.addr, "GET", "/r/garden", BROWSER)));
    assert_ne!(page.header("etag"), get(instance.addr, "/").header("etag"));
    let private = get(instance.addr, "/r/private-abcdefghijklmnopqrst2345");
    assert!(private.text().contains("<meta name=\"robots\" content=\"noindex, nofollow\">"));
    assert!(!private.text().contains("abcdefghijklmnopqrst2345"));
    assert!(private.header("x-robots-tag").is_some_and(|tag| tag.contains("noindex")));
    let closed = Instance::start(&[("PASSPHRASE", "open sesame")]);
    assert!(get(closed.addr, "/").text().contains("data-access=\"passphrase\""));
}

#[test]
fn under_a_sub_path_everything_is_found_with_and_without_it() {
    let instance = Instance::start(&[("BASE_PATH", "/chat")]);
    let html = get(instance.addr, "/chat/r/garden").text();
    assert!(html.contains("src=\"/chat/app.js\"") && !html.contains("\"/app.js"), "{html}");
    for path in ["/", "/r/garden", "/app.js", "/manifest.webmanifest", "/healthz", "/metrics"] {
        assert_eq!(get(instance.addr, path).status, 200, "{path}");
        assert_eq!(get(instance.addr, &format!("/chat{path}")).status, 200, "/chat{path}");
    }
    assert_eq!(get(instance.addr, "/chatter").status, 404);
    assert_eq!(get(instance.addr, "/chat/ws/lobby").status, 426);
}

#[test]
fn who_may_embed_the_page_is_a_setting() {
    let instance = Instance::start(&[("FRAME_ANCESTORS", "'self'  https://club.example")]);
    for path in ["/", "/app.js"] {
        let response = get(instance.addr, path);
        let policy = response.header("content-security-policy").unwrap_or_default();
        assert!(policy.ends_with("; frame-ancestors 'self' https://club.example"), "{path}: {policy}");
    }
    assert!(
        get(instance.addr, "/healthz")
            .header("content-security-policy")
            .is_some_and(|p| p.contains("ancestors 'none'"))
    );
}

#[test]
fn a_page_is_told_why_its_upgrade_is_refused() {
    let instance = Instance::start(&[("MAX_CONNECTIONS", "1")]);
    let ask = |origin: &str| {
        let response = get(instance.addr, &format!("/ws/lobby?origin={origin}"));
        (response.status, response.text())
    };
    let own = "http://test"; // matches the Host of these tests
    assert_eq!(ask(own).0, 426, "nothing is in the way");
    let (status, line) = ask("https://chat.example");
    assert!(
        status == 403 && line.contains("https://chat.example") && line.contains("ALLOWED_ORIGINS"),
        "{status} {line}"
    );
    let _taken = Client::join(instance.addr, "lobby", "Ada");
    let (status, line) = ask(own);
    assert!(status == 503 && line.contains("all connections are in use"), "{status} {line}");
}

#[test]
fn a_page_is_told_that_its_address_is_over_a_limit() {
    let instance = Instance::start(&[("ADDRESS_CONNECTIONS", "1")]);
    let behind = |number: u8| format!("X-Forwarded-For: 203.0.113.{number}\r\n");
    let _held = Client::upgrade(instance.addr, "lobby", &behind(1)).expect("the first connection");
    let ask = |number| request(instance.addr, "GET", "/ws/lobby?origin=http://test", &behind(number));
    let refusal = ask(1);
    assert_eq!((refusal.status, refusal.text().trim()), (429, "too many connections from this address"));
    assert!(refusal.header("retry-after").is_some_and(|seconds| seconds.parse::<u64>().is_ok()), "{refusal:?}");
    assert_eq!(ask(2).status, 426, "nothing is in the way of others");
}
