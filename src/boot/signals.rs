//! What each signal means to the server (docs/deploy.md, "Signals"). Every signal that would end the process by default and
//! that a program may catch has a meaning here. Signals of faults, such as SIGSEGV and SIGABRT, keep their default, and so
//! do those that stop and continue a process.

use rustix::process::Signal;
use signal_hook::consts::{
    SIGALRM, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGVTALRM, SIGXCPU, SIGXFSZ,
};

/// What the server does at a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// Read the keys and the certificate again.
    Reload,
    /// Tell all clients to reconnect, and end.
    End,
    /// Nothing. There is no reason to send this signal to the server, and a stray one must not end it.
    Nothing,
}

/// The real-time signals. The C library uses 32 and 33 itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The meaning of a signal.
pub(crate) fn meaning(signal: i32) -> Meaning {
    match signal {
        SIGHUP => Meaning::Reload,
        // SIGXCPU: the process has used up its CPU time. SIGPWR, below: the power fails.
        SIGINT | SIGTERM | SIGQUIT | SIGXCPU => Meaning::End,
        other if other == Signal::POWER.as_raw() => Meaning::End,
        // Among them is SIGXFSZ: the write that exceeds the file size fails and is logged.
        _ => Meaning::Nothing,
    }
}

/// All signals that have a meaning.
pub(crate) fn all() -> impl Iterator<Item = i32> {
    let named =
        [SIGHUP, SIGINT, SIGTERM, SIGQUIT, SIGXCPU, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGXFSZ];
    named.into_iter().chain([Signal::POWER.as_raw(), Signal::STKFLT.as_raw()]).chain(REAL_TIME)
}

/// The name of a signal, for the log.
pub(crate) fn name(signal: i32) -> String {
    let named = signal_hook::low_level::signal_name(signal).map(str::to_owned);
    named.unwrap_or_else(|| match signal {
        other if other == Signal::POWER.as_raw() => "SIGPWR".to_owned(),
        other if other == Signal::STKFLT.as_raw() => "SIGSTKFLT".to_owned(),
        other => format!("signal {other}"),
    })
}
