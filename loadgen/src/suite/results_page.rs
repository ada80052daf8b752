//! A suite's results as the page that the repository keeps: what was measured where, the best peer of each work, where
//! the base is behind, and all figures.
//!
//! Called by `suite`.

use std::fmt::Write;

use super::outcome::{FIGURES, Figure, Outcome, Role, Summary};
use super::table;

/// A ratio up to this is no difference: rounds differ by as much.
const LEVEL: f64 = 1.03;

/// A figure of one work, the base's beside the best peer's.
struct Comparison<'a> {
    outcome: &'a Outcome,
    figure: Figure,
    own: f64,
    peer: Option<(&'a str, f64)>,
    floor: Option<f64>,
}

impl Comparison<'_> {
    /// The base's in parts of the best peer's.
    fn ratio(&self) -> Option<f64> {
        self.peer.filter(|(_, value)| *value > 0.0).map(|(_, value)| self.own / value)
    }
}

fn comparisons(summary: &Summary) -> Vec<Comparison<'_>> {
    let named = |role: Role| {
        let with_role = summary.participants.iter().filter(move |each| each.role == role);
        with_role.map(|each| each.name.as_str())
    };
    let mut all = Vec::new();
    for outcome in &summary.works {
        for key in outcome.judged_by {
            let figure = FIGURES.into_iter().find(|figure| figure.key == *key);
            let own = outcome.median(&summary.base, key);
            if let (Some(figure), Some(own)) = (figure, own) {
                let peer = outcome.least(named(Role::Peer), key);
                let floor = outcome.least(named(Role::Floor), key).map(|(_, value)| value);
                all.push(Comparison { outcome, figure, own, peer, floor });
            }
        }
    }
    all
}

/// Writes the page of results.
pub fn render(summary: &Summary) -> String {
    let base = &summary.base;
    let mut text = format!(
        "# Results\n\nThis page says how {base} compares with other servers. `loadgen suite --page` writes it \
         ([docs/loadgen.md](../docs/loadgen.md) explains the works and the figures), so changes by hand are lost.\n\n\
         - Machine: {}, loopback.\n- Date: {}.\n- How: {}. All figures are medians.\n\n```sh\n{}\n```\n\n",
        summary.machine, summary.date, summary.setup, summary.command
    );
    if let Some(note) = &summary.note {
        let _ = write!(text, "**{note}**\n\n");
    }
    let _ = write!(
        text,
        "[EXPERIMENTS.md](EXPERIMENTS.md) has single measurements of compression, drivers and socket options. \
         [peers/README.md](peers/README.md) says what each server is.\n\n"
    );
    text.push_str("| server | version |\n| --- | --- |\n");
    for participant in &summary.participants {
        let version = participant.version.as_deref().unwrap_or("–");
        let floor = if participant.role == Role::Floor { " (the floor, no server)" } else { "" };
        let _ = writeln!(text, "| {}{floor} | {version} |", participant.name);
    }
    let comparisons = comparisons(summary);
    let _ = write!(
        text,
        "\n## Against the best peer\n\nThe best peer is the one with the least of the figure in the same run. A ratio below 1 \
         means that {base} is better. The floor does the least that any server could do.\n\n\
         | work | figure | {base} | best peer | its figure | ratio | ratio to the floor |\n\
         | --- | --- | ---: | --- | ---: | ---: | ---: |\n"
    );
    for each in &comparisons {
        let shown = |value: f64| table::shown(&each.figure, value);
        let ratio = each.ratio().map_or("–".to_owned(), |ratio| {
            if ratio > LEVEL { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") }
        });
        let (peer, value) = each.peer.map_or(("–", "–".to_owned()), |(name, value)| (name, shown(value)));
        let floor = each.floor.filter(|floor| *floor > 0.0);
        let floor = floor.map_or("–".to_owned(), |floor| format!("{:.2}", each.own / floor));
        let own = shown(each.own);
        let (title, figure) = (each.outcome.title, each.figure.title);
        let _ = writeln!(text, "| {title} | {figure} | {own} | {peer} | {value} | {ratio} | {floor} |");
    }
    let behind: Vec<_> = comparisons.iter().filter(|each| each.ratio().is_some_and(|ratio| ratio > LEVEL)).collect();
    let _ = write!(text, "\n## Where {base} is behind\n\n");
    if behind.is_empty() {
        let _ = writeln!(text, "In no work of this run, by more than {:.0} %.", (LEVEL - 1.0) * 100.0);
    }
    for each in behind {
        let (ratio, peer) = (each.ratio().unwrap_or_default(), each.peer.map_or("", |(name, _)| name));
        let _ = writeln!(text, "- {}, {}: {ratio:.2} of {peer}.", each.outcome.title, each.figure.title);
    }
    text.push_str(
        "\n## All figures\n\n\
         `server CPU ns` is the CPU time of the server's process per message. `core ns` is the time of its whole CPU per message: \
         it includes work for the network that the kernel does outside of the process (ksoftirqd, interrupts), and anything else that \
         ran there. `in interrupts` is the part of the CPU that went to interrupts.\n",
    );
    text.push_str(&table::works(summary));
    text
}

#[cfg(test)]
mod tests {
    use super::super::outcome::{Figures, Participant, Results};
    use super::*;

    fn results(server: &str, cpu: f64) -> Results {
        let median = Figures::from([("server_cpu_ns", cpu)]);
        Results { median, ..Results::new(server) }
    }

    #[test]
    fn the_best_peer_is_named_and_being_behind_is_said() {
        let participant = |name: &str, role| Participant { name: name.to_owned(), role, version: None };
        let outcome = |title, own| Outcome {
            name: "w",
            title,
            unit: "/s",
            judged_by: &["server_cpu_ns"],
            connections: 1,
            results: vec![results("own", own), results("slow", 400.0), results("fast", 200.0), results("bare", 50.0)],
        };
        let summary = Summary {
            machine: "2 CPUs".to_owned(),
            setup: "servers on CPU 0".to_owned(),
            note: Some("a note".to_owned()),
            command: "loadgen suite".to_owned(),
            date: "today".to_owned(),
            participants: vec![
                participant("own", Role::Own),
                participant("slow", Role::Peer),
                participant("fast", Role::Peer),
                participant("bare", Role::Floor),
            ],
            rounds: 1,
            base: "own".to_owned(),
            skipped: Vec::new(),
            works: vec![outcome("Ahead", 100.0), outcome("Behind", 300.0)],
        };
        let page = render(&summary);
        assert!(page.contains("**a note**"), "{page}");
        assert!(page.contains("| Ahead | server CPU ns | 100 | fast | 200 | 0.50 | 2.00 |"), "{page}");
        assert!(page.contains("| Behind | server CPU ns | 300 | fast | 200 | **1.50** | 6.00 |"), "{page}");
        assert!(page.contains("- Behind, server CPU ns: 1.50 of fast.") && !page.contains("- Ahead"), "{page}");
    }
}
