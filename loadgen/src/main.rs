//! loadgen: measures WebSocket servers and checks every delivery.
//!
//! Turns the command line into a plan and a workload, runs it and reports. Exit codes: 0 all well,
//! 1 something was lost, doubled, reordered, changed or cut, 2 the run could not be made.
//!
//! What stands left knows nothing of what stands right:
//! frame, marker, latency, check, procfs < client, protocol < control < engine < echo, fanout, connect;
//! engine < run < report < main.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod args;
mod check;
mod client;
mod connect;
mod control;
mod echo;
mod engine;
mod fanout;
mod frame;
mod latency;
mod marker;
mod procfs;
mod protocol;
mod random;
mod report;
mod run;
mod system;
mod target;

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;

use args::{Auth, Cli, Command, Common, ConnectArgs, EchoArgs, FanoutArgs, Users};
use control::Plan;
use latency::{Latencies, SECOND};
use protocol::{Dialect, Tokens};
use report::Report;
use run::{Measured, Times};
use target::Target;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match start(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("loadgen: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(cli: Cli) -> Result<bool> {
    let interrupted = system::interrupted()?;
    let (report, json) = match &cli.command {
        Command::Echo(args) => (echo(args, &interrupted)?, &args.common.json),
        Command::Fanout(args) => (fanout(args, &interrupted)?, &args.common.json),
        Command::Connect(args) => (connect(args, &interrupted)?, &args.common.json),
    };
    report.print();
    if let Some(path) = json {
        report.write_json(path)?;
    }
    Ok(report.passed())
}

fn plan(common: &Common, url: &str, connections: u32) -> Result<Plan> {
    let target = Target::parse(url)?;
    let connections = connections as usize;
    system::reserve_descriptors(connections)?;
    Ok(Plan {
        dialect: Dialect::Raw,
        connections,
        threads: usize::from(common.threads),
        cpus: common.cpus()?,
        sources: target.sources(&common.source, connections),
        connect_rate: None,
        in_flight: common.in_flight.max(1),
        timeout: (common.timeout * SECOND as f64) as u64,
        delay_acks: common.delay_acks,
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
    if let Some(secret) = &auth.secret {
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

fn merged<'a>(parts: impl Iterator<Item = &'a Latencies>) -> Latencies {
    let mut all = Latencies::default();
    for part in parts {
        all.merge(part);
    }
    all
}

fn echo(args: &EchoArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let plan = plan(&args.common, &args.url, args.connections)?;
    let settings = echo::Settings {
        connections: plan.connections,
        threads: plan.threads,
        pipeline: args.pipeline,
        rate: args.span.rate,
        payload: args.payload,
        binary: args.binary,
    };
    let times = Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0 };
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

fn fanout(args: &FanoutArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.common, &args.url, args.subscribers)?;
    plan.dialect = Dialect::Uringcast(Some(tokens(&args.auth, &plan)?));
    let settings = fanout::Settings {
        threads: plan.threads,
        publishers: usize::from(args.publishers),
        window: args.window,
        rate: args.span.rate,
        payload: args.payload,
        run: random::Random::seeded().key(),
        sample_every: plan.connections.div_ceil(args.sample.max(1)),
    };
    let times = Times { seconds: args.span.seconds, warmup: args.span.warmup, settle: 0.0 };
    let publications = fanout::Publications::new(&settings);
    let measured = run::run(plan, times, args.common.pid, interrupted, |thread, slots| {
        fanout::Fanout::new(settings, Arc::clone(&publications), thread, slots)
    })?;
    Ok(fanout_report(args, &measured))
}

fn fanout_report(args: &FanoutArgs, measured: &Measured<fanout::Fanout>) -> Report {
    let mut report = Report::new("fanout", &args.url, args.subscribers, measured, false);
    for workload in &measured.workloads {
        report.faults += workload.faults();
        report.unsent += workload.unsent;
        report.stalls += workload.stalls;
        report.pushes += workload.pushes;
        report.foreign += workload.foreign;
        report.examples.extend(workload.examples.iter().cloned());
    }
    report.examples.truncate(5);
    report.latency = merged(measured.workloads.iter().map(|w| &w.latencies)).percentiles();
    report.send_lag = merged(measured.workloads.iter().map(|w| &w.lag)).percentiles();
    report.paced(args.span.rate, format!("window {}", args.window));
    if report.received > 0 && !measured.workloads.iter().any(fanout::Fanout::has_offsets) {
        let note = "the server sent no offsets: only this run's own numbering was checked";
        report.notes.push(note.to_owned());
    }
    report
}

fn connect(args: &ConnectArgs, interrupted: &Arc<AtomicBool>) -> Result<Report> {
    args.check()?;
    let mut plan = plan(&args.common, &args.url, args.connections)?;
    let tokens = if args.no_auth { None } else { Some(tokens(&args.auth, &plan)?) };
    plan.dialect = Dialect::Uringcast(tokens);
    plan.connect_rate = args.rate;
    let times = Times { seconds: args.hold.max(0.01), warmup: 0.0, settle: args.settle };
    let measured = run::run(plan, times, args.common.pid, interrupted, |_, _| connect::Idle::default())?;
    let mut report = Report::new("connect", &args.url, args.connections, &measured, true);
    report.pushes = report.received;
    report.pace = match args.rate {
        Some(rate) => format!("{rate} connections a second, timed from when each was due"),
        None => format!("{} on their way at a time", args.common.in_flight),
    };
    Ok(report)
}
