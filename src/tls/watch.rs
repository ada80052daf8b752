//! The thread that looks at the certificate's files: when they change, or when it is told to, it reads them anew and
//! passes on what it made of them. A pair that doesn't fit, as while it is being written, is not passed on. It
//! compares the contents, so that links, volumes and clocks that jump can't fool it. It also says when the certificate
//! in force is about to expire.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::identity::{TlsIdentity, Pair, Served};
use super::validity::{Concern, Reminder, Validity};
use crate::time::clock::Clock;

/// How often the files are looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// The running thread; it ends with this.
#[derive(Debug)]
pub struct CertificateWatch {
    ask: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CertificateWatch {
    /// Watches the files of `identity`, which had `pair` in them, good for `validity`; `publish` gets what is to be
    /// served with from now on.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(
        identity: TlsIdentity,
        pair: Pair,
        validity: Option<Validity>,
        publish: impl Fn(Served) + Send + 'static,
    ) -> io::Result<Self> {
        let (ask, asked) = mpsc::channel();
        let work = move || watch(&identity, pair, validity, &asked, publish);
        let thread = std::thread::Builder::new().name("certificate".to_owned()).spawn(work)?;
        Ok(Self { ask: Some(ask), thread: Some(thread) })
    }

    /// Reads the files now, whether they have changed or not.
    pub fn reload(&self) {
        if let Some(ask) = &self.ask {
            // A thread that has ended needs no telling.
            let _ = ask.send(());
        }
    }
}

impl Drop for CertificateWatch {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // It panics over nothing that could be mended here.
            let _ = thread.join();
        }
    }
}

fn watch(
    identity: &TlsIdentity,
    pair: Pair,
    mut validity: Option<Validity>,
    asked: &mpsc::Receiver<()>,
    publish: impl Fn(Served),
) {
    // What was found last, good or bad: a fault is told once and not every time.
    let mut last = Ok(pair);
    let mut reminder = Reminder::default();
    loop {
        if let Some(concern) = reminder.due(validity, Clock::start().now().unix_s()) {
            tell(concern);
        }
        let told = match asked.recv_timeout(INTERVAL) {
            Ok(()) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let found = identity.read();
        if !told && found == last {
            continue;
        }
        match found.as_ref().map_err(Clone::clone).and_then(|pair| identity.serve(pair)) {
            Ok(served) => {
                validity = served.validity;
                reminder.reset();
                publish(served);
                tracing::info!("TLS certificate read anew");
            }
            Err(error) => tracing::error!(%error, "the TLS certificate can't be taken: the old one stays in force"),
        }
        last = found;
    }
}

fn tell(concern: Concern) {
    match concern {
        Concern::ExpiresSoon(_) => tracing::warn!("the TLS certificate {concern}"),
        Concern::NotYetValid(_) | Concern::Expired(_) => {
            tracing::error!("the TLS certificate {concern}: clients refuse it");
        }
    }
}
