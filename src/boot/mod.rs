//! The start and the end of the process. [`Server::start`] turns a configuration into running shards and the control
//! thread; [`Server::run`] waits for signals until one of them ends the server. The files below each do one step:
//!
//! - `kernel`, `cpus`, `descriptors`, `memory`: what the kernel gives this process.
//! - `settings`: the configuration as the shards' settings.
//! - `listeners`, `certificate`, `api`: what is bound and loaded before any thread runs, so that a mistake ends the
//!   start.
//! - `control`: the control thread, with slow calls of the API and the errands of the shards.
//! - `threads`: the shards' threads.
//! - `signals`, `reload`, `end`: what happens while the server runs, and how it ends.
//! - `error`: why a start failed, with what to do about it.

mod api;
mod certificate;
mod control;
pub(crate) mod cpus;
pub(crate) mod descriptors;
mod end;
mod error;
mod kernel;
mod listeners;
mod memory;
mod reload;
mod settings;
mod signals;
mod threads;

use std::sync::Arc;
use std::time::Duration;

use signal_hook::iterator::Signals;

use crate::config::Config;
use crate::control::{Control, Ledger};
use crate::io::OpenSockets;
use crate::io::accept::AcceptSettings;
use crate::io::socket_file::SocketFile;
use crate::limits::refusals::RefusalLog;
use crate::log::LostLines;
use crate::tls;
use api::BoundApi;
use certificate::Certificate;
use control::ErrandQueue;
pub(crate) use error::BootError;
pub(crate) use listeners::ListenAddrs;
use listeners::ShardListeners;
use memory::MemoryWatch;
use signals::Meaning;
use threads::{ShardThread, SharedParts};

/// The running server, with all its threads.
#[derive(Debug)]
pub struct Server {
    addrs: ListenAddrs,
    config: Config,
    shards: Vec<ShardThread>,
    signals: Signals,
    control: Option<Control>,
    certificate: Option<tls::CertificateWatch>,
    memory: MemoryWatch,
    socket_files: Vec<SocketFile>,
    refusals: Arc<RefusalLog>,
}

impl Server {
    /// Starts all shards, then the HTTP API. On return every shard accepts connections.
    ///
    /// `lost` counts log lines that were dropped; the metrics show it. `give_back` makes the allocator return free
    /// memory to the kernel: that of the whole process, and that kept for the thread that calls it.
    ///
    /// # Errors
    /// [`BootError`] if a step fails; the caller is to end the process then.
    pub fn start(config: &Config, lost: LostLines, give_back: fn()) -> Result<Self, BootError> {
        let driver = kernel::choose_driver(config.driver)?;
        kernel::disable_huge_pages();
        let cpus = cpus::usable().map_err(BootError::system("reading the CPU affinity"))?;
        let shard_count = match config.shards {
            0 => cpus::shards_for(&cpus),
            n => usize::from(n),
        };
        let descriptors = descriptors::share_out(shard_count, config)?;
        let verifier = Arc::new(settings::verifier(config)?);
        let settings = Arc::new(settings::of_shards(config, shard_count, descriptors.api, give_back)?);
        settings.metrics.driver(driver.name());
        let clock = crate::time::clock::Clock::start();
        // The handlers are installed before the first thread starts, so that no signal is lost.
        let signals = Signals::new(signals::all()).map_err(BootError::system("installing signal handlers"))?;
        let certificate = Certificate::load(config)?;
        let ShardListeners { addrs, mut by_shard, mut socket_files } = listeners::bind(config, shard_count)?;
        let api = api::bind(config, descriptors.api, &mut by_shard, &mut socket_files)?;
        let errands = ErrandQueue::new(config, shard_count)?;
        let revoked = config.auth.revocations_file.as_deref();
        let ledger = Ledger::open(revoked, config.limits.revocations, clock.now().unix_ms)?;
        let shared = SharedParts {
            driver,
            busy_poll: Duration::from_micros(config.busy_poll_us.into()),
            settings: Arc::clone(&settings),
            verifier,
            revocations: ledger.table().clone(),
            certificate: certificate.as_ref().map(Certificate::server_config),
            open_sockets: Arc::new(OpenSockets::default()),
            accept: AcceptSettings {
                guard: Arc::clone(&settings.guard),
                proxy_protocol: config.limits.proxy_protocol,
                patience: Duration::from_millis(config.limits.handshake_ms),
                sockets_max: descriptors.sockets,
                refusals: Arc::clone(&settings.refusals),
            },
            clock,
            errands: errands.as_ref().map(ErrandQueue::sender),
            calls: api.as_ref().map(BoundApi::sender),
        };
        let pinned_to = if config.pin_cpus { cpus } else { Vec::new() };
        let shards = threads::start(&shared, by_shard, &pinned_to)?;
        let key_set = errands.as_ref().map(ErrandQueue::counts);
        let calls = api.map(|api| api.into_parts(config, &shared, &shards, ledger, lost, key_set));
        let control = control::start(config, &shared, &shards, calls, errands)?;
        let certificate = certificate.map(|found| found.watch(&shards, settings.metrics.clone())).transpose()?;
        let memory_bound = memory::bound(config.limits.memory_bytes);
        let memory = MemoryWatch::start(memory_bound, Arc::clone(&settings.guard), give_back)
            .map_err(BootError::system("starting the thread that watches memory"))?;
        let refusals = Arc::clone(&settings.refusals);
        let config = config.clone();
        Ok(Self { addrs, config, shards, signals, control, certificate, memory, socket_files, refusals })
    }

    /// The addresses that clients connect to. A port that was configured as 0 is the one the kernel chose.
    pub fn addrs(&self) -> &ListenAddrs {
        &self.addrs
    }

    /// The number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Waits for signals and acts on each of them until one ends the server. Then ends everything in order.
    ///
    /// # Errors
    /// [`BootError::Shard`] if a shard failed, [`BootError::Stuck`] if one did not end in time.
    pub fn run(mut self) -> Result<(), BootError> {
        for signal in self.signals.forever() {
            match signals::meaning(signal) {
                Meaning::End => {
                    tracing::info!("{}: going away", signals::name(signal));
                    break;
                }
                Meaning::Nothing => tracing::info!("{} does nothing here", signals::name(signal)),
                Meaning::Reload => {
                    reload::keys(&self.config, &self.shards, self.control.as_ref());
                    if let Some(certificate) = &self.certificate {
                        certificate.reload();
                    }
                }
            }
        }
        drop(self.certificate);
        end::end(Duration::from_millis(self.config.shutdown_ms), self.shards, self.control, self.socket_files)?;
        self.memory.stop();
        self.refusals.finish();
        Ok(())
    }
}
