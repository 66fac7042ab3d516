//! Formats the figures as tables for both terminals and Markdown.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::process::{meminfo, version};

/// The machine and the versions behind the figures.
pub fn about(quick: bool) -> Value {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let peers = concat!(env!("CARGO_MANIFEST_DIR"), "/peers");
    let npm = |peer: &str, package: &str| {
        let lock = std::fs::read(format!("{peers}/{peer}/package-lock.json")).unwrap_or_default();
        let lock: Value = serde_json::from_slice(&lock).unwrap_or_default();
        lock["packages"][format!("node_modules/{package}")]["version"].as_str().unwrap_or("–").to_owned()
    };
    let axum = std::fs::read_to_string(format!("{peers}/axum/Cargo.lock")).unwrap_or_default();
    let crate_version = |name: &str| {
        let entry = axum.split_once(&format!("name = \"{name}\"\nversion = \"")).map(|(_, rest)| rest);
        entry.and_then(|rest| rest.split('"').next()).unwrap_or("–").to_owned()
    };
    json!({
        "date": version("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
        "mode": if quick { "quick" } else { "full" },
        "machine": format!(
            "{}, {} cores, {} GB, Linux {}",
            model.map_or("–", |(_, model)| model),
            std::thread::available_parallelism().map_or(0, usize::from),
            meminfo("MemTotal") >> 20,
            version("uname", &["-r"]),
        ),
        "bobbin": version("git", &["describe", "--always", "--dirty"]),
        "rustc": version("rustc", &["--version"]),
        "redis": version("redis-server", &["--version"]),
        "node": version("node", &["--version"]),
        "socket.io": npm("socketio", "socket.io"),
        "@socket.io/redis-adapter": npm("socketio", "@socket.io/redis-adapter"),
        "bun": npm("uws", "bun"),
        "axum": crate_version("axum"),
        "tokio": crate_version("tokio"),
    })
}

/// All tables for which there are figures.
pub fn tables(results: &Value) -> String {
    let mut out = String::new();
    let about = results["about"].as_object().cloned().unwrap_or_default();
    let about: Vec<String> = about.iter().map(|(key, value)| format!("{key} {}", plain(value))).collect();
    let _ = writeln!(out, "\n{}\n", about.join(" · "));
    let taken: Vec<String> = (results["taken"].as_object().into_iter().flatten())
        .map(|(run, when)| format!("{run}: {}", plain(when)))
        .collect();
    let _ = writeln!(out, "Runs and their dates: {}\n", taken.join(" · "));
    for (key, run) in results.as_object().into_iter().flatten() {
        if let Some(failed) = run["failed"].as_str() {
            let _ = writeln!(out, "{key} FAILED: {failed}\n");
            continue;
        }
        match key.as_str() {
            "fanout" => fanout(&mut out, run),
            "sweep" => sweep(&mut out, run),
            "memory" => memory(&mut out, run),
            "containers" => containers(&mut out, run),
            "stacks" => stacks(&mut out, run),
            "scripts" => scripts(&mut out, run),
            "small" => small(&mut out, run),
            "hops" => hops(&mut out, run),
            "kept" => {
                let title =
                    format!("Saturated: {} rooms of {}, {} in flight", run["rooms"], run["each"], run["in_flight"]);
                by_server(&mut out, &title, &run["servers"], KEPT);
            }
            "large" => {
                by_server(&mut out, &format!("{} clients into one room", run["clients"]), &run["servers"], LARGE);
            }
            "idle" => {
                let title = format!("{} silent rooms of {}, for {} s", run["rooms"], run["each"], run["seconds"]);
                by_server(&mut out, &title, &run["servers"], IDLE);
            }
            "rush" => {
                let title = format!(
                    "{} joins per second into {} rooms, for {} s",
                    run["joins_per_s"], run["rooms"], run["seconds"]
                );
                by_server(&mut out, &title, &run["servers"], RUSH);
            }
            "about" | "taken" => {}
            _ => {
                let _ = writeln!(out, "### {key}\n");
                let mut rows = Vec::new();
                flat("", run, &mut rows);
                table(&mut out, &["", "figure"], &rows);
            }
        }
    }
    out
}

fn fanout(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### {} clients in one room, {} bytes\n", run["clients"], run["bytes"]);
    let servers = &run["servers"];
    let bobbin = &servers["bobbin"];
    let ratio = |other: &Value, key: &str, of: &Value| match (of[key].as_f64(), other[key].as_f64()) {
        (Some(of), Some(other)) if other > 0.0 => format!("{:.2}", of / other),
        _ => "–".to_owned(),
    };
    let rows: Vec<Vec<String>> = servers
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, server)| {
            let saturated = &server["saturated"];
            let all = server["every_delivery"] == true && saturated["every_delivery"] == true;
            vec![
                label(name),
                plain(&server["cpu_us"]),
                ratio(server, "cpu_us", bobbin),
                milliseconds(&server["p50_us"]),
                milliseconds(&server["p99_us"]),
                milliseconds(&server["max_us"]),
                plain(&saturated["deliveries_per_s"]),
                ratio(saturated, "deliveries_per_s", &bobbin["saturated"]),
                plain(&saturated["cpu_us"]),
                plain(&server["redis_us_per_message"]),
                plain(&server["generator_us"]),
                if all { "yes" } else { "NO" }.to_owned(),
            ]
        })
        .collect();
    let head = [
        "server",
        "CPU µs per delivery",
        "Bobbin's share",
        "p50 ms",
        "p99 ms",
        "max ms",
        "deliveries/s saturated",
        "Bobbin's multiple",
        "CPU µs saturated",
        "Redis µs per message",
        "load's CPU µs",
        "every delivery",
    ];
    table(out, &head, &rows);
}

/// A column: its heading, the path of its figure (separated by dots), and whether microseconds are shown as
/// milliseconds.
type Column = (&'static str, &'static str, bool);

const KEPT: &[Column] = &[
    ("messages/s", "messages_per_s", false),
    ("server µs per message", "server_us_per_message", false),
    ("Redis µs per message", "redis_us_per_message", false),
    ("p50 ms", "p50_us", true),
    ("p99 ms", "p99_us", true),
    ("every delivery", "every_delivery", false),
];
const LARGE: &[Column] = &[
    ("all in, s", "connect_s", false),
    ("server CPU s", "connect_server_cpu_s", false),
    ("Redis CPU s", "connect_redis_cpu_s", false),
    ("to all: p50 ms", "to_all_p50_us", true),
    ("to all: p99 ms", "to_all_p99_us", true),
    ("CPU µs per delivery", "cpu_us", false),
    ("deliveries/s saturated", "saturated.deliveries_per_s", false),
    ("every delivery", "every_delivery", false),
    ("failed", "failed", false),
];
const IDLE: &[Column] = &[
    ("server, % of a core", "server_percent", false),
    ("Redis, % of a core", "redis_percent", false),
    ("held", "held", false),
];
const RUSH: &[Column] = &[
    ("joined", "joined", false),
    ("in s", "took_s", false),
    ("refused", "refused_or_lost", false),
    ("join p50 ms", "join_p50_us", true),
    ("join p99 ms", "join_p99_us", true),
    ("server µs per join", "server_us_per_join", false),
    ("Redis µs per join", "redis_us_per_join", false),
    ("calm room p50 ms", "calm.p50_us", true),
    ("calm room p99 ms", "calm.p99_us", true),
];

fn by_server(out: &mut String, title: &str, servers: &Value, columns: &[Column]) {
    let _ = writeln!(out, "### {title}\n");
    let cell = |server: &Value, (_, path, is_time): &Column| {
        let value = path.split('.').fold(server, |value, key| &value[key]);
        if *is_time { milliseconds(value) } else { plain(value) }
    };
    let rows = servers.as_object().into_iter().flatten().map(|(name, server)| {
        std::iter::once(label(name)).chain(columns.iter().map(|column| cell(server, column))).collect()
    });
    let head: Vec<&str> = std::iter::once("server").chain(columns.iter().map(|column| column.0)).collect();
    table(out, &head, &rows.collect::<Vec<_>>());
}

/// One table per figure: a row per town and rate, a column per server.
fn small(out: &mut String, run: &Value) {
    let servers: Vec<(&String, &Value)> = run.as_object().into_iter().flatten().collect();
    let points = servers.first().and_then(|(_, points)| points.as_array()).cloned().unwrap_or_default();
    let names: Vec<String> = servers.iter().map(|(name, _)| label(name)).collect();
    let head: Vec<&str> =
        ["rooms", "people in each", "messages/s in all"].into_iter().chain(names.iter().map(String::as_str)).collect();
    for (title, key, is_time) in [
        ("server and Redis, CPU µs per message", "both_us_per_message", false),
        ("server, CPU µs per message", "server_us_per_message", false),
        ("Redis, CPU µs per message", "redis_us_per_message", false),
        ("p50, ms", "p50_us", true),
        ("p99, ms", "p99_us", true),
    ] {
        let _ = writeln!(out, "### Small rooms: {title}\n");
        let cell = |point: &Value| match (point[key].as_f64(), point["every_delivery"] == true) {
            (_, false) => "lost some".to_owned(),
            (Some(us), _) if is_time => format!("{:.2}", us / 1000.0),
            _ => plain(&point[key]),
        };
        let rows = points.iter().enumerate().map(|(number, point)| {
            let town = ["rooms", "each", "messages_per_s"].map(|key| plain(&point[key]));
            town.into_iter().chain(servers.iter().map(|(_, points)| cell(&points[number]))).collect()
        });
        table(out, &head, &rows.collect::<Vec<_>>());
    }
}

fn hops(out: &mut String, run: &Value) {
    let _ = writeln!(
        out,
        "### Per message, {} one by one in a room of {}\n",
        plain(&run["messages"]),
        plain(&run["clients"])
    );
    let all =
        |calls: &Value| -> f64 { calls.as_object().into_iter().flatten().filter_map(|call| call.1.as_f64()).sum() };
    let which = |calls: &Value| {
        let mut calls: Vec<(&String, f64)> =
            calls.as_object().into_iter().flatten().filter_map(|(name, count)| Some((name, count.as_f64()?))).collect();
        calls.sort_by(|one, other| other.1.total_cmp(&one.1));
        let calls = calls.iter().filter(|(_, count)| *count >= 0.1);
        calls.map(|(name, count)| format!("{name} {count:.1}")).collect::<Vec<_>>().join(", ")
    };
    let rows = run["servers"].as_object().into_iter().flatten().map(|(name, server)| {
        vec![
            label(name),
            format!("{:.1}", all(&server["server_calls"])),
            plain(&server["server_switches"]),
            format!("{:.1}", all(&server["redis_calls"])),
            plain(&server["redis_switches"]),
            plain(&server["both_us_per_message"]),
            milliseconds(&server["p50_us"]),
            plain(&server["every_delivery"]),
            which(&server["server_calls"]),
        ]
    });
    let head = [
        "server",
        "system calls",
        "context switches",
        "Redis's calls",
        "Redis's switches",
        "CPU µs, both",
        "p50 ms",
        "every delivery",
        "the server's calls",
    ];
    table(out, &head, &rows.collect::<Vec<_>>());
}

fn sweep(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### Server CPU µs per delivery, by clients in the room\n");
    let servers: Vec<(&String, &Value)> = run.as_object().into_iter().flatten().collect();
    let points = servers.first().and_then(|(_, points)| points.as_array()).cloned().unwrap_or_default();
    let mut head = vec!["server".to_owned()];
    head.extend(points.iter().map(|point| plain(&point["clients"])));
    let rows: Vec<Vec<String>> = servers
        .iter()
        .map(|(name, points)| {
            let costs = points.as_array().into_iter().flatten().map(|point| plain(&point["cpu_us"]));
            std::iter::once(label(name)).chain(costs).collect()
        })
        .collect();
    table(out, &head.iter().map(String::as_str).collect::<Vec<_>>(), &rows);
}

fn memory(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### Memory of idle connections\n");
    let rows: Vec<Vec<String>> = run
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, server)| {
            let (each, last) = (&server["each"], server["points"].as_array().and_then(|points| points.last()));
            let megabytes = |key: &str| {
                last.and_then(|last| last[key].as_f64()).map_or("–".to_owned(), |kb| format!("{:.0}", kb / 1024.0))
            };
            vec![
                label(name),
                plain(&server["connected"]),
                plain(&server["connect_s"]),
                megabytes("rss_kb"),
                megabytes("with_kernel_stacks_kb"),
                plain(&each["rss_kb"]),
                plain(&each["kernel_stack_kb"]),
                plain(&each["page_tables_kb"]),
                plain(&each["slab_of_both_ends_kb"]),
            ]
        })
        .collect();
    let head = [
        "server",
        "connections",
        "connected in s",
        "resident MB",
        "with kernel stacks MB",
        "resident kB each",
        "kernel stack kB each",
        "page tables kB each",
        "slab kB each, both ends",
    ];
    table(out, &head, &rows);
}

fn containers(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### One instance by container size\n");
    let row = |size: &Value| {
        let (fifty, ten) = (&size["rooms_of_50"], &size["rooms_of_10"]);
        vec![
            plain(&size["cpus"]),
            plain(&size["megabytes"]),
            plain(&size["connections"]),
            plain(&size["memory_peak_mb"]),
            plain(&size["joins_per_s"]),
            plain(&fifty["deliveries_per_s"]),
            plain(&fifty["p99_ms_there"]),
            plain(&ten["deliveries_per_s"]),
            plain(&ten["p99_ms_there"]),
            plain(&size["why"]),
        ]
    };
    let rows: Vec<Vec<String>> = run.as_array().into_iter().flatten().map(row).collect();
    let head = [
        "vCPU",
        "MB",
        "connections held",
        "peak MB",
        "joins/s",
        "deliveries/s, rooms of 50",
        "p99 ms there",
        "deliveries/s, rooms of 10",
        "p99 ms there",
        "what ended it",
    ];
    table(out, &head, &rows);
}

fn scripts(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### Redis alone: CPU per message, 64 in flight\n");
    let figures = |value: &Value| {
        ["redis_us_per_message", "least_us", "messages_per_s_and_core"].map(|key| plain(&value[key])).to_vec()
    };
    let rows = run.as_object().into_iter().flatten();
    let rows: Vec<Vec<String>> = rows.map(|(name, value)| [vec![name.clone()], figures(value)].concat()).collect();
    table(out, &["commands", "Redis's CPU µs", "least of the rounds", "messages/s per core"], &rows);
}

fn stacks(out: &mut String, run: &Value) {
    let _ = writeln!(out, "### Stack touched so far, by kind of thread\n");
    let mut rows = Vec::new();
    for (path, threads) in run.as_object().into_iter().flatten() {
        for (name, stack) in threads.as_object().into_iter().flatten() {
            // The other threads do not depend on what clients do.
            if !path.ends_with("idle sessions") && name != "conn" {
                continue;
            }
            let figures = ["threads", "reserved_kb", "touched_kb_mean", "touched_kb_most"];
            let figures = figures.iter().map(|key| plain(&stack[*key]));
            rows.push([path.clone(), name.clone()].into_iter().chain(figures).collect());
        }
    }
    table(out, &["after", "thread", "threads", "reserved kB", "touched kB, mean", "touched kB, most"], &rows);
}

/// Flattens all figures into rows of path and value.
fn flat(path: &str, value: &Value, rows: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                let path = if path.is_empty() { key.clone() } else { format!("{path} · {key}") };
                flat(&path, value, rows);
            }
        }
        value => rows.push(vec![path.replace('_', " "), plain(value)]),
    }
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([head[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (cell, width) in cells.zip(&widths) {
            let _ = write!(out, "| {cell:width$} ");
        }
        let _ = writeln!(out, "|");
    };
    line(&mut head.iter().copied());
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&mut rules.iter().map(String::as_str));
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out.push('\n');
}

/// A server's display name.
pub fn label(name: &str) -> String {
    match name {
        "bobbin" => "Bobbin, through Redis",
        "before" => "Bobbin before",
        "before-local" => "Bobbin before, in memory",
        "local" => "Bobbin, in memory",
        "file" => "Bobbin, on a file",
        "uws" => "uWebSockets (Bun)",
        "axum" => "axum + tokio",
        "socket.io" => "socket.io 4",
        "floor" => "floor: bare send(2)",
        "threads" => "floor with a thread per connection, through Redis",
        "threads-alone" => "floor with a thread per connection",
        other => other,
    }
    .to_owned()
}

fn milliseconds(microseconds: &Value) -> String {
    microseconds.as_f64().map_or("–".to_owned(), |value| format!("{:.1}", value / 1000.0))
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        Value::Number(number) => match number.as_f64() {
            Some(value) if value.fract() == 0.0 && value.abs() >= 10_000.0 => thousands(value as i64),
            Some(value) => format!("{}", (value * 100.0).round() / 100.0),
            None => number.to_string(),
        },
        other => other.to_string(),
    }
}

fn thousands(value: i64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
