//! HTML pages that need nothing but themselves: the frame that all share, and the page of a single run.
//!
//! The suite's page is made by `suite`. Called by `main` and `suite`.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::plot::{self, Axis, Series};
use super::{Report, thousands};
use crate::latency::Percentiles;
use crate::run::Point;

/// The percentiles along a latency plot.
pub const QUANTILES: [&str; 5] = ["p50", "p90", "p99", "p99.9", "max"];

const STYLE: &str = "
:root { color-scheme: light dark; --back: #fff; --card: #f6f7f9; --text: #1c2430; --quiet: #5d6878; --line: #d5dae2;
  --bar: #2f7edb33; --good: #1d7f52; --bad: #c03a3a; }
@media (prefers-color-scheme: dark) { :root { --back: #12161c; --card: #1a2028; --text: #e4e9f0; --quiet: #98a4b5;
  --line: #343d4a; --bar: #4b93e855; --good: #4cc38a; --bad: #f07070; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1340px; padding: 28px 24px 60px; background: var(--back); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 10px; } h3 { font-size: 15px; margin: 0 0 6px; }
p { margin: 4px 0; } .quiet { color: var(--quiet); }
.legend { display: flex; flex-wrap: wrap; gap: 6px 18px; margin: 14px 0; }
.swatch { display: inline-block; width: 12px; height: 12px; border-radius: 3px; margin-right: 7px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; min-width: 0; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { font-weight: 600; color: var(--quiet); font-size: 13px; }
th, td { padding: 5px 10px; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } tr:last-child td { border-bottom: 0; }
td small { color: var(--quiet); margin-left: 5px; }
.good { color: var(--good); font-weight: 600; } .bad { color: var(--bad); font-weight: 600; white-space: normal; }
";

/// What a browser must not take for markup.
pub fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}

/// A whole page.
pub fn page(title: &str, body: &str) -> String {
    let title = escaped(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n"
    )
}

/// A plot with its title; nothing if there is nothing to plot.
pub fn card(title: &str, svg: Option<String>) -> String {
    svg.map_or(String::new(), |svg| format!("<div class=\"card\"><h3>{}</h3>{svg}</div>\n", escaped(title)))
}

/// Latency at `QUANTILES`, one line for each server.
pub fn latency_plot(series: &[Series]) -> Result<Option<String>> {
    let quantile = |place: f64| {
        let whole = (place - place.round()).abs() < 0.01 && place > -0.5;
        let name = whole.then(|| QUANTILES.get(place.round() as usize).copied()).flatten();
        name.unwrap_or_default().to_owned()
    };
    let x = Axis { title: "", label: &quantile, logarithmic: false };
    let y = Axis { title: "latency", label: &plot::time, logarithmic: true };
    plot::lines(series, &x, &y, Some(QUANTILES.len()))
}

/// Messages a second over time, one line for each server.
pub fn timeline_plot(series: &[Series]) -> Result<Option<String>> {
    let x = Axis { title: "seconds", label: &|at| format!("{at:.1}"), logarithmic: false };
    let y = Axis { title: "messages/s", label: &plot::short, logarithmic: false };
    plot::lines(series, &x, &y, None)
}

/// The points of a timeline.
pub fn over_time(timeline: &[Point]) -> Vec<(f64, f64)> {
    timeline.iter().map(|point| (point.seconds, point.per_second)).collect()
}

fn latency_points(p: &Percentiles) -> Vec<(f64, f64)> {
    let values = [p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us];
    values.into_iter().enumerate().map(|(place, value)| (place as f64, value)).collect()
}

/// Writes the page of a single run.
pub fn write_single(report: &Report, path: &Path) -> Result<()> {
    let mut body = format!("<p class=\"quiet\">{} · {}</p>\n", escaped(&report.url), escaped(&report.pace));
    let verdict = if report.passed() {
        "<p class=\"good\">Nothing lost, doubled, reordered or changed; no connection cut.</p>\n".to_owned()
    } else {
        let named = report.faults.named();
        let bad = named.iter().filter(|(_, count)| *count > 0);
        let told: Vec<_> = bad.map(|(name, count)| format!("{} {name}", thousands(*count as f64))).collect();
        format!("<p class=\"bad\">{}</p>\n", told.join(", "))
    };
    body.push_str(&verdict);
    for note in report.notes.iter().chain(&report.examples) {
        let _ = writeln!(body, "<p class=\"quiet\">{}</p>", escaped(note));
    }
    let storm = report.storm.as_ref().and_then(|storm| storm.sign_in);
    let latency = [&report.latency, &report.connecting.sign_in, &storm];
    let each = latency.iter().enumerate().filter_map(|(place, each)| {
        let points = latency_points(each.as_ref()?);
        Some(Series { place, points })
    });
    let lines: Vec<_> = each.collect();
    let names = ["messages", "sign-in", "coming back"];
    let legend = lines.iter().map(|line| {
        format!(
            "<span><span class=\"swatch\" style=\"background:{}\"></span>{}</span>",
            plot::colour(line.place),
            names[line.place]
        )
    });
    let legend: String = legend.collect();
    let _ = write!(body, "<div class=\"legend\">{legend}</div><div class=\"grid\">");
    body.push_str(&card("Latency", latency_plot(&lines)?));
    let timeline = Series { place: 0, points: over_time(&report.timeline) };
    body.push_str(&card("Messages received", timeline_plot(&[timeline])?));
    body.push_str("<div class=\"card scroll\"><h3>Figures</h3><table>");
    for (name, value) in report.rows() {
        let _ = write!(body, "<tr><td>{}</td><td>{}</td></tr>", escaped(&name), escaped(&value));
    }
    body.push_str("</table></div></div>\n");
    let text = page(&format!("loadgen {}", report.command), &body);
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}
