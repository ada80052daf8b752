//! What a run says at its end: the table, the JSON, the verdict.
//!
//! One report for all commands: what a command doesn't measure is absent. Reckons rates from counters and
//! judges whether the generator itself was the limit. Called by `main`.

pub mod abuse;
pub mod compression;
pub mod html;
pub mod plot;

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, Table, presets};
use serde::Serialize;

use crate::check::Faults;
use crate::latency::Percentiles;
use crate::procfs::Memory;
use crate::run::{Busy, Difference, Measured, Point};
use crate::work::chat::Visits;
use crate::work::storm::Returns;
use compression::Compression;

/// A thread that spends this part of its time on a CPU can't do more.
const SATURATED: f64 = 0.95;
/// A thread that waits this part of its time for a CPU is held up by others.
const CROWDED: f64 = 0.15;

/// A run's report.
#[derive(Serialize)]
pub struct Report {
    /// echo, fanout or connect.
    pub command: &'static str,
    /// The server.
    pub url: String,
    /// How messages were paced, for people.
    pub pace: String,
    /// Connections asked for.
    pub connections: u64,
    /// Connections signed in.
    pub ready: u64,
    /// How the connecting went.
    pub connecting: Connecting,
    /// The measured window.
    pub traffic: Option<Traffic>,
    /// Latency of messages.
    pub latency: Option<Percentiles>,
    /// How late the generator itself was in sending (open loop).
    pub send_lag: Option<Percentiles>,
    /// Messages sent over the whole run.
    pub sent: u64,
    /// Messages received over the whole run.
    pub received: u64,
    /// Pushes that are no publications.
    pub pushes: u64,
    /// Publications of others.
    pub foreign: u64,
    /// Messages of the schedule that were never sent (open loop).
    pub unsent: u64,
    /// Closed windows opened by force.
    pub stalls: u64,
    /// The server's memory.
    pub memory: Option<MemoryPerConnection>,
    /// What the server's processes held resident at the end of the measured window, in bytes.
    pub rss_after: Option<u64>,
    /// Subscriptions to channels, all connections together.
    pub subscriptions: u64,
    /// Bytes of private memory of the server for each of them, where that is measured.
    pub memory_each: Option<f64>,
    /// Who came and went (chat).
    pub chat: Option<Visits>,
    /// How the dropped connections came back (storm).
    pub storm: Option<Storm>,
    /// How compression went, if it was offered.
    pub compression: Option<Compression>,
    /// Messages received over time.
    pub timeline: Vec<Point>,
    /// How busy the load threads were in the part that counts.
    pub generator: Vec<Busy>,
    /// The generator was the bottleneck.
    pub generator_bound: bool,
    /// What went wrong.
    pub faults: Faults,
    /// Examples of it.
    pub examples: Vec<String>,
    /// What should be known when reading the numbers.
    pub notes: Vec<String>,
    /// The run was ended by a signal.
    pub interrupted: bool,
}

/// How the connecting went.
#[derive(Serialize)]
pub struct Connecting {
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Connections a second.
    pub per_second: f64,
    /// Until the upgrade was done.
    pub upgrade: Option<Percentiles>,
    /// Until the sign-in was done.
    pub sign_in: Option<Percentiles>,
    /// The server's CPU time per connection, in microseconds.
    pub server_cpu_us: Option<f64>,
}

/// What went through in the measured window.
#[derive(Serialize)]
pub struct Traffic {
    /// Its length.
    pub seconds: f64,
    /// Messages sent a second.
    pub sent_per_second: f64,
    /// Messages received a second: echoes or deliveries.
    pub received_per_second: f64,
    /// Frames per `recv` that brought data.
    pub coalescing: f64,
    /// Messages per `recv` that brought data: a frame of another server may hold several.
    pub per_receive: f64,
    /// Bytes received per message, headers included.
    pub bytes_per_message: f64,
    /// Bytes received a second.
    pub bytes_in_per_second: f64,
    /// Bytes sent a second.
    pub bytes_out_per_second: f64,
    /// The server's CPU time per message received, in nanoseconds.
    pub server_cpu_ns: Option<f64>,
    /// CPUs that the server used.
    pub server_cpus: Option<f64>,
    /// CPUs that its threads would have used besides, had they had them.
    pub server_cpus_wanting: Option<f64>,
    /// How the CPUs that the server is kept on spent their time, for all processes.
    pub server_cores: Option<Cores>,
}

/// How the CPUs that the server is kept on spent their time, as CPUs.
#[derive(Serialize)]
pub struct Cores {
    /// In programs.
    pub user: f64,
    /// In the kernel, for programs and for its own threads.
    pub system: f64,
    /// In interrupts and what they leave to be done behind them.
    pub interrupts: f64,
    /// Nanoseconds in any of that, per message received.
    pub ns_per_message: f64,
}

impl Cores {
    fn of(difference: &Difference) -> Option<Self> {
        let (cores, window) = (difference.server_cores?, &difference.counts);
        Some(Self {
            user: ratio(cores.user, window.at),
            system: ratio(cores.system, window.at),
            interrupts: ratio(cores.interrupts, window.at),
            ns_per_message: ratio(cores.busy(), window.messages),
        })
    }
}

/// How the dropped connections came back.
#[derive(Serialize)]
pub struct Storm {
    /// What was counted.
    #[serde(flatten)]
    pub returns: Returns,
    /// Connections that came back, a second.
    pub per_second: f64,
    /// From the intended time of coming back to the sign-in.
    pub sign_in: Option<Percentiles>,
    /// The server's CPU time per connection from the drop until all were back, in microseconds.
    pub server_cpu_us: Option<f64>,
}

/// The server's memory, and what each connection added.
#[derive(Serialize)]
pub struct MemoryPerConnection {
    /// Before.
    pub before: Memory,
    /// With all connections there and idle.
    pub idle: Memory,
    /// Bytes of RSS per connection.
    pub rss: f64,
    /// Bytes of private memory per connection.
    pub private: f64,
    /// Bytes of anonymous memory per connection.
    pub anonymous: f64,
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Traffic {
    fn of(difference: &Difference) -> Self {
        let (window, cpu) = (&difference.counts, difference.server_cpu);
        let seconds = window.at as f64 / 1e9;
        let per_second = |count: u64| count as f64 / seconds.max(1e-9);
        Self {
            seconds,
            sent_per_second: per_second(window.sent),
            received_per_second: per_second(window.messages),
            coalescing: ratio(window.frames, window.receives),
            per_receive: ratio(window.messages, window.receives),
            bytes_per_message: ratio(window.bytes_in, window.messages),
            bytes_in_per_second: per_second(window.bytes_in),
            bytes_out_per_second: per_second(window.bytes_out),
            server_cpu_ns: cpu.map(|cpu| ratio(cpu, window.messages)),
            server_cpus: cpu.map(|cpu| ratio(cpu, window.at)),
            server_cpus_wanting: difference.server_waited.map(|waited| ratio(waited, window.at)),
            server_cores: Cores::of(difference),
        }
    }
}

impl MemoryPerConnection {
    fn of((before, idle): (Memory, Memory), connections: u64) -> Self {
        let each = |before: u64, idle: u64| (idle as f64 - before as f64) / connections as f64;
        Self {
            before,
            idle,
            rss: each(before.rss, idle.rss),
            private: each(before.private, idle.private),
            anonymous: each(before.anonymous, idle.anonymous),
        }
    }
}

impl Report {
    /// What every command reports; `idle` if connecting is what counts.
    pub fn new<W>(command: &'static str, url: &str, connections: u32, measured: &Measured<W>, idle: bool) -> Self {
        let connecting = &measured.connecting;
        let seconds = connecting.counts.at as f64 / 1e9;
        let busy = measured.busy[usize::from(!idle)].clone();
        let mut report = Self {
            command,
            url: url.to_owned(),
            pace: String::new(),
            connections: u64::from(connections),
            ready: measured.ready,
            connecting: Connecting {
                seconds,
                per_second: measured.ready as f64 / seconds.max(1e-9),
                upgrade: measured.upgraded.percentiles(),
                sign_in: measured.signed_in.percentiles(),
                server_cpu_us: connecting.server_cpu.map(|cpu| ratio(cpu, measured.ready) / 1e3),
            },
            traffic: None,
            latency: None,
            send_lag: None,
            sent: measured.total.sent,
            received: measured.total.messages,
            pushes: 0,
            foreign: 0,
            unsent: 0,
            stalls: 0,
            // Under traffic a server's memory says little of what an idle connection costs.
            memory: measured
                .memory
                .filter(|_| idle)
                .map(|memory| MemoryPerConnection::of(memory, u64::from(connections))),
            generator_bound: false,
            rss_after: measured.memory_after.map(|memory| memory.rss),
            subscriptions: 0,
            memory_each: None,
            chat: None,
            storm: None,
            compression: measured.offer.as_deref().map(|offer| Compression::of(offer, &measured.compression)),
            timeline: measured.timeline.clone(),
            generator: busy,
            faults: measured.faults,
            examples: measured.examples.clone(),
            notes: Vec::new(),
            interrupted: measured.interrupted,
        };
        if !idle {
            report.traffic = measured.window.as_ref().map(Traffic::of);
        }
        report.judge_generator();
        report.judge_server();
        report
    }

    /// Notes how the dropped connections came back.
    pub fn returned<W>(&mut self, returns: Returns, measured: &Measured<W>) {
        if returns.unrecovered > 0 {
            self.notes.push(format!(
                "{} connections were told that what they had missed is gone, {} publications in all: the \
                 history is shorter than their absence",
                returns.unrecovered, returns.missed
            ));
        }
        let cpu = measured.window.as_ref().and_then(|window| window.server_cpu);
        self.storm = Some(Storm {
            per_second: returns.back as f64 / returns.seconds.max(1e-9),
            sign_in: measured.returned.percentiles(),
            server_cpu_us: cpu.map(|cpu| ratio(cpu, returns.back) / 1e3),
            returns,
        });
    }

    fn judge_generator(&mut self) {
        let most = |part: fn(&Busy) -> f64| self.generator.iter().map(part).fold(0.0, f64::max);
        let (used, waited) = (most(|busy| busy.used), most(|busy| busy.waited));
        self.generator_bound = most(|busy| busy.used + busy.waited) > SATURATED;
        if self.generator_bound {
            let cpus = self.traffic.as_ref().and_then(|traffic| traffic.server_cpus);
            let server = cpus.map_or(String::new(), |cpus| format!(" (the server used {cpus:.2} CPUs meanwhile)"));
            self.notes.push(format!(
                "the generator was the bottleneck: its busiest thread spent {:.0} % of the time on a CPU \
                 and {:.0} % waiting for one{server}; trust the server's CPU per message, not the rate",
                used * 100.0,
                waited * 100.0
            ));
        } else if waited > CROWDED {
            self.notes.push(format!(
                "a load thread waited {:.0} % of the time for a CPU: others use it; see --cpus",
                waited * 100.0
            ));
        }
    }

    fn judge_server(&mut self) {
        let wanting = self.traffic.as_ref().and_then(|traffic| traffic.server_cpus_wanting).unwrap_or_default();
        if wanting > CROWDED {
            self.notes.push(format!(
                "the server's threads waited for a CPU, {:.0} % of one all the time: for each other, or for what else runs \
                 here; its rate and its latency are the worse for it",
                wanting * 100.0
            ));
        }
    }

    /// Notes how messages were paced and what that means for latencies.
    pub fn paced(&mut self, rate: Option<f64>, closed: String) {
        match rate {
            Some(rate) => {
                self.pace = format!("open loop, {rate} messages a second");
                self.notes.push(
                    "latency counts from the intended time of sending, so a stalled server shows in it".to_owned(),
                );
            }
            None => {
                self.notes.push(format!(
                    "{closed} is a closed loop: a slower server is sent less, so its latency is that of \
                     this window, not of a given load (--rate measures that)"
                ));
                self.pace = format!("closed loop, {closed}");
            }
        }
        // The last moments of a schedule may be cut off; more than that is a rate that didn't go through.
        if self.unsent as f64 > rate.map_or(0.0, |rate| 1.0 + rate / 100.0) {
            self.notes.push(format!(
                "{} messages of the schedule were not sent: the rate was more than went through, and \
                 their latency is missing above",
                self.unsent
            ));
        }
        if self.stalls > 0 {
            self.notes.push(format!("{} times a window saw nothing for a second and was opened by force", self.stalls));
        }
    }

    /// Nothing went wrong.
    pub fn passed(&self) -> bool {
        !self.faults.any()
    }

    /// Writes the JSON.
    pub fn write_json(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))
    }

    /// Prints the table, the notes and the verdict.
    pub fn print(&self) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_BORDERS_ONLY);
        for (name, value) in self.rows() {
            let value = Cell::new(value).set_alignment(CellAlignment::Right);
            table.add_row([Cell::new(name), value]);
        }
        println!("loadgen {} {} · {}", self.command, self.url, self.pace);
        println!("{table}");
        let measured = [
            ("latency", &self.latency),
            ("send lag", &self.send_lag),
            ("upgrade", &self.connecting.upgrade),
            ("sign-in", &self.connecting.sign_in),
            ("return", self.storm.as_ref().map_or(&None, |storm| &storm.sign_in)),
        ];
        println!("{}", percentile_table(&measured));
        for note in &self.notes {
            println!("note: {note}");
        }
        if self.interrupted {
            println!("note: interrupted, so this is the part until then");
        }
        for example in &self.examples {
            println!("example: {example}");
        }
        if self.passed() {
            println!("PASS: nothing lost, doubled, reordered or changed; no connection cut");
        } else {
            let named = self.faults.named();
            let bad = named.iter().filter(|(_, count)| *count > 0);
            let told: Vec<_> = bad.map(|(name, count)| format!("{count} {name}")).collect();
            println!("FAIL: {}", told.join(", "));
        }
    }

    fn rows(&self) -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        let connecting = &self.connecting;
        let ready = format!("{} of {}", thousands(self.ready as f64), self.connections);
        row("connections ready", ready);
        row("connections/s", thousands(connecting.per_second));
        if let Some(cpu) = connecting.server_cpu_us {
            row("server CPU per connection", format!("{cpu:.1} µs"));
        }
        if let Some(traffic) = &self.traffic {
            let what = match self.command {
                "echo" => "echoes",
                "replies" => "replies",
                "subscribe" => "subscriptions",
                "api" => "requests",
                "broadcast" => "channels",
                "newcomers" => "sign-ins",
                _ => "deliveries",
            };
            row("measured", format!("{:.2} s", traffic.seconds));
            row("sent/s", thousands(traffic.sent_per_second));
            row(&format!("{what}/s"), thousands(traffic.received_per_second));
            row("frames per recv", format!("{:.2}", traffic.coalescing));
            if (traffic.per_receive / traffic.coalescing.max(1e-9) - 1.0).abs() > 0.1 {
                row("messages per recv", format!("{:.2}", traffic.per_receive));
            }
            row("wire bytes per message in", format!("{:.0}", traffic.bytes_per_message));
            let megabytes = |bytes: f64| format!("{:.1} MB/s", bytes / 1e6);
            row("wire in", megabytes(traffic.bytes_in_per_second));
            row("wire out", megabytes(traffic.bytes_out_per_second));
            if let (Some(cpu), Some(cpus)) = (traffic.server_cpu_ns, traffic.server_cpus) {
                row("server CPU per message", format!("{cpu:.0} ns"));
                row("server CPUs used", format!("{cpus:.2}"));
            }
            if let Some(cores) = &traffic.server_cores {
                row("its CPUs' time per message, anyone's", format!("{:.0} ns", cores.ns_per_message));
                let parts = [cores.user, cores.system, cores.interrupts].map(|part| format!("{:.0} %", part * 100.0));
                row("… programs / kernel / interrupts", parts.join(" / "));
            }
            let totals = (thousands(self.sent as f64), thousands(self.received as f64));
            row("sent / received in all", format!("{} / {}", totals.0, totals.1));
        }
        if self.pushes + self.foreign > 0 {
            let pushes = (thousands(self.pushes as f64), self.foreign);
            row("other pushes / foreign", format!("{} / {}", pushes.0, pushes.1));
        }
        if let Some(storm) = &self.storm {
            let returns = &storm.returns;
            row("dropped / back", format!("{} / {}", returns.dropped, returns.back));
            row("until all were back", format!("{:.3} s", returns.seconds));
            row("returns/s", thousands(storm.per_second));
            if let Some(cpu) = storm.server_cpu_us {
                row("server CPU per return", format!("{cpu:.1} µs"));
            }
            row("recovered / not", format!("{} / {}", returns.recovered, returns.unrecovered));
            row("replayed / missed", format!("{} / {}", returns.replayed, returns.missed));
        }
        if let Some(chat) = &self.chat {
            row("left / came back", format!("{} / {}", chat.leaves, chat.joins));
            let events = thousands(chat.presence_events as f64);
            row("presence events (digests)", format!("{events} ({})", chat.digests));
            let count = chat.online_count.map_or("?".to_owned(), |count| count.to_string());
            row("users at the end", count);
        }
        rows.extend(self.compression.iter().flat_map(Compression::rows));
        let mut row = |name: &str, value: String| rows.push((name.to_owned(), value));
        if let Some(each) = self.memory_each {
            row("server memory per subscription", format!("{each:.0} B"));
        }
        if let Some(rss) = self.rss_after {
            row("server RSS under load", format!("{:.1} MB", rss as f64 / 1e6));
        }
        if let Some(memory) = self.memory.as_ref() {
            row("server RSS per connection", format!("{:.0} B", memory.rss));
            row("… private", format!("{:.0} B", memory.private));
            row("… anonymous", format!("{:.0} B", memory.anonymous));
            let whole = memory.idle.rss as f64 / 1e6;
            row("server RSS with all idle", format!("{whole:.1} MB"));
        }
        let busy = self.generator.iter();
        let busy: Vec<_> = busy.map(|b| format!("{:.0} %", b.used * 100.0)).collect();
        row("generator CPU per thread", busy.join(" "));
        rows
    }
}

fn percentile_table(measured: &[(&str, &Option<Percentiles>)]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(["µs", "min", "mean", "p50", "p90", "p99", "p99.9", "max", "count"]);
    for (name, percentiles) in measured {
        let Some(p) = percentiles else {
            continue;
        };
        let values = [p.min_us, p.mean_us, p.p50_us, p.p90_us, p.p99_us, p.p999_us, p.max_us];
        let mut row = vec![Cell::new(name)];
        row.extend(values.map(|value| Cell::new(format!("{value:.1}"))));
        row.push(Cell::new(thousands(p.count as f64)));
        for cell in row.iter_mut().skip(1) {
            *cell = cell.clone().set_alignment(CellAlignment::Right);
        }
        table.add_row(row);
    }
    table
}

/// A number with its thousands set apart.
pub fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let pairs = [(0.0, "0"), (999.0, "999"), (1e3, "1,000"), (1234567.6, "1,234,568")];
        for (number, text) in pairs {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn memory_is_shared_out() {
        let memory = |rss| Memory { rss, private: rss, anonymous: rss };
        let each = MemoryPerConnection::of((memory(1_000), memory(9_000)), 8);
        assert_eq!((each.rss, each.anonymous), (1_000.0, 1_000.0));
    }
}
