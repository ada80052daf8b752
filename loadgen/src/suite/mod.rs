//! The suite: works × rounds × servers, interleaved, each run against a server of its own start.
//!
//! Says what is done next and keeps what was found; starting is `process`, the works are `works`, the
//! reckoning `outcome`, showing `table` and `page`. Called by `main`.

pub mod outcome;
mod page;
mod process;
mod results_page;
mod runs;
mod servers;
mod table;
mod works;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};

use crate::args::{SuiteArgs, cpu_list};
use crate::frame;
use crate::random::Random;
use crate::report::Report;
use crate::system;
use crate::work::channels::Mode;
use outcome::{Found, Outcome, Participant, Results, Role, Skipped, Summary};
use process::Absent;
use runs::{Endpoint, Run, Settings};
use servers::{Server, Servers};
use works::{Kind, PART, WINDOWS, Work};

/// The subscribers of the try that tells how long a delivery is. An offset has more digits the fewer there are:
/// so many make it about as long as in the works.
const LEARN: u32 = 500;
const SECRET: &str = "URINGCAST_AUTH__HS256_SECRET";
const API_KEYS: &str = "URINGCAST_HTTP__KEYS";

struct Suite<'a> {
    args: &'a SuiteArgs,
    interrupted: &'a Arc<AtomicBool>,
    servers: Servers,
    settings: Settings,
    server_cpus: Vec<usize>,
    works: Vec<Work>,
    base: String,
    skipped: Vec<Skipped>,
    /// Publications a second that each server took in the search.
    saturated: BTreeMap<String, Vec<f64>>,
    begun: Instant,
    /// Runs done, and runs to do.
    progress: (usize, usize),
}

/// `loadgen suite`
pub fn suite(args: &SuiteArgs, interrupted: &Arc<AtomicBool>) -> Result<bool> {
    let mut suite = Suite::new(args, interrupted)?;
    suite.set_up();
    suite.learn_length()?;
    let works = suite.all_works();
    let summary = Summary {
        machine: machine(),
        setup: suite.called(),
        note: args.note.clone(),
        command: command_line(),
        date: httpdate::fmt_http_date(SystemTime::now()),
        participants: suite.participants(),
        rounds: args.rounds,
        base: suite.base.clone(),
        skipped: suite.skipped,
        works,
    };
    table::print(&summary);
    if let Some(path) = &args.out_md {
        let text = table::markdown(&summary);
        std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.page {
        let text = results_page::render(&summary);
        std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&summary)?;
        std::fs::write(path, text + "\n").with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &args.html {
        page::write(&summary, path)?;
    }
    if interrupted.load(Relaxed) {
        println!("interrupted: this is the part until then");
    }
    Ok(summary.passed())
}

/// The command line without the folders of absolute paths, which say nothing elsewhere.
fn command_line() -> String {
    let short = |argument: String| {
        let path = Path::new(&argument);
        let name = path.file_name().filter(|_| path.is_absolute());
        name.map_or(argument.clone(), |name| name.to_string_lossy().into_owned())
    };
    let quoted = |argument: String| if argument.contains(' ') { format!("'{argument}'") } else { argument };
    let arguments: Vec<_> = std::env::args().skip(1).map(short).map(quoted).collect();
    format!("loadgen {}", arguments.join(" "))
}

fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/cpuinfo");
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let model = model.trim_start_matches(['\t', ' ', ':']);
    let cpus = info.lines().filter(|line| line.starts_with("processor")).count();
    format!("{cpus} CPUs, {model}, Linux {}", read("/proc/sys/kernel/osrelease").trim())
}

impl<'a> Suite<'a> {
    fn new(args: &'a SuiteArgs, interrupted: &'a Arc<AtomicBool>) -> Result<Self> {
        if !args.seconds.is_finite() || args.seconds < 0.1 {
            bail!("--seconds must be at least 0.1");
        }
        if !args.timeout.is_finite() || args.timeout <= 0.0 {
            bail!("--timeout must be more than 0");
        }
        let mut servers = Servers::read(&args.servers)?;
        let cpus = |list: &Option<String>| list.as_deref().map_or(Ok(Vec::new()), cpu_list);
        let mut random = Random::seeded();
        let secret = format!("{:016x}{:016x}", random.next(), random.next());
        for server in servers.all.iter_mut().filter(|server| server.is_uringcast()) {
            let mut set = |name: &str, value: String| {
                server.env.entry(name.to_owned()).or_insert(value);
            };
            set(SECRET, secret.clone());
            set(API_KEYS, format!("[\"{secret}\"]"));
            set("URINGCAST_HTTP__LISTEN", "127.0.0.1:0".to_owned());
            set("URINGCAST_NAMESPACES__ROOM__PUBLISH", "members".to_owned());
        }
        for name in args.only.iter().chain(&args.base) {
            if !servers.all.iter().any(|server| server.name == *name) {
                bail!("{} has no server {name:?}", args.servers.display());
            }
        }
        let takes_part = |server: &&Server| args.only.is_empty() || args.only.contains(&server.name);
        let first = servers.all.iter().find(takes_part).map(|server| server.name.clone());
        let load_cpus = cpus(&args.load_cpu)?;
        // What this thread does beside the load threads must not disturb the server.
        system::pin(&load_cpus)?;
        Ok(Self {
            settings: Settings {
                seconds: args.seconds,
                load_cpus,
                timeout: args.timeout,
                secret,
                around_text: args.wire_bytes.map(|bytes| bytes.saturating_sub(64)),
                around_text_in_channels: args.wire_bytes.map(|bytes| bytes.saturating_sub(64)),
            },
            server_cpus: cpus(&args.server_cpu)?,
            works: Work::chosen(&args.works)?,
            base: args.base.clone().or(first).unwrap_or_default(),
            args,
            interrupted,
            servers,
            skipped: Vec::new(),
            saturated: BTreeMap::new(),
            begun: Instant::now(),
            progress: (0, 0),
        })
    }

    fn called(&self) -> String {
        let list = |cpus: &[usize]| match cpus {
            [] => "any CPU".to_owned(),
            cpus => format!("CPU {}", cpus.iter().map(usize::to_string).collect::<Vec<_>>().join(",")),
        };
        format!(
            "servers on {}, load on {}, {} s a run, {} rounds interleaved",
            list(&self.server_cpus),
            list(&self.settings.load_cpus),
            self.settings.seconds,
            self.args.rounds
        )
    }

    fn participants(&self) -> Vec<Participant> {
        let takes_part = |server: &&Server| {
            (self.args.only.is_empty() || self.args.only.contains(&server.name)) && !self.is_skipped(&server.name)
        };
        let participant = |server: &Server| Participant {
            name: server.name.clone(),
            role: match server {
                server if server.is_uringcast() => Role::Own,
                server if server.floor => Role::Floor,
                _ => Role::Peer,
            },
            version: process::version(server),
        };
        self.servers.all.iter().filter(takes_part).map(participant).collect()
    }

    fn is_skipped(&self, server: &str) -> bool {
        self.skipped.iter().any(|skipped| skipped.server == server)
    }

    fn skip(&mut self, server: &str, why: String) {
        eprintln!("{server} is skipped: {why}");
        self.skipped.push(Skipped { server: server.to_owned(), why });
    }

    /// The servers that take part in `work`.
    fn taking_part(&self, work: &Work) -> Vec<Server> {
        let able = |server: &&Server| {
            (self.args.only.is_empty() || self.args.only.contains(&server.name))
                && !self.is_skipped(&server.name)
                && server.can(work.name)
                && work.is_possible(self.servers.protocol.get(&server.protocol))
        };
        self.servers.all.iter().filter(able).cloned().collect()
    }

    fn set_up(&mut self) {
        let servers = self.servers.all.clone();
        for server in servers {
            if !self.args.only.is_empty() && !self.args.only.contains(&server.name) {
                continue;
            }
            if let Err(absent) = process::set_up(&server) {
                self.skip(&server.name, absent.to_string());
            }
        }
    }

    /// Finds out how long uringcast's deliveries are, if a server has to match them: those of the lobby, and those of
    /// channels.
    fn learn_length(&mut self) -> Result<()> {
        let padded = |work: &&Work| self.taking_part(work).iter().any(|server| server.pad);
        let padded: Vec<Work> = self.works.iter().filter(padded).copied().collect();
        if self.settings.around_text.is_some() || padded.is_empty() {
            return Ok(());
        }
        let uringcast = self.servers.all.iter().find(|server| server.is_uringcast());
        let uringcast = uringcast.context("a server has `pad` and none speaks uringcast: give --wire-bytes")?.clone();
        if padded.iter().any(|work| !work.kind.has_channels()) {
            let kind = works::fanout(64);
            self.settings.around_text = Some(self.around_text(&uringcast, LEARN, kind)?);
        }
        if padded.iter().any(|work| work.kind.has_channels()) {
            let kind = works::channels(Mode::Publish, 1, 32);
            self.settings.around_text_in_channels = Some(self.around_text(&uringcast, LEARN, kind)?);
        }
        Ok(())
    }

    /// What uringcast adds to a text in a delivered message.
    fn around_text(&self, uringcast: &Server, connections: u32, kind: Kind) -> Result<usize> {
        let run = Run { connections, kind, rate: None, seconds: 0.5 };
        let report = self.once(uringcast, &run).map_err(|absent| {
            anyhow::anyhow!("can't learn the length of a delivery from {}: {absent}; give --wire-bytes", uringcast.name)
        })?;
        let traffic = report.traffic.context("the try with uringcast brought nothing; give --wire-bytes")?;
        let message = frame::payload_of(traffic.bytes_per_message.round() as usize);
        let of = if kind.has_channels() { " of a channel" } else { "" };
        eprintln!(
            "a delivered message of uringcast's{of} is {message} bytes long with a text of 64: others are padded to it"
        );
        Ok(message.saturating_sub(64))
    }

    /// Starts `server`, does one run, stops it.
    fn once(&self, server: &Server, run: &Run) -> Result<Report, Absent> {
        let (window, pipeline) = match run.kind {
            Kind::Fanout { window, .. } => (window, 1),
            Kind::Echo { pipeline } => (1, pipeline),
            _ => (1, 1),
        };
        let fill =
            |text: &String| text.replace("{window}", &window.to_string()).replace("{pipeline}", &pipeline.to_string());
        let argv: Vec<String> = server.command.iter().map(fill).collect();
        let own = server.cpus.as_deref().and_then(|list| cpu_list(list).ok());
        let cpus = own.as_deref().unwrap_or(&self.server_cpus);
        let timeout = Duration::from_secs_f64(self.settings.timeout);
        let needs_api = server.is_uringcast() && run.kind.needs_api();
        let mut running = process::start(server, &argv, cpus, timeout, needs_api)?;
        let endpoint = Endpoint {
            address: &running.address,
            pid: running.pid(),
            template: self.servers.protocol.get(&server.protocol),
            pad: server.pad,
            lockstep: server.lockstep,
            compress: server.compress.as_deref(),
            sse: server.sse,
            secret: server.env.get(SECRET).unwrap_or(&self.settings.secret),
            api: running.api.as_deref().unwrap_or(&running.address),
            api_key: &self.settings.secret,
        };
        let report = run.go(&endpoint, &self.settings, self.interrupted);
        let report = report.map_err(|error| Absent::Failed(format!("{error:#}")))?;
        if running.is_gone() {
            return Err(Absent::Failed("the server ended while it was measured".to_owned()));
        }
        Ok(report)
    }

    fn all_works(&mut self) -> Vec<Outcome> {
        let works = self.works.clone();
        let runs = |work: &Work| self.taking_part(work).len() * self.args.rounds as usize;
        self.progress.1 = works.iter().map(runs).sum();
        self.begun = Instant::now();
        let mut outcomes = Vec::new();
        for work in &works {
            if self.interrupted.load(Relaxed) {
                break;
            }
            let outcome = self.rounds(work);
            if !outcome.results.is_empty() {
                eprintln!("{}", table::work(&outcome));
                outcomes.push(outcome);
            }
        }
        outcomes
    }

    /// A B C A B C …
    fn rounds(&mut self, work: &Work) -> Outcome {
        let servers = self.taking_part(work);
        let connections = if work.kind == Kind::Connect { self.args.idle } else { work.connections };
        let connections = (connections / self.args.scale_down).max(2);
        let mut outcome = Outcome {
            name: work.name,
            title: work.title,
            unit: work.unit,
            judged_by: work.judged_by(),
            connections,
            results: servers.iter().map(|server| Results::new(&server.name)).collect(),
        };
        for round in 1..=self.args.rounds {
            for (server, results) in servers.iter().zip(&mut outcome.results) {
                self.progress.0 += 1;
                if self.interrupted.load(Relaxed) || self.is_skipped(&server.name) || results.error.is_some() {
                    continue;
                }
                match self.measure(work, connections, server) {
                    Ok(found) => {
                        self.tell(work, server, round, &found);
                        results.rounds.push(found);
                    }
                    Err(Absent::Missing(why)) => self.skip(&server.name, why),
                    Err(Absent::Failed(why)) => {
                        eprintln!("{} · {}: {why}", work.name, server.name);
                        results.error = Some(why);
                    }
                }
            }
        }
        outcome.results.retain(|results| !results.rounds.is_empty() || results.error.is_some());
        outcome.reckon(&self.base);
        outcome
    }

    fn tell(&self, work: &Work, server: &Server, round: u32, found: &Found) {
        let (done, all) = self.progress;
        let spent = self.begun.elapsed().as_secs_f64();
        let left = spent / done.max(1) as f64 * (all - done) as f64;
        let rate = found.figures.get("per_second").copied().unwrap_or_default();
        let verdict = if found.faults.any() { ", FAULTY" } else { "" };
        eprintln!(
            "[{done}/{all}] {} · {} · round {round}: {} {}{verdict} (about {left:.0} s left)",
            work.name,
            server.name,
            crate::report::thousands(rate),
            work.unit
        );
    }

    fn measure(&mut self, work: &Work, connections: u32, server: &Server) -> Result<Found, Absent> {
        let seconds = self.settings.seconds;
        let run = Run { connections, kind: work.kind, rate: None, seconds };
        match work.kind {
            Kind::Talk { rate } | Kind::Low { rate } => {
                // Percentiles of a hundred a second need some time.
                let seconds = if work.kind == (Kind::Low { rate }) { seconds.max(3.0) } else { seconds };
                let report = self.once(server, &Run { rate: Some(f64::from(rate)), seconds, ..run })?;
                let mut found = Found::of(&report);
                found.figures.insert("rate", f64::from(rate));
                Ok(found)
            }
            Kind::Saturated => self.search(connections, server),
            Kind::Latency { same } => {
                let rate = self.latency_rate(connections, server, same)?;
                let mut found = Found::of(&self.once(server, &Run { rate: Some(rate), ..run })?);
                found.figures.insert("rate", rate);
                Ok(found)
            }
            _ => self.once(server, &run).map(|report| Found::of(&report)),
        }
    }

    /// Tries the windows and keeps the one with the most deliveries.
    fn search(&mut self, connections: u32, server: &Server) -> Result<Found, Absent> {
        let mut best: Option<Found> = None;
        for window in WINDOWS {
            if self.interrupted.load(Relaxed) {
                break;
            }
            let kind = works::fanout(window);
            let run = Run { connections, kind, rate: None, seconds: (self.settings.seconds / 2.0).max(0.2) };
            let mut found = Found::of(&self.once(server, &run)?);
            found.figures.insert("window", f64::from(window));
            let rate = |found: &Found| found.figures.get("per_second").copied().unwrap_or_default();
            let better = best.as_ref().is_none_or(|best| rate(&found) > rate(best));
            let faulty = found.faults.any();
            if better || faulty {
                best = Some(found);
            }
            if faulty {
                break;
            }
        }
        let best = best.ok_or_else(|| Absent::Failed("interrupted".to_owned()))?;
        if let Some(rate) = best.figures.get("per_second") {
            self.saturated.entry(server.name.clone()).or_default().push(rate / f64::from(connections));
        }
        Ok(best)
    }

    /// Publications a second for an open loop: a part of what was the most.
    fn latency_rate(&mut self, connections: u32, server: &Server, same: bool) -> Result<f64, Absent> {
        if let Some(rate) = self.args.rate.filter(|_| same) {
            return Ok(rate);
        }
        let base = self.servers.all.iter().find(|server| server.name == self.base).cloned();
        let of = if same { base.unwrap_or_else(|| server.clone()) } else { server.clone() };
        if !self.saturated.contains_key(&of.name) {
            self.search(connections, &of)?;
        }
        let rates = self.saturated.get(&of.name).cloned().unwrap_or_default();
        let most = outcome::median(rates).unwrap_or_default();
        if most <= 0.0 {
            return Err(Absent::Failed(format!("{} delivered nothing in the search for its rate", of.name)));
        }
        Ok(most * PART)
    }
}
