//! The thread that watches the certificate's files. When they change, or when it is told to, it reads them again and
//! publishes the new certificate. A certificate and a key that do not match, such as while they are being written, are not
//! published. The thread compares contents, so links, mounted volumes and clock changes cannot mislead it. It also logs
//! when the certificate in use is about to expire.

use std::io;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::identity::{Pair, Served, TlsIdentity};
use super::validity::{Concern, Reminder, Validity};
use crate::time::clock::Clock;

/// How often the files are read.
const INTERVAL: Duration = Duration::from_secs(2);

/// The running thread. Dropping this value ends it.
#[derive(Debug)]
pub(crate) struct CertificateWatch {
    ask: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl CertificateWatch {
    /// Starts watching the files of `identity`, which held `pair` with this `validity`. `publish` is called with each new
    /// certificate.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub(crate) fn start(
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
    pub(crate) fn reload(&self) {
        if let Some(ask) = &self.ask {
            // Sending fails only if the thread has ended.
            let _ = ask.send(());
        }
    }
}

impl Drop for CertificateWatch {
    fn drop(&mut self) {
        self.ask = None;
        if let Some(thread) = self.thread.take() {
            // An error says that the thread panicked, and nothing can be done about it here.
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
    // What the last look found, even if it was an error, so that an error is logged once.
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
                tracing::info!("TLS certificate read again");
            }
            Err(error) => tracing::error!(%error, "the new TLS certificate cannot be used; the old one stays in use"),
        }
        last = found;
    }
}

fn tell(concern: Concern) {
    match concern {
        Concern::ExpiresSoon(_) => tracing::warn!("the TLS certificate {concern}"),
        Concern::NotYetValid(_) | Concern::Expired(_) => {
            tracing::error!("the TLS certificate {concern}; clients refuse it");
        }
    }
}
