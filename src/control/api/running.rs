//! The API on the control thread: its start, and the handle that other threads have of it while it runs. Everything else
//! in this folder is called from here.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;

use super::connections::{self, Seats};
use super::routes;
use super::sockets::Accepting;
use super::state::{ApiParts, ApiState};
use crate::auth::ApiKeys;
use crate::config::ListenAddr;
use crate::control::phase::Phase;

/// The running API, as other threads see it.
#[derive(Debug)]
pub(crate) struct RunningApi {
    addr: ListenAddr,
    state: Arc<ApiState>,
    /// Receives one value when no request is under way any more, after the server was told to end.
    idle: flume::Receiver<()>,
}

impl RunningApi {
    /// Puts the API together. Returns its handle, and the future that serves it on `runtime`.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub(crate) fn new(
        parts: ApiParts,
        phases: watch::Receiver<Phase>,
        runtime: &Runtime,
    ) -> io::Result<(Self, impl Future<Output = ()> + Send + use<>)> {
        let head = Duration::from_millis(parts.head_ms);
        let addr = parts.listener.addr()?;
        let listener = {
            let _inside = runtime.enter();
            Accepting::new(&parts.listener)?
        };
        let seats = Seats::new(parts.room, Arc::clone(&parts.refusals), parts.clock);
        let state = Arc::new(ApiState::new(parts, &addr, Arc::clone(&seats), phases.clone()));
        let (tell_idle, idle) = flume::bounded(1);
        let shared = Arc::clone(&state);
        let serve = async move {
            let watch_idle = tokio::spawn(watch_idle(Arc::clone(&shared), phases.clone(), tell_idle));
            connections::serve(listener, routes::router(shared), seats, phases, head).await;
            watch_idle.abort();
        };
        Ok((Self { addr, state, idle }, serve))
    }

    /// The address that the API listens on.
    pub(crate) fn addr(&self) -> &ListenAddr {
        &self.addr
    }

    /// Replaces the keys that requests must bring.
    pub(crate) fn set_keys(&self, keys: ApiKeys) {
        self.state.set_keys(keys);
    }

    /// Waits until no request is under way, at most as long as `patience`.
    pub(crate) fn wait_until_idle(&self, patience: Duration) {
        // The shards end next in either case. A request that is still under way is answered with 504.
        let _ = self.idle.recv_timeout(patience);
    }
}

async fn watch_idle(state: Arc<ApiState>, mut phases: watch::Receiver<Phase>, idle: flume::Sender<()>) {
    let _ = phases.wait_for(|phase| *phase != Phase::Serving).await;
    state.idle().await;
    let _ = idle.try_send(());
}
