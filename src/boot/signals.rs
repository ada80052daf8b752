//! What each signal does to the server (docs/deploy.md, "Signals"). Every signal that would end the process by default,
//! and that a program may catch, has a meaning here; those of faults (SIGSEGV, SIGABRT and the like) keep theirs, and so
//! do those that stop and continue. Called by `server`, which does what is meant.

use rustix::process::Signal;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};

/// What the server does at a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meaning {
    /// Read keys and certificate anew.
    Reload,
    /// Say goodbye to everyone and end.
    End,
    /// Nothing: nobody sends it to this server for a reason, and what a stray one would end is too much.
    Nothing,
}

/// The real-time signals: 32 and 33 are the C library's own.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// What a signal means.
pub fn meaning(signal: i32) -> Meaning {
    match signal {
        SIGHUP => Meaning::Reload,
        // SIGPWR says that the power fails, SIGXCPU that the process's time is used up.
        SIGINT | SIGTERM | SIGQUIT | SIGXCPU => Meaning::End,
        other if other == Signal::POWER.as_raw() => Meaning::End,
        // SIGXFSZ among them: the write that was too much fails, and says so.
        _ => Meaning::Nothing,
    }
}

/// All signals that have a meaning.
pub fn all() -> impl Iterator<Item = i32> {
    let named =
        [SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXFSZ];
    named.into_iter().chain([Signal::POWER.as_raw(), Signal::STKFLT.as_raw()]).chain(REAL_TIME)
}

/// A signal's name for the log.
pub fn name(signal: i32) -> String {
    let named = signal_hook::low_level::signal_name(signal).map(str::to_owned);
    named.unwrap_or_else(|| match signal {
        other if other == Signal::POWER.as_raw() => "SIGPWR".to_owned(),
        other if other == Signal::STKFLT.as_raw() => "SIGSTKFLT".to_owned(),
        other => format!("signal {other}"),
    })
}
