//! The commands: arguments become a plan and a workload, and what the run measured a report.
//!
//! Called by `main` for one run and by `suite` for many.

mod channels;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::args::{AbuseArgs, Auth, ChatArgs, Common, ConnectArgs, EchoArgs, FanoutArgs, Speak, StormArgs, Users};
use crate::control::Plan;
use crate::latency::{Latencies, SECOND};
use crate::marker::Content;
use crate::procfs;
use crate::protocol::{Dialect, Template, Tokens, unescaped};
use crate::random::Random;
use crate::report::Report;
use crate::report::abuse::{AbuseReport, Innocent, Suffered};
use crate::run::{self, Measured, Times};
use crate::system;
use crate::target::Target;
use crate::work::counted::Checked;
use crate::work::{abuse, chat, connect, echo, fanout, storm};

pub use channels::{api, channels, newcomers};

fn plan(common: &Common, url: &str, connections: u32) -> Result<Plan> {
    let wait = Duration::try_from_secs_f64(common.wait).context("--wait is no time")?;
    let target = Target::parse(url)?.reached(&common.source, wait)?;
    let connections = connections as usize;
    system::reserve_descriptors(connections)?;
    Ok(Plan {
        dialect: Dialect::Raw.into(),
        connections,
        threads: usize::from(common.threads),
        cpus: common.cpus()?,
        sources: target.sources(&common.source, connections),
        connect_rate: None,
        in_flight: common.in_flight.max(1),
        timeout: (common.timeout * SECOND as f64) as u64,
        compression: common.compression.settings()?,
        delay_acks: common.delay_acks,
        streams: None,
        requests: None,
        later: 0,
        target,
    })
}

fn tokens(auth: &Auth, plan: &Plan) -> Result<Tokens> {
    let same = auth.users == Users::Same;
    if let Some(token) = &auth.token {
        return Ok(Tokens::Given(token.clone()));
    }
    if let Some(path) = &auth.secret_file {
        return Tokens::minted(&read_secret(path)?, same);
    }
    // It may be the environment's, where it stands for the server: what the command line says counts for more.
    if let Some(secret) = auth.secret.as_ref().filter(|_| !auth.dev) {
        return Tokens::minted(secret.as_bytes(), same);
    }
    let count = if same { 1 } else { plan.connections };
    Tokens::fetched(&plan.target, count, Duration::from_nanos(plan.timeout))
}

/// A secret without the line end that editors leave behind it.
fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let secret = std::fs::read(path).with_context(|| format!("can't read {}", path.display()))?;
    Ok(secret.trim_ascii_end().to_vec())
}

/// The template that the flags ask for, if they do.
pub fn template(speak: &Speak) -> Result<Option<Template>> {
    if let Some(template) = &speak.template {
        return Ok(Some(template.clone()));
    }
    if let Some(path) = &speak.protocol_file {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let name = speak.protocol.as_deref().context("--protocol-file needs --protocol NAME")?;
        return Template::named(&text, name).with_context(|| path.display().to_string()).map(Some);
    }
    match speak.protocol.as_deref() {
        Some("uringcast") => return Ok(None),
        Some(other) => bail!("--protocol {other} needs --protocol-file"),
        None => {}
    }
    if speak.hello.is_empty() && speak.hello_reply.is_none() && speak.publish.is_none() && !speak.plain {
        return Ok(None);
    }
    let bare = Template::default();
    let template = Template {
        binary: speak.binary_frames,
        hello: speak.hello.iter().map(|text| unescaped(text)).collect(),
        hello_reply: speak.hello_reply.as_deref().map(unescaped),
        publish: speak.publish.as_deref().map_or(bare.publish, unescaped),
        ..Template::default()
    };
    template.check()?;
    Ok(Some(template))
}

fn dialect(speak: &Speak, auth: &Auth, plan: &Plan) -> Result<Dialect> {
    Ok(match template(speak)? {
        Some(template) => Dialect::Template(Box::new(template)),
        None => Dialect::Uringcast(Some(tokens(auth, plan)?)),
    })
}

/// The payload of a publication: as asked, or such that a delivery is as long as `--wire-bytes`.
fn payload(speak: &Speak, dialect: &Dialect, asked: usize) -> Result<usize> {
    payload_on(speak, dialect, None, asked)
}

/// The same of a publication on `channel`.
fn payload_on(speak: &Speak, dialect: &Dialect, channel: Option<&str>, asked: usize) -> Result<usize> {
    let Some(bytes) = speak.wire_bytes else {
        return Ok(asked);
    };
    match dialect {
        Dialect::Template(template) => {
            let length = match channel {
                Some(channel) => template.text_length_on(channel, bytes),
                None => template.text_length(bytes),
            };
            Ok(length.max(crate::marker::MARKER))
        }
        _ => bail!("--wire-bytes is for protocols by template: uringcast adds what it adds"),
    }
}

fn merged<'a>(parts: impl Iterator<Item = &'a Latencies>) -> Latencies {
    let mut all = Latencies::default();
    for part in parts {
        all.merge(part);
    }
    all
}

/// `loadgen echo`
pub fn echo(args: &EchoArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let plan = plan(&args.common, &args.url, args.connections)?;
    let settings = echo::Settings {
        connections: plan.connections,
        threads: plan.threads,
        pipeline: args.pipeline,
        rate: args.span.rate,
        payload: args.payload,
        binary: args.binary,
        verify_every: args.common.compression.verify_every(),
    };
    let times = Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0, rest: None };
    let measured =
        run::run(plan, times, args.common.pid, interrupted, |thread, slots| echo::Echo::new(settings, thread, slots))?;
    let mut report = Report::new("echo", &args.url, args.connections, &measured, false);
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.unsent += workload.unsent;
    }
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.lag)).percentiles();
    report.paced(args.span.rate, format!("pipeline {}", args.pipeline));
    Ok(report)
}

/// `loadgen fanout`
pub fn fanout(args: &FanoutArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    // Flags that can't be meant are told of at once, not after the server was waited for.
    template(&args.speak)?;
    let mut plan = plan(&args.place.common, &args.place.url, args.subscribers)?;
    plan.dialect = dialect(&args.speak, &args.place.auth, &plan)?.into();
    plan.streams = args.streams.streams(usize::from(args.publishers));
    let settings = fanout::Settings {
        threads: plan.threads,
        publishers: usize::from(args.publishers),
        window: args.window,
        lockstep: args.lockstep,
        rate: args.span.rate,
        payload: payload(&args.speak, &plan.dialect, args.payload)?,
        content: args.content,
        run: Random::seeded().key(),
        sample_every: plan.connections.div_ceil(args.sample.max(1)),
        last: args.last.then_some(plan.connections as u32),
        verify_every: args.place.common.compression.verify_every(),
    };
    let times = Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0, rest: None };
    let publications = fanout::Publications::new(&settings, &plan.dialect);
    let numbered = matches!(*plan.dialect, Dialect::Uringcast(_));
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        fanout::Fanout::new(settings, Arc::clone(&publications), thread, slots)
    })?;
    Ok(fanout_report(args, &measured, numbered))
}

fn fanout_report(args: &FanoutArgs, measured: &Measured<fanout::Fanout>, numbered: bool) -> Report {
    let mut report = Report::new("fanout", &args.place.url, args.subscribers, measured, false);
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.unsent += workload.unsent;
        report.stalls += workload.stalls;
        report.pushes += workload.pushes;
        report.foreign += workload.foreign;
        report.examples.extend(workload.examples.iter().cloned());
    }
    if let Some(compression) = &mut report.compression {
        let mut checked = Checked::default();
        measured.workloads.iter().for_each(|workload| checked.merge(&workload.checked()));
        compression.checked = Some(checked);
    }
    report.examples.truncate(5);
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.lag)).percentiles();
    if args.last {
        report.notes.push("latency is that of the last subscriber of each publication".to_owned());
    }
    let lockstep = if args.lockstep { " in lockstep" } else { "" };
    report.paced(args.span.rate, format!("window {}{lockstep}", args.window));
    if numbered && report.received > 0 && !measured.workloads.iter().any(fanout::Fanout::has_offsets) {
        let note = "the server sent no offsets: only this run's own numbering was checked";
        report.notes.push(note.to_owned());
    }
    report
}

/// `loadgen connect`
pub fn connect(args: &ConnectArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.place.common, &args.place.url, args.connections)?;
    let dialect = match template(&args.speak)? {
        Some(template) => Dialect::Template(Box::new(template)),
        None if args.no_auth => Dialect::Uringcast(None),
        None => Dialect::Uringcast(Some(tokens(&args.place.auth, &plan)?)),
    };
    plan.dialect = dialect.into();
    plan.connect_rate = args.rate;
    plan.streams = args.streams.streams(0);
    let times = Times { seconds: args.hold.max(0.01), warmup: 0.0, settle: args.settle, rest: None };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |_, _| connect::Idle::default())?;
    let mut report = Report::new("connect", &args.place.url, args.connections, &measured, true);
    report.pushes = report.received;
    report.pace = match args.rate {
        Some(rate) => format!("{rate} connections a second, timed from when each was due"),
        None => format!("{} on their way at a time", args.place.common.in_flight),
    };
    Ok(report)
}

/// `loadgen chat`
pub fn chat(args: &ChatArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.place.common, &args.place.url, args.connections)?;
    // Those who leave come back from another port.
    let visits = (args.churn * args.span.seconds) as usize;
    plan.sources = plan.target.sources(&args.place.common.source, plan.connections + visits);
    plan.dialect = Dialect::Uringcast(Some(tokens(&args.place.auth, &plan)?)).into();
    let settings = chat::Settings {
        connections: plan.connections,
        threads: plan.threads,
        publishers: usize::from(args.publishers),
        rate: args.span.rate.unwrap_or(100.0),
        churn: args.churn,
        away: u64::from(args.away_ms) * (SECOND / 1_000),
        rooms: usize::from(args.rooms),
        payload: args.payload,
        run: Random::seeded().key(),
    };
    let shared = chat::Shared::new(&settings, &args.room_prefix);
    let times = Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0, rest: None };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        chat::Chat::new(settings, Arc::clone(&shared), thread, slots)
    })?;
    let mut report = Report::new("chat", &args.place.url, args.connections, &measured, false);
    let mut visits = chat::Visits::default();
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.unsent += workload.unsent;
        report.foreign += workload.foreign;
        report.examples.extend(workload.examples.iter().cloned());
        visits.merge(&workload.visits);
    }
    report.examples.truncate(5);
    report.pushes = visits.presence_events;
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.lag)).percentiles();
    report.chat = Some(visits);
    report.paced(Some(settings.rate), String::new());
    Ok(report)
}

/// `loadgen storm`
pub fn storm(args: &StormArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.place.common, &args.place.url, args.connections)?;
    // The ports of the dropped connections rest on this side.
    plan.sources = plan.target.sources(&args.place.common.source, plan.connections * 4);
    plan.dialect = Dialect::Uringcast(Some(tokens(&args.place.auth, &plan)?)).into();
    let settings = fanout::Settings {
        threads: plan.threads,
        publishers: usize::from(args.publishers),
        window: 1,
        lockstep: false,
        rate: Some(args.rate),
        payload: args.payload,
        content: Content::Alphabet,
        run: Random::seeded().key(),
        sample_every: plan.connections.div_ceil(64),
        last: None,
        // What one missed is asked for by the offset that it has seen.
        verify_every: 1,
    };
    let jitter = u64::from(args.jitter_ms) * (SECOND / 1_000);
    let publications = fanout::Publications::new(&settings, &plan.dialect);
    let times = Times { seconds: args.before + args.within, warmup: args.before, settle: 0.0, rest: None };
    let measured = run::run(plan, times, args.place.common.pid, interrupted, |thread, slots| {
        storm::Storm::new(settings, Arc::clone(&publications), jitter, thread, slots)
    })?;
    let mut report = Report::new("storm", &args.place.url, args.connections, &measured, false);
    let mut returns = storm::Returns::default();
    for workload in &measured.workloads {
        report.faults += workload.fanout.faults();
        report.unsent += workload.fanout.unsent;
        report.foreign += workload.fanout.foreign;
        report.pushes += workload.fanout.pushes;
        report.examples.extend(workload.fanout.examples.iter().cloned());
        returns.merge(&workload.returns);
    }
    report.examples.truncate(5);
    report.faults.failed += returns.dropped.saturating_sub(returns.back + report.faults.failed + report.faults.cut);
    report.latency = merged(measured.workloads.iter().map(|w| &w.fanout.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.fanout.lag)).percentiles();
    report.returned(returns, &measured);
    report.paced(Some(args.rate), String::new());
    Ok(report)
}

/// `loadgen abuse`
pub fn abuse(args: &AbuseArgs, interrupted: &Arc<AtomicBool>) -> Result<AbuseReport> {
    args.check()?;
    let mut fanout_args = args.innocent();
    let plan = plan(&args.place.common, &args.place.url, args.connections + args.abusers as u32)?;
    let tokens = tokens(&args.place.auth, &plan)?;
    let mut innocent = || -> Result<Innocent> {
        let report = fanout(&fanout_args, interrupted)?;
        // The memory of the server is looked at here, all the time.
        fanout_args.place.common.pid = None;
        Ok(Innocent { latency: report.latency, faults: report.faults })
    };
    let memory = || args.place.common.pid.and_then(procfs::memory).map_or(0, |memory| memory.anonymous);
    // The server is warm, so that what it keeps for good isn't put down to the first abuse.
    let mut before = innocent()?;
    let mut abuses = Vec::new();
    for which in args.abuses() {
        if interrupted.load(Relaxed) {
            break;
        }
        let (stop, peak, first) = (AtomicBool::new(false), AtomicU64::new(0), memory());
        let abuser = abuse::Abuser { target: &plan.target, tokens: &tokens, connections: args.abusers, stop: &stop };
        let (tally, during) = thread::scope(|scope| {
            let abusing = scope.spawn(|| abuser.run(which));
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    peak.fetch_max(memory(), Relaxed);
                    thread::sleep(Duration::from_millis(50));
                }
            });
            let during = innocent();
            stop.store(true, Relaxed);
            (abusing.join(), during)
        });
        let Ok(tally) = tally else {
            bail!("the abuser's thread failed");
        };
        let after = innocent()?;
        let memory_bytes = [first, peak.load(Relaxed), memory()];
        abuses.push(Suffered { abuse: which, tally, innocent: [before, during?, after.clone()], memory_bytes });
        before = after;
    }
    Ok(AbuseReport { url: args.place.url.clone(), connections: args.connections, abusers: args.abusers, abuses })
}
