//! The program: reads the command line and the configuration, and runs the command. Only this file prints to stdout. The
//! exit status is 0 after an orderly end, and 1 after a failure, with the reason on stderr. `doctor` has a status of its
//! own.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Parser as _;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use uringcast::boot::Server;
use uringcast::cli::{self, Cli, CliCommand};
use uringcast::config::{self, Config, ListenAddr, LogFormat};
use uringcast::doctor;
use uringcast::log::{self, LostLines};

// The address sanitizer (`./check asan`) replaces the allocator to check every allocation.
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns free memory to the kernel: that of the whole process, and that kept for the calling thread.
#[cfg(not(asan))]
fn give_back() {
    #[expect(unsafe_code, reason = "the mimalloc crate does not export this function of the library")]
    mod library {
        // SAFETY: mimalloc.h declares it with this signature, and any thread may call it at any time.
        unsafe extern "C" {
            pub safe fn mi_collect(force: bool);
        }
    }
    library::mi_collect(true);
}

#[cfg(asan)]
fn give_back() {}

fn main() -> ExitCode {
    let cli = Cli::parse();
    run(&cli).unwrap_or_else(|error| {
        eprintln!("uringcast: {error:#}");
        match cli.command {
            Some(CliCommand::Doctor(_)) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    })
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let env = config::process_env();
    let load = || cli.load_config(&env);
    match &cli.command {
        Some(CliCommand::Config(_)) => print(&cli::config_text(&load()?))?,
        Some(CliCommand::Token(args)) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?;
            let token_id = format!("{:032x}", rand::random::<u128>());
            let token = args.token(&load()?, u64::try_from(now.as_millis())?, Some(&token_id))?;
            print(&format!("{token}\n"))?;
        }
        Some(CliCommand::Doctor(args)) => {
            let configured =
                args.config.is_some() || env.iter().any(|(name, value)| config::is_our_variable(name, value));
            // A wrong configuration is one of the findings, so it does not end the command here.
            let report = doctor::run(args, load(), configured)?;
            print(&if args.json { report.json()? + "\n" } else { report.to_string() })?;
            return Ok(if report.stops() { ExitCode::FAILURE } else { ExitCode::SUCCESS });
        }
        None | Some(CliCommand::Serve(_)) => serve(&load()?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn serve(config: &Config) -> anyhow::Result<()> {
    config.require_key()?;
    let (_guard, lost) = log_to_stderr(config)?;
    let server = Server::start(config, lost.clone(), give_back)?;
    let addrs = server.addrs();
    let plain = addrs.plain.iter().map(|addr| addr.url("ws", &config.path));
    let tls = addrs.tls.iter().map(|addr| addr.url("wss", &config.path));
    let (urls, shards): (Vec<_>, _) = (plain.chain(tls).collect(), server.shard_count());
    print(&format!("listening on {} ({shards} shards)\n", urls.join(" and ")))?;
    if config.log.format == LogFormat::Json {
        // A log collector reads stderr only, so the line is logged too.
        tracing::info!(shards, urls = urls.join(" "), "listening");
    }
    if config.dev {
        let plain = addrs.plain.iter().filter_map(ListenAddr::tcp).map(|addr| format!("; open http://{addr}/"));
        let tls = addrs.tls.iter().filter_map(ListenAddr::tcp).map(|addr| format!("; open https://{addr}/"));
        let page = plain.chain(tls).next().unwrap_or_default();
        tracing::warn!(
            "dev mode: listens on this machine only, has made a secret, lets anyone sign in under any name, and does \
             not escape HTML in the lobby{page}"
        );
    }
    let ended = server.run();
    if lost.count() > 0 {
        tracing::warn!(lines = lost.count(), "log lines were lost, because stderr was too slow or failed");
    }
    Ok(ended?)
}

/// Prints to stdout and flushes it, because programs wait for a line there.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}

/// Sends log lines to stderr through a bounded queue, so that logging never delays a shard. Returns the count of lost
/// lines.
fn log_to_stderr(config: &Config) -> anyhow::Result<(WorkerGuard, LostLines)> {
    let filter = EnvFilter::try_new(&config.log.level)
        .with_context(|| format!("log.level: {:?} is neither a level nor a filter", config.log.level))?;
    let (writer, guard, lost) = log::queue(std::io::stderr(), config.log.queue_lines);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match config.log.format {
        LogFormat::Json => lines.json().init(),
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
    }
    Ok((guard, lost))
}
