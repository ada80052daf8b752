//! A suite's results as tables: on the terminal and as Markdown.
//!
//! Called by `suite`.

use std::collections::BTreeSet;
use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, Table, presets};

use super::outcome::{FIGURES, Figure, Outcome, Results, Summary};
use crate::report::thousands;

/// Marks a run in which the generator had no more to give.
const BOUND: &str = "†";
/// Marks an open loop whose rate did not go through.
const BEHIND: &str = "‡";
const BEHIND_MEANS: &str = "‡ less came through than the rate: its latency is that of an overload.";
const BOUND_MEANS: &str =
    "† the load generator was the bottleneck: the server's CPU per message decides, not the rate.";

const COMPARED: [&str; 8] =
    ["per_second", "server_cpu_ns", "core_ns", "p50_us", "p99_us", "bytes_per_connection", "bytes_each", "seconds"];

/// A figure with its digits.
pub fn shown(figure: &Figure, value: f64) -> String {
    match figure.digits {
        0 => thousands(value),
        digits => format!("{value:.digits$}"),
    }
}

/// The figures that any server has in this work.
fn columns(outcome: &Outcome) -> Vec<Figure> {
    let there = |figure: &Figure| outcome.results.iter().any(|results| results.median.contains_key(figure.key));
    // A frame holds one message of most servers.
    let same = |results: &Results| {
        let both = results.median.get("frames_per_receive").zip(results.median.get("messages_per_receive"));
        both.is_none_or(|(frames, messages)| (frames - messages).abs() < 0.05)
    };
    let plain = outcome.results.iter().all(same);
    FIGURES.into_iter().filter(there).filter(|figure| !(plain && figure.key == "messages_per_receive")).collect()
}

/// Those of them that fit on a terminal.
pub fn narrow(outcome: &Outcome) -> Vec<Figure> {
    let wide = |figure: &Figure| !matches!(figure.key, "p90_us" | "max_us");
    columns(outcome).into_iter().filter(wide).collect()
}

/// The ratio to the base that is shown; JSON has all.
pub fn ratio(results: &Results, figure: &Figure) -> Option<f64> {
    results.ratio.get(figure.key).copied().filter(|_| COMPARED.contains(&figure.key))
}

/// What has to be known of a rate.
pub fn marks(outcome: &Outcome, results: &Results) -> String {
    let bound = if results.generator_bound { BOUND } else { "" };
    let behind = if results.is_behind(outcome.connections) { BEHIND } else { "" };
    format!("{bound}{behind}")
}

/// What the marks in a work's table mean.
pub fn legend(outcome: &Outcome) -> Vec<&'static str> {
    let bound = outcome.results.iter().any(|results| results.generator_bound);
    let behind = outcome.results.iter().any(|results| results.is_behind(outcome.connections));
    [(bound, BOUND_MEANS), (behind, BEHIND_MEANS)]
        .into_iter()
        .filter(|(there, _)| *there)
        .map(|(_, means)| means)
        .collect()
}

/// A column's title.
pub fn title(figure: &Figure, outcome: &Outcome) -> String {
    if figure.key == "per_second" { outcome.unit.to_owned() } else { figure.title.to_owned() }
}

fn rows(outcome: &Outcome) -> Vec<Vec<String>> {
    let columns = narrow(outcome);
    let mut rows = Vec::new();
    for results in &outcome.results {
        let mut row = vec![results.server.clone()];
        for figure in &columns {
            let Some(value) = results.median.get(figure.key) else {
                row.push("–".to_owned());
                continue;
            };
            let mut text = shown(figure, *value);
            if let Some(ratio) = ratio(results, figure) {
                let _ = write!(text, " ({ratio:.2}×)");
            }
            if figure.key == "per_second" {
                text.push_str(&marks(outcome, results));
            }
            row.push(text);
        }
        row.push(verdict(results));
        rows.push(row);
    }
    rows
}

/// 0 if nothing was lost, doubled, reordered or otherwise wrong; else what was.
pub fn verdict(results: &Results) -> String {
    let mut told: Vec<String> = Vec::new();
    for found in &results.rounds {
        let named = found.faults.named();
        told.extend(named.iter().filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")));
    }
    if let Some(error) = &results.error {
        told.push(error.lines().next().unwrap_or_default().to_owned());
    }
    if told.is_empty() { "0".to_owned() } else { told.join(", ") }
}

fn head(outcome: &Outcome) -> Vec<String> {
    let mut head = vec!["server".to_owned()];
    head.extend(narrow(outcome).iter().map(|figure| title(figure, outcome)));
    head.push("faults".to_owned());
    head
}

/// One work's table for the terminal.
pub fn work(outcome: &Outcome) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(head(outcome));
    for row in rows(outcome) {
        let mut cells = row.into_iter().map(Cell::new);
        let mut line: Vec<Cell> = cells.by_ref().take(1).collect();
        line.extend(cells.map(|cell| cell.set_alignment(CellAlignment::Right)));
        table.add_row(line);
    }
    let mut text = format!("{} ({} connections)\n{table}", outcome.title, outcome.connections);
    for means in legend(outcome) {
        let _ = write!(text, "\n{means}");
    }
    text
}

/// Prints all of it.
pub fn print(summary: &Summary) {
    println!("{}\n{}", summary.machine, summary.setup);
    println!("medians; (×) in parts of {}'s\n", summary.base);
    for outcome in &summary.works {
        println!("{}\n", work(outcome));
    }
    for skipped in &summary.skipped {
        println!("skipped: {}: {}", skipped.server, skipped.why);
    }
    if summary.passed() {
        println!("PASS: nothing lost, doubled, reordered or changed");
    } else {
        println!("FAIL: see the column of faults");
    }
}

/// All of it as Markdown.
pub fn markdown(summary: &Summary) -> String {
    let head = format!("{}; {}. Medians; (×) in parts of {}'s.\n", summary.machine, summary.setup, summary.base);
    head + &works(summary)
}

/// The tables of all works as Markdown, and what their marks mean.
pub fn works(summary: &Summary) -> String {
    let mut text = String::new();
    for outcome in &summary.works {
        let line = |cells: &[String]| format!("| {} |\n", cells.join(" | ").replace('\n', " "));
        let head = head(outcome);
        let _ = write!(text, "\n### {} ({} connections)\n\n{}", outcome.title, outcome.connections, line(&head));
        let mut rule = vec!["---".to_owned()];
        rule.resize(head.len(), "---:".to_owned());
        text.push_str(&line(&rule));
        for row in rows(outcome) {
            text.push_str(&line(&row));
        }
    }
    for means in summary.works.iter().flat_map(legend).collect::<BTreeSet<_>>() {
        let _ = write!(text, "\n{means}\n");
    }
    for skipped in &summary.skipped {
        let _ = write!(text, "\nSkipped: {}: {}\n", skipped.server, skipped.why.replace('\n', " "));
    }
    text
}
