//! loadgen: measures WebSocket servers and checks every delivery.
//!
//! Runs what the command line asks for and reports. Exit codes: 0 all well, 1 something was lost, doubled,
//! reordered, changed or cut, 2 the run could not be made.
//!
//! What stands left knows nothing of what stands right:
//! frame, http, marker, latency, check, procfs < deflate < upgrade < client, protocol < control < engine < work, run < report
//! < commands < suite < main.

mod args;
mod check;
mod client;
mod commands;
mod control;
mod deflate;
mod engine;
mod events;
mod frame;
mod http;
mod latency;
mod marker;
mod procfs;
mod protocol;
mod random;
mod report;
mod run;
mod suite;
mod system;
mod target;
mod upgrade;
mod work;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::Result;
use clap::Parser;

use args::{AbuseArgs, Cli, Command};

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
    let (report, common) = match &cli.command {
        Command::Echo(args) => (commands::echo(args, &interrupted)?, &args.common),
        Command::Fanout(args) => (commands::fanout(args, &interrupted)?, &args.place.common),
        Command::Channels(args) => (commands::channels(args, &interrupted)?, &args.place.common),
        Command::Api(args) => (commands::api(args, &interrupted)?, &args.place.common),
        Command::Newcomers(args) => (commands::newcomers(args, &interrupted)?, &args.place.common),
        Command::Connect(args) => (commands::connect(args, &interrupted)?, &args.place.common),
        Command::Chat(args) => (commands::chat(args, &interrupted)?, &args.place.common),
        Command::Storm(args) => (commands::storm(args, &interrupted)?, &args.place.common),
        Command::Abuse(args) => return abuse(args, &interrupted),
        Command::Suite(args) => return suite::suite(args, &interrupted),
    };
    report.print();
    if let Some(path) = &common.json {
        report.write_json(path)?;
    }
    if let Some(path) = &common.html {
        report::html::write_single(&report, path)?;
    }
    Ok(report.passed())
}

fn abuse(args: &AbuseArgs, interrupted: &Arc<AtomicBool>) -> Result<bool> {
    let report = commands::abuse(args, interrupted)?;
    report.print();
    if let Some(path) = &args.place.common.json {
        report.write_json(path)?;
    }
    Ok(report.passed())
}
