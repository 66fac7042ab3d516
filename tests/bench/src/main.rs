//! Measures Bobbin beside its peers on this machine, prints tables, writes the figures as JSON and plots them. Run by
//! `make bench`; `--help` lists the options.

mod crowd;
mod dialect;
mod door;
mod floor;
mod hops;
mod ledger;
mod meter;
mod peers;
mod plot;
mod process;
mod report;
mod runs;
mod scripts;
mod small;
mod stacks;
mod threads;
mod ws;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};

const HELP: &str = "\
Measures Bobbin beside its peers, on this machine only.

  --quick          small sizes, without the server on a file, under three minutes
  --only A,B       only these runs: scripts, fanout, small, kept, large, memory, rooms, start, and, which --quick
                   leaves out, joins, stacks, hops, idle, rush, sweep, slow, containers; the other figures in the
                   folder stay as they are
  --servers A,B    only these servers: bobbin (through Redis), local (the same without Redis), file (with DATA_FILE),
                   socket.io, axum, uws, floor, and only if named here threads and
                   threads-alone (a bare thread per connection, through Redis and without)
  --bobbin PATH    the binary to measure (default: target/release/bobbin)
  --before PATH    another build of it, measured in the same runs as `before`
  --out FOLDER     where the figures and the plots go (default: tests/bench/results, with --quick target/bench/quick)
  --doc FILE       put the tables into this Markdown file, between its lines <!-- tables --> and <!-- /tables -->
  --draw FILE      no run: print and draw the figures of this file
";

/// All runs; `--quick` makes the first `QUICK`.
const RUNS: [&str; 16] = [
    "scripts",
    "fanout",
    "small",
    "kept",
    "large",
    "memory",
    "rooms",
    "start",
    "joins",
    "stacks",
    "hops",
    "idle",
    "rush",
    "sweep",
    "slow",
    "containers",
];
const QUICK: usize = 8;

/// Marks the place of the tables in a Markdown file.
const BEGIN: &str = "<!-- tables -->";
const END: &str = "<!-- /tables -->";

struct Options {
    quick: bool,
    only: Vec<String>,
    /// Whether `only` was given.
    some: bool,
    servers: Vec<String>,
    bobbin: PathBuf,
    before: Option<PathBuf>,
    out: Option<PathBuf>,
    doc: Option<PathBuf>,
    draw: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.first().map(String::as_str) {
        Some("--help") => {
            print!("{HELP}");
            Ok(())
        }
        Some("floor") => floor::serve(),
        Some("threads") => threads::serve(true),
        Some("threads-alone") => threads::serve(false),
        _ => options(arguments).and_then(bench),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: Vec<String>) -> io::Result<Options> {
    let mut options = Options {
        quick: false,
        only: Vec::new(),
        some: false,
        servers: Vec::new(),
        bobbin: PathBuf::from("target/release/bobbin"),
        before: None,
        out: None,
        doc: None,
        draw: None,
    };
    let mut arguments = arguments.into_iter();
    while let Some(option) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| io::Error::other(format!("{option} takes a value")));
        let list = |value: String| value.split(',').map(str::to_owned).collect();
        match option.as_str() {
            "--quick" => options.quick = true,
            "--only" => (options.only, options.some) = (list(value()?), true),
            "--servers" => options.servers = list(value()?),
            "--bobbin" => options.bobbin = value()?.into(),
            "--before" => options.before = Some(value()?.into()),
            "--out" => options.out = Some(value()?.into()),
            "--doc" => options.doc = Some(value()?.into()),
            "--draw" => options.draw = Some(value()?.into()),
            other => return Err(io::Error::other(format!("{other} is no option; --help lists them"))),
        }
    }
    if let Some(unknown) = options.only.iter().find(|run| !RUNS.contains(&run.as_str())) {
        return Err(io::Error::other(format!("{unknown} is no run; --help lists them")));
    }
    if options.servers.is_empty() {
        let left_out = |name: &str| name.starts_with("threads") || options.quick && name == "file";
        let all = peers::NAMES.into_iter().filter(|name| !left_out(name));
        options.servers = all.map(str::to_owned).collect();
    }
    if options.only.is_empty() {
        let runs = if options.quick { &RUNS[..QUICK] } else { &RUNS };
        options.only = runs.iter().map(|run| (*run).to_owned()).collect();
    }
    Ok(options)
}

fn bench(options: Options) -> io::Result<()> {
    let default = if options.quick { "target/bench/quick" } else { "tests/bench/results" };
    let out = options.out.clone().unwrap_or_else(|| default.into());
    let results = match &options.draw {
        Some(file) => serde_json::from_slice(&std::fs::read(file)?)?,
        None => measure(&options, &out)?,
    };
    let tables = report::tables(&results);
    print!("{tables}");
    if let Some(doc) = &options.doc {
        let text = std::fs::read_to_string(doc)?;
        let parts = text.split_once(BEGIN).and_then(|(head, rest)| Some((head, rest.split_once(END)?.1)));
        let (head, tail) = parts.ok_or_else(|| io::Error::other(format!("{} has no {BEGIN}", doc.display())))?;
        std::fs::write(doc, format!("{head}{BEGIN}\n{}\n\n{END}{tail}", tables.trim_end()))?;
    }
    plot::draw(&results, &out)?;
    println!("\nFigures and plots: {}", out.display());
    Ok(())
}

/// Makes the requested runs. The figures are written after each run, so that a failing run loses none of the earlier
/// ones.
fn measure(options: &Options, out: &Path) -> io::Result<Value> {
    std::fs::create_dir_all(out)?;
    let redis = process::Redis::start()?;
    let servers = peers::recipes(&redis, &options.bobbin, options.before.as_deref(), &options.servers)?;
    let mut results = json!({});
    if options.some
        && let Ok(kept) = std::fs::read(out.join("figures.json"))
    {
        results = serde_json::from_slice(&kept)?;
    }
    results["about"] = report::about(options.quick);
    let bench = runs::Bench { redis, servers, quick: options.quick };
    for run in RUNS.into_iter().filter(|run| options.only.iter().any(|name| name == run)) {
        let figures = match run {
            "fanout" => bench.fanout(),
            "scripts" => bench.scripts(),
            "sweep" => bench.sweep(),
            "memory" => bench.memory(),
            "small" => bench.small(),
            "kept" => bench.kept(),
            "large" => bench.large(),
            "hops" => bench.hops(),
            "idle" => bench.idle(),
            "rush" => bench.rush(),
            "rooms" => bench.rooms(),
            "joins" => bench.joins(),
            "start" => bench.start_time(),
            "stacks" => bench.stacks(),
            "slow" => bench.slow(),
            _ => bench.containers(),
        };
        results[run] = figures.unwrap_or_else(|error| {
            eprintln!("  {run} failed: {error}");
            json!({ "failed": error.to_string() })
        });
        // With --only, the figures of the other runs may be older and from another build.
        let taken = ["date", "bobbin", "mode"].map(|key| results["about"][key].as_str().unwrap_or("–").to_owned());
        results["taken"][run] = json!(taken.join(", "));
        std::fs::write(out.join("figures.json"), serde_json::to_string_pretty(&results)? + "\n")?;
    }
    Ok(results)
}
