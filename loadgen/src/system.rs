//! What this process asks of the machine: file descriptors, CPUs, exact timers, Ctrl-C.
//!
//! Called by `main` and by `engine` when a thread starts.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity, set_current_timer_slack};

/// Raises the limit of open files as far as it goes and makes sure that `connections` fit.
pub fn reserve_descriptors(connections: usize) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).context("can't raise the limit of open files")?;
    let needed = connections as u64 + 64;
    match limit.maximum {
        Some(most) if most < needed => bail!(
            "{connections} connections need {needed} open files, the hard limit is {most}: \
             raise it (ulimit -Hn, LimitNOFILE=) or use fewer connections"
        ),
        _ => Ok(()),
    }
}

/// Keeps the calling thread, and what it starts, on `cpus`; none leaves it where it may be.
pub fn pin(cpus: &[usize]) -> Result<()> {
    let mut set = CpuSet::new();
    for cpu in cpus {
        if *cpu >= CpuSet::MAX_CPU {
            bail!("there is no CPU {cpu}");
        }
        set.set(*cpu);
    }
    if cpus.is_empty() {
        return Ok(());
    }
    sched_setaffinity(None, &set).with_context(|| format!("can't run on CPUs {cpus:?}"))
}

/// Makes the calling thread's timers exact; the default lets them be 50 µs late.
pub fn exact_timers() {
    // A kernel that refuses only costs precision.
    let _ = set_current_timer_slack(NonZeroU64::new(1));
}

/// A flag that the first Ctrl-C sets; the second ends the process.
pub fn interrupted() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}
