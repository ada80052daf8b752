//! A suite's results as one HTML page: what each server did over the load, over time and at each percentile,
//! and all figures in tables.
//!
//! Called by `suite`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::outcome::{Figures, Outcome, Results, Summary};
use super::table;
use crate::report::html::{card, escaped, latency_plot, over_time, page, timeline_plot};
use crate::report::plot::{self, Axis, Series, colour};

/// The figures whose cells show a bar.
const BARS: [&str; 2] = ["per_second", "server_cpu_ns"];

/// Which colour each server has.
type Places<'a> = BTreeMap<&'a str, usize>;

/// Writes the page.
pub fn write(summary: &Summary, path: &Path) -> Result<()> {
    let text = render(summary)?;
    std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
}

fn render(summary: &Summary) -> Result<String> {
    let mut places = Places::new();
    for results in summary.works.iter().flat_map(|work| &work.results) {
        let next = places.len();
        places.entry(&results.server).or_insert(next);
    }
    let mut body = format!("<p class=\"quiet\">{}</p>\n", escaped(&summary.machine));
    let _ = writeln!(
        body,
        "<p class=\"quiet\">{}; medians, and in small print in parts of {}'s</p>",
        escaped(&summary.setup),
        escaped(&summary.base)
    );
    body.push_str(if summary.passed() {
        "<p class=\"good\">Nothing was lost, doubled, reordered or changed in any run.</p>\n"
    } else {
        "<p class=\"bad\">Not every run was faultless: see the last column of the tables.</p>\n"
    });
    for skipped in &summary.skipped {
        let _ = writeln!(
            body,
            "<p class=\"quiet\">{} took no part: {}</p>",
            escaped(&skipped.server),
            escaped(&skipped.why)
        );
    }
    let mut named: Vec<_> = places.iter().collect();
    named.sort_by_key(|(_, place)| **place);
    body.push_str("<div class=\"legend\">");
    for (name, place) in named {
        let _ = write!(
            body,
            "<span><span class=\"swatch\" style=\"background:{}\"></span>{}</span>",
            colour(*place),
            escaped(name)
        );
    }
    body.push_str("</div>\n");
    body.push_str(&scaling(summary, &places)?);
    for outcome in &summary.works {
        body.push_str(&work(outcome, &places)?);
    }
    Ok(page("loadgen suite", &body))
}

/// Deliveries a second, and their cost, over the number of subscribers.
fn scaling(summary: &Summary, places: &Places<'_>) -> Result<String> {
    let mut cards = String::new();
    for window in ["w1", "w64"] {
        let works = || {
            let named =
                |work: &&Outcome| work.name.starts_with("fanout-") && work.name.ends_with(&format!("-{window}"));
            summary.works.iter().filter(named)
        };
        if works().count() < 2 {
            continue;
        }
        for (key, title) in [("per_second", "deliveries/s"), ("server_cpu_ns", "server CPU ns per delivery")] {
            let series: Vec<_> = places
                .iter()
                .map(|(server, place)| {
                    let points =
                        works().filter_map(|work| Some((f64::from(work.connections), work.median(server, key)?)));
                    Series { place: *place, points: points.collect() }
                })
                .collect();
            let count = |count: f64| plot::short(count.round());
            let x = Axis { title: "subscribers", label: &count, logarithmic: true };
            let y = Axis { title, label: &plot::short, logarithmic: false };
            let title = format!("Fan-out, window {}: {title}", &window[1..]);
            cards.push_str(&card(&title, plot::lines(&series, &x, &y, None)?));
        }
    }
    Ok(if cards.is_empty() { cards } else { format!("<h2>Scaling with N</h2><div class=\"grid\">{cards}</div>\n") })
}

fn percentiles(figures: &Figures) -> Vec<(f64, f64)> {
    let keys = ["p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    let there = keys.iter().enumerate().filter_map(|(place, key)| Some((place as f64, *figures.get(key)?)));
    there.collect()
}

fn work(outcome: &Outcome, places: &Places<'_>) -> Result<String> {
    let place = |results: &Results| places.get(results.server.as_str()).copied().unwrap_or_default();
    let each = |points: &dyn Fn(&Results) -> Vec<(f64, f64)>| -> Vec<Series> {
        let series = outcome.results.iter().map(|results| Series { place: place(results), points: points(results) });
        series.filter(|series| !series.points.is_empty()).collect()
    };
    let mut html = format!(
        "<h2>{} <span class=\"quiet\">({} connections)</span></h2>\n",
        escaped(outcome.title),
        crate::report::thousands(f64::from(outcome.connections))
    );
    html.push_str("<div class=\"card scroll\">");
    html.push_str(&figures(outcome));
    html.push_str("</div>\n<div class=\"grid\" style=\"margin-top:16px\">");
    html.push_str(&card("Latency", latency_plot(&each(&|results| percentiles(&results.median)))?));
    if !matches!(outcome.name, "connect" | "storm") {
        let first = each(&|results| results.rounds.first().map_or(Vec::new(), |found| over_time(&found.timeline)));
        html.push_str(&card("Over time, first round", timeline_plot(&first)?));
    }
    html.push_str("</div>\n");
    Ok(html)
}

fn figures(outcome: &Outcome) -> String {
    let columns = table::narrow(outcome);
    let mut html = "<table><tr><th>server</th>".to_owned();
    for figure in &columns {
        let _ = write!(html, "<th>{}</th>", escaped(&table::title(figure, outcome)));
    }
    html.push_str("<th>faults</th></tr>");
    for results in &outcome.results {
        let _ = write!(html, "<tr><td>{}</td>", escaped(&results.server));
        for figure in &columns {
            let Some(value) = results.median.get(figure.key) else {
                html.push_str("<td>–</td>");
                continue;
            };
            let most = outcome
                .results
                .iter()
                .filter_map(|other| other.median.get(figure.key))
                .fold(0.0, |a: f64, b| a.max(*b));
            let part = value / most.max(1e-9) * 100.0;
            let bar = if BARS.contains(&figure.key) {
                format!(" style=\"background:linear-gradient(to right,var(--bar) {part:.1}%,transparent {part:.1}%)\"")
            } else {
                String::new()
            };
            let marks = if figure.key == "per_second" { table::marks(outcome, results) } else { String::new() };
            let ratio =
                table::ratio(results, figure).map_or(String::new(), |ratio| format!("<small>{ratio:.2}×</small>"));
            let _ = write!(html, "<td{bar}>{}{marks}{ratio}</td>", table::shown(figure, *value));
        }
        let class = if results.passed() { "good" } else { "bad" };
        let _ = write!(html, "<td class=\"{class}\">{}</td></tr>", escaped(&table::verdict(results)));
    }
    html.push_str("</table>");
    for means in table::legend(outcome) {
        let _ = write!(html, "<p class=\"quiet\">{means}</p>");
    }
    html
}
