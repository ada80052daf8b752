//! What the runs of a suite found: figures by name, their medians over the rounds, and ratios to the base.
//!
//! Pure but for the reports that figures are read from. Called by `suite`; shown by `table` and the HTML report.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::check::Faults;
use crate::report::Report;
use crate::run::Point;

/// A figure: how it is called, and whether more is better.
#[derive(Clone, Copy, Debug)]
pub struct Figure {
    /// In JSON.
    pub key: &'static str,
    /// In tables.
    pub title: &'static str,
    /// Digits behind the point.
    pub digits: usize,
    /// A ratio to the base says something: `Some(true)` where more is better.
    pub more_is_better: Option<bool>,
}

const fn figure(key: &'static str, title: &'static str, digits: usize, more_is_better: Option<bool>) -> Figure {
    Figure { key, title, digits, more_is_better }
}

/// All figures, in the order of the tables.
pub const FIGURES: [Figure; 20] = [
    figure("per_second", "/s", 0, Some(true)),
    figure("server_cpu_ns", "server CPU ns", 0, Some(false)),
    figure("core_ns", "core ns", 0, Some(false)),
    figure("server_cores", "server cores", 2, None),
    figure("core_interrupts", "in interrupts", 2, None),
    figure("generator_core", "load core", 2, None),
    figure("p50_us", "p50 µs", 0, Some(false)),
    figure("p90_us", "p90 µs", 0, Some(false)),
    figure("p99_us", "p99 µs", 0, Some(false)),
    figure("p999_us", "p99.9 µs", 0, Some(false)),
    figure("max_us", "max µs", 0, None),
    figure("rss_mb", "RSS MB", 1, Some(false)),
    figure("bytes_per_connection", "B/connection", 0, Some(false)),
    figure("bytes_each", "B/subscription", 0, Some(false)),
    figure("frames_per_receive", "frames/recv", 1, None),
    figure("messages_per_receive", "messages/recv", 1, None),
    figure("wire_bytes", "wire B", 0, None),
    figure("window", "window", 0, None),
    figure("rate", "rate/s", 0, None),
    figure("seconds", "until back s", 3, Some(false)),
];

/// A server that delivers this part of an open loop keeps up with it.
const KEPT_UP: f64 = 0.97;

/// Figures by key; what wasn't measured is absent.
pub type Figures = BTreeMap<&'static str, f64>;

/// What one run found.
#[derive(Clone, Debug, Serialize)]
pub struct Found {
    /// The figures.
    pub figures: Figures,
    /// The generator had no more to give: the server's CPU per message decides.
    pub generator_bound: bool,
    /// What went wrong.
    pub faults: Faults,
    /// Examples of it.
    pub examples: Vec<String>,
    /// Messages received over time.
    pub timeline: Vec<Point>,
}

impl Found {
    /// Reads a report.
    pub fn of(report: &Report) -> Self {
        let mut figures = Figures::new();
        let mut put = |key, value: Option<f64>| {
            if let Some(value) = value.filter(|value| value.is_finite()) {
                figures.insert(key, value);
            }
        };
        let busiest = report.generator.iter().map(|busy| busy.used).fold(0.0, f64::max);
        put("generator_core", Some(busiest));
        let traffic = report.traffic.as_ref();
        put("per_second", traffic.map(|traffic| traffic.received_per_second));
        put("server_cpu_ns", traffic.and_then(|traffic| traffic.server_cpu_ns));
        put("server_cores", traffic.and_then(|traffic| traffic.server_cpus));
        put("frames_per_receive", traffic.map(|traffic| traffic.coalescing));
        put("messages_per_receive", traffic.map(|traffic| traffic.per_receive));
        put("wire_bytes", traffic.map(|traffic| traffic.bytes_per_message));
        let cores = traffic.and_then(|traffic| traffic.server_cores.as_ref());
        put("core_ns", cores.map(|cores| cores.ns_per_message));
        put("core_interrupts", cores.map(|cores| cores.interrupts));
        put("bytes_each", report.memory_each);
        put("rss_mb", report.rss_after.map(|rss| rss as f64 / 1e6));
        let mut latency = report.latency;
        if let Some(storm) = &report.storm {
            put("per_second", Some(storm.per_second));
            put("server_cpu_ns", storm.server_cpu_us.map(|cpu| cpu * 1e3));
            put("seconds", Some(storm.returns.seconds));
            latency = storm.sign_in;
        }
        if report.command == "connect" {
            put("per_second", Some(report.connecting.per_second));
            put("server_cpu_ns", report.connecting.server_cpu_us.map(|cpu| cpu * 1e3));
            put("bytes_per_connection", report.memory.as_ref().map(|memory| memory.private));
            latency = report.connecting.sign_in;
        }
        if report.command == "idle API" {
            put("per_second", Some(report.connecting.per_second));
            put("bytes_per_connection", report.memory.as_ref().map(|memory| memory.private));
        }
        put("p50_us", latency.map(|p| p.p50_us));
        put("p90_us", latency.map(|p| p.p90_us));
        put("p99_us", latency.map(|p| p.p99_us));
        put("p999_us", latency.map(|p| p.p999_us));
        put("max_us", latency.map(|p| p.max_us));
        Self {
            figures,
            generator_bound: report.generator_bound,
            faults: report.faults,
            examples: report.examples.clone(),
            timeline: report.timeline.clone(),
        }
    }
}

/// One server's results in one work.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// Its name.
    pub server: String,
    /// One for each round.
    pub rounds: Vec<Found>,
    /// The median of each figure.
    pub median: Figures,
    /// The medians in parts of the base's.
    pub ratio: Figures,
    /// In most rounds the generator had no more to give.
    pub generator_bound: bool,
    /// Why there is nothing (more).
    pub error: Option<String>,
}

impl Results {
    /// None yet.
    pub fn new(server: &str) -> Self {
        Self {
            server: server.to_owned(),
            rounds: Vec::new(),
            median: Figures::new(),
            ratio: Figures::new(),
            generator_bound: false,
            error: None,
        }
    }

    /// Nothing went wrong.
    pub fn passed(&self) -> bool {
        self.error.is_none() && !self.rounds.iter().any(|found| found.faults.any())
    }

    /// It was sent an open loop whose rate did not go through.
    pub fn is_behind(&self, connections: u32) -> bool {
        let both = self.median.get("rate").zip(self.median.get("per_second"));
        both.is_some_and(|(rate, came)| *came < rate * f64::from(connections) * KEPT_UP)
    }

    fn reckon(&mut self) {
        let bound = self.rounds.iter().filter(|found| found.generator_bound).count();
        self.generator_bound = bound * 2 > self.rounds.len();
        for figure in FIGURES {
            let values = self.rounds.iter().filter_map(|found| found.figures.get(figure.key).copied());
            if let Some(median) = median(values.collect()) {
                self.median.insert(figure.key, median);
            }
        }
    }
}

/// One work's results.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The work's name.
    pub name: &'static str,
    /// For people.
    pub title: &'static str,
    /// What is counted a second.
    pub unit: &'static str,
    /// The figures that say who is better.
    pub judged_by: &'static [&'static str],
    /// Connections.
    pub connections: u32,
    /// The servers', in the file's order.
    pub results: Vec<Results>,
}

impl Outcome {
    /// Reckons medians and ratios to `base`.
    pub fn reckon(&mut self, base: &str) {
        self.results.iter_mut().for_each(Results::reckon);
        let Some(base) = self.results.iter().find(|results| results.server == base) else {
            return;
        };
        let base = base.median.clone();
        for results in &mut self.results {
            for figure in FIGURES.iter().filter(|figure| figure.more_is_better.is_some()) {
                let both = results.median.get(figure.key).zip(base.get(figure.key));
                if let Some((value, base)) = both.filter(|(_, base)| **base > 0.0) {
                    results.ratio.insert(figure.key, value / base);
                }
            }
        }
    }

    /// Who has the least of a figure, among `names`, and how much.
    pub fn least<'a>(&self, names: impl Iterator<Item = &'a str>, key: &str) -> Option<(&'a str, f64)> {
        let medians = names.filter_map(|name| Some((name, self.median(name, key)?)));
        medians.min_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// The median of a server's figure.
    pub fn median(&self, server: &str, key: &str) -> Option<f64> {
        let results = self.results.iter().find(|results| results.server == server)?;
        results.median.get(key).copied()
    }
}

/// A server that took no part, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Skipped {
    /// Its name.
    pub server: String,
    /// Why.
    pub why: String,
}

/// What a server is to the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It speaks uringcast's protocol.
    Own,
    /// Another server.
    Peer,
    /// The least that any could do.
    Floor,
}

/// A server that took part.
#[derive(Clone, Debug, Serialize)]
pub struct Participant {
    /// Its name.
    pub name: String,
    /// What it is to the comparison.
    pub role: Role,
    /// What it says of its version.
    pub version: Option<String>,
}

/// All that a suite found.
#[derive(Debug, Serialize)]
pub struct Summary {
    /// The machine, for people.
    pub machine: String,
    /// How the suite was called.
    pub setup: String,
    /// What else is to be known of the run, for people.
    pub note: Option<String>,
    /// The command line.
    pub command: String,
    /// When it ended.
    pub date: String,
    /// Those that took part.
    pub participants: Vec<Participant>,
    /// Rounds of each work.
    pub rounds: u32,
    /// What ratios refer to.
    pub base: String,
    /// Those that took no part.
    pub skipped: Vec<Skipped>,
    /// The works.
    pub works: Vec<Outcome>,
}

impl Summary {
    /// Nothing was lost, doubled, reordered or changed, and everything that was to run ran.
    pub fn passed(&self) -> bool {
        self.works.iter().flat_map(|work| &work.results).all(Results::passed)
    }
}

/// The median of `values`.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        count if count % 2 == 0 => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results(server: &str, rates: &[f64]) -> Results {
        let found = |rate: &f64| Found {
            figures: Figures::from([("per_second", *rate)]),
            generator_bound: *rate > 5.0,
            faults: Faults::default(),
            examples: Vec::new(),
            timeline: Vec::new(),
        };
        Results { rounds: rates.iter().map(found).collect(), ..Results::new(server) }
    }

    #[test]
    fn medians_and_ratios_are_reckoned() {
        let mut outcome = Outcome {
            name: "w",
            title: "w",
            unit: "/s",
            judged_by: &["per_second"],
            connections: 1,
            results: vec![results("a", &[9.0, 1.0, 4.0]), results("b", &[6.0, 10.0]), results("c", &[])],
        };
        outcome.reckon("a");
        assert_eq!(outcome.median("a", "per_second"), Some(4.0));
        assert_eq!(outcome.median("b", "per_second"), Some(8.0));
        assert_eq!(outcome.median("c", "per_second"), None);
        let mut open = outcome.results[0].clone();
        assert!(!open.is_behind(2));
        open.median.insert("rate", 2.0);
        assert!(!open.is_behind(2) && open.is_behind(3));
        assert_eq!(outcome.results[1].ratio.get("per_second"), Some(&2.0));
        assert!(outcome.results[1].generator_bound && !outcome.results[0].generator_bound);
    }
}
