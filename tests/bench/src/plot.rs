//! The plots, as SVG written by hand: a few line charts do not justify a plotting library. They have a white
//! background, so that they are legible on a dark page too.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

use serde_json::Value;

use crate::report;

/// One line in a chart.
struct Line {
    name: String,
    colour: &'static str,
    dashed: bool,
    points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    Log,
}

struct Axis {
    title: &'static str,
    scale: Scale,
    ticks: Vec<(f64, String)>,
}

struct Chart {
    title: String,
    x: Axis,
    y: Axis,
    lines: Vec<Line>,
    footnote: String,
}

pub fn draw(results: &Value, out: &Path) -> io::Result<()> {
    fs::create_dir_all(out)?;
    let footnote = format!(
        "{} · {} · {}",
        results["about"]["machine"].as_str().unwrap_or("–"),
        results["about"]["date"].as_str().unwrap_or("–"),
        results["about"]["mode"].as_str().unwrap_or("–"),
    );
    for (run, name, chart) in [
        ("sweep", "cost.svg", cost as fn(&Value) -> Chart),
        ("small", "small-cost.svg", small_cost),
        ("small", "small-latency.svg", small_latency),
        ("memory", "memory.svg", memory),
        ("fanout", "latency.svg", latency),
    ] {
        if results[run].is_object() && results[run]["failed"].is_null() {
            let mut chart = chart(&results[run]);
            chart.footnote = footnote.clone();
            fs::write(out.join(name), chart.svg())?;
        }
    }
    Ok(())
}

fn cost(sweep: &Value) -> Chart {
    let lines = servers(sweep, |points| {
        points.as_array().into_iter().flatten().map(|point| pair(&point["clients"], &point["cpu_us"])).collect()
    });
    Chart {
        title: "Server CPU per delivered message, by clients in the room".to_owned(),
        x: log_axis("clients in the room", &lines, |point| point.0, &[1.0]),
        y: log_axis("µs of CPU per delivery", &lines, |point| point.1, &[1.0, 2.0, 5.0]),
        lines,
        footnote: String::new(),
    }
}

/// Rooms of 10 at the same total rate, by the number of rooms.
fn small_cost(small: &Value) -> Chart {
    let lines = servers(small, |points| {
        let all = points.as_array().into_iter().flatten();
        let points = all.filter(|point| point["each"] == 10.0 && point["messages_per_s"] == 2000.0);
        let mut points: Vec<_> = points.map(|point| pair(&point["rooms"], &point["both_us_per_message"])).collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0));
        points
    });
    Chart {
        title: "Server and Redis CPU per message in rooms of 10, 2,000 messages/s in all".to_owned(),
        x: log_axis("rooms", &lines, |point| point.0, &[1.0]),
        y: linear_axis("µs of CPU per message", &lines, |point| point.1),
        lines,
        footnote: String::new(),
    }
}

/// 100 rooms of 10, by the total rate.
fn small_latency(small: &Value) -> Chart {
    let lines = servers(small, |points| {
        let all = points.as_array().into_iter().flatten();
        let points = all.filter(|point| point["each"] == 10.0 && point["rooms"] == 100.0);
        points.map(|point| pair(&point["messages_per_s"], &point["p99_us"])).map(|(x, us)| (x, us / 1000.0)).collect()
    });
    Chart {
        title: "Latency in 100 rooms of 10: 99 of 100 deliveries are faster".to_owned(),
        x: log_axis("messages/s in all rooms together", &lines, |point| point.0, &[1.0, 2.0, 5.0]),
        y: log_axis("ms from said to read", &lines, |point| point.1, &[1.0, 2.0, 5.0]),
        lines,
        footnote: String::new(),
    }
}

fn memory(memory: &Value) -> Chart {
    let of = |key: &'static str| {
        move |server: &Value| {
            let points = server["points"].as_array().into_iter().flatten();
            points.map(|point| pair(&point["connections"], &point[key])).map(|(x, kb)| (x, kb / 1024.0)).collect()
        }
    };
    let mut lines = servers(memory, of("with_kernel_stacks_kb"));
    for line in servers(memory, of("rss_kb")).into_iter().filter(|line| line.name == "bobbin") {
        lines.push(Line { name: "Bobbin, resident".to_owned(), dashed: true, ..line });
    }
    Chart {
        title: "Memory by idle connections (resident, page tables, kernel stacks)".to_owned(),
        x: linear_axis("connections", &lines, |point| point.0),
        y: linear_axis("MB", &lines, |point| point.1),
        lines,
        footnote: String::new(),
    }
}

fn latency(fanout: &Value) -> Chart {
    // Quantile q is drawn at its number of nines, so that the tail gets space.
    let nines = |quantile: f64| 1.0 / (1.0 - quantile.min(0.9999));
    let lines = servers(&fanout["servers"], |server| {
        let curve = server["latency_curve_us"].as_array().into_iter().flatten();
        let curve = curve.map(|point| pair(&point[0], &point[1])).filter(|(quantile, _)| *quantile >= 0.5);
        curve.map(|(quantile, us)| (nines(quantile), us / 1000.0)).collect()
    });
    let mut x = log_axis("share of deliveries", &lines, |point| point.0, &[1.0]);
    x.ticks = [("50 %", 0.5), ("90 %", 0.9), ("99 %", 0.99), ("99.9 %", 0.999), ("99.99 %", 0.9999)]
        .map(|(label, quantile)| (nines(quantile), label.to_owned()))
        .to_vec();
    Chart {
        title: format!(
            "Latency of {} messages/s to {} clients in one room",
            label(fanout["messages_per_s"].as_f64().unwrap_or(0.0)),
            label(fanout["clients"].as_f64().unwrap_or(0.0))
        ),
        x,
        y: linear_axis("ms from said to read", &lines, |point| point.1),
        lines,
        footnote: String::new(),
    }
}

fn servers(results: &Value, points: impl Fn(&Value) -> Vec<(f64, f64)>) -> Vec<Line> {
    let colour = |name: &str| match name {
        "bobbin" | "local" | "file" => "#c2255c",
        "socket.io" => "#1c7ed6",
        "axum" => "#e8590c",
        "uws" => "#2f9e44",
        _ => "#868e96",
    };
    let line = |(name, server): (&String, &Value)| Line {
        name: name.clone(),
        colour: colour(name),
        dashed: matches!(name.as_str(), "floor" | "threads" | "threads-alone" | "local" | "file"),
        points: points(server),
    };
    results.as_object().into_iter().flatten().map(line).collect()
}

fn pair(x: &Value, y: &Value) -> (f64, f64) {
    (x.as_f64().unwrap_or(0.0), y.as_f64().unwrap_or(0.0))
}

fn extent(lines: &[Line], of: fn(&(f64, f64)) -> f64) -> (f64, f64) {
    let all = lines.iter().flat_map(|line| line.points.iter().map(of));
    all.fold((f64::INFINITY, 0.0), |(low, high), value| (low.min(value), high.max(value)))
}

/// Ticks at each power of ten times each of `steps`, from just below the smallest value to just above the largest.
fn log_axis(title: &'static str, lines: &[Line], of: fn(&(f64, f64)) -> f64, steps: &[f64]) -> Axis {
    let (low, high) = extent(lines, of);
    let all: Vec<f64> = (-3..8).flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power))).collect();
    let first = all.iter().rposition(|tick| *tick <= low).unwrap_or(0);
    let last = all.iter().position(|tick| *tick >= high).unwrap_or(all.len() - 1);
    let ticks = all[first..=last.max(first)].iter().map(|tick| (*tick, label(*tick))).collect();
    Axis { title, scale: Scale::Log, ticks }
}

fn linear_axis(title: &'static str, lines: &[Line], of: fn(&(f64, f64)) -> f64) -> Axis {
    let (_, high) = extent(lines, of);
    let rough = high.max(1.0) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|step| *step >= rough).unwrap_or(power);
    let count = (high / step).ceil() as usize;
    let ticks = (0..=count).map(|tick| (tick as f64 * step, label(tick as f64 * step))).collect();
    Axis { title, scale: Scale::Linear, ticks }
}

fn label(value: f64) -> String {
    if value < 1000.0 { format!("{value}") } else { format!("{},{:03}", (value / 1000.0).floor(), value % 1000.0) }
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 590.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 350.0;

impl Axis {
    fn place(&self, value: f64, from: f64, to: f64) -> f64 {
        let (first, last) = (self.ticks[0].0, self.ticks[self.ticks.len() - 1].0);
        let share = match self.scale {
            Scale::Linear => (value - first) / (last - first).max(f64::MIN_POSITIVE),
            Scale::Log => (value / first).ln() / (last / first).max(1.0001).ln(),
        };
        from + share.clamp(0.0, 1.0) * (to - from)
    }
}

impl Chart {
    fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             font-family=\"system-ui, sans-serif\" font-size=\"13\" fill=\"#212529\">\n\
             <title>{}</title>\n<rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n\
             <text x=\"{LEFT}\" y=\"28\" font-size=\"16\" font-weight=\"600\">{}</text>\n",
            self.title, self.title
        );
        self.axes(&mut svg);
        for line in &self.lines {
            let place = |(x, y): &(f64, f64)| (self.x.place(*x, LEFT, RIGHT), self.y.place(*y, BOTTOM, TOP));
            let points: Vec<(f64, f64)> = line.points.iter().map(place).collect();
            let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
            let dash = if line.dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            let width = if line.name == "bobbin" { 3.5 } else { 2.0 };
            let _ = writeln!(
                svg,
                "<polyline fill=\"none\" stroke=\"{}\" stroke-width=\"{width}\"{dash} points=\"{}\"/>",
                line.colour,
                path.join(" ")
            );
            for (x, y) in points {
                let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{}\"/>", line.colour);
            }
        }
        self.names(&mut svg);
        let _ = writeln!(
            svg,
            "<text x=\"{LEFT}\" y=\"{}\" font-size=\"11\" fill=\"#868e96\">{}</text>\n</svg>",
            HEIGHT - 10.0,
            self.footnote
        );
        svg
    }

    fn axes(&self, svg: &mut String) {
        for (value, label) in &self.y.ticks {
            let y = self.y.place(*value, BOTTOM, TOP);
            let _ = writeln!(
                svg,
                "<line x1=\"{LEFT}\" x2=\"{RIGHT}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#dee2e6\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                LEFT - 8.0,
                y + 4.0
            );
        }
        for (value, label) in &self.x.ticks {
            let x = self.x.place(*value, LEFT, RIGHT);
            let _ = writeln!(
                svg,
                "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{BOTTOM}\" stroke=\"#f1f3f5\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                BOTTOM + 18.0
            );
        }
        let (middle_x, middle_y) = ((LEFT + RIGHT) / 2.0, (TOP + BOTTOM) / 2.0);
        let _ = writeln!(
            svg,
            "<text x=\"{middle_x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#495057\">{}</text>\n\
             <text transform=\"translate(18 {middle_y}) rotate(-90)\" text-anchor=\"middle\" fill=\"#495057\">{}</text>",
            BOTTOM + 38.0,
            self.x.title,
            self.y.title
        );
    }

    /// Draws each line's name at its right end, moved down where two would overlap.
    fn names(&self, svg: &mut String) {
        let mut ends: Vec<(f64, &Line)> = self
            .lines
            .iter()
            .filter_map(|line| line.points.last().map(|point| (self.y.place(point.1, BOTTOM, TOP), line)))
            .collect();
        ends.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut free = TOP - 10.0;
        for (y, line) in ends {
            let y = y.max(free);
            free = y + 17.0;
            let weight = if line.name == "bobbin" { "700" } else { "400" };
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{:.1}\" fill=\"{}\" font-weight=\"{weight}\">{}</text>",
                RIGHT + 10.0,
                y + 4.0,
                line.colour,
                report::label(&line.name)
            );
        }
    }
}
