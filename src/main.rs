//! The program: reads the command line and the configuration, and does what they say. Prints; the library doesn't.
//! It ends with status 0 after an orderly end and 1 after any failure, with the reason on stderr; `doctor`'s own
//! status says what it found.

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

// Under the address sanitizer (`./check asan`) the allocations are its own to watch.
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Returns to the kernel what nobody uses: free pages of the whole process, and those that are kept for the thread that
/// calls this.
#[cfg(not(asan))]
fn give_back() {
    #[expect(unsafe_code, reason = "mimalloc's crate leaves this function of the library out")]
    mod library {
        // SAFETY: mimalloc.h has it so; it may be called from any thread at any time.
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
            // A configuration at fault is a finding here, and not the end.
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
        // Whoever collects lines of JSON has nothing of that one.
        tracing::info!(shards, urls = urls.join(" "), "listening");
    }
    if config.dev {
        let plain = addrs.plain.iter().filter_map(ListenAddr::tcp).map(|addr| format!("; open http://{addr}/"));
        let tls = addrs.tls.iter().filter_map(ListenAddr::tcp).map(|addr| format!("; open https://{addr}/"));
        let page = plain.chain(tls).next().unwrap_or_default();
        tracing::warn!(
            "dev mode: this machine only, a secret made at this start, anyone may sign in under any name, the \
             lobby is not HTML-escaped{page}"
        );
    }
    let ended = server.run();
    if lost.count() > 0 {
        tracing::warn!(lines = lost.count(), "log lines were lost: stderr did not take them in time, or at all");
    }
    Ok(ended?)
}

/// Standard output is for programs that wait for a line: it leaves at once.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("writing to standard output")
}

/// Logging never holds up a shard: lines that stderr doesn't take in time are dropped, and counted.
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
