//! The tasks of one connection. [`serve`] is the only one while a connection is idle; it waits for readability without a
//! buffer. A second task, the writer, exists only while the kernel takes no more bytes. A panic in one of them ends its
//! connection and nothing else.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use rustix::io::Errno;

use crate::ids::ConnId;
use crate::io::core::{Buffers, Core, NeededTask};
use crate::io::sockets::{Decrypted, Transport};
use crate::metrics::Count;
use crate::shard::Input;

/// Serves one connection until it ends. Every idle connection holds this future, so each value that it keeps across an
/// `.await` costs memory.
#[expect(clippy::manual_async_fn, reason = "an `async fn` would keep its arguments twice")]
pub(super) fn serve(core: Rc<Core>, id: ConnId, transport: Rc<Transport>) -> impl Future<Output = ()> {
    async move {
        let mut input = Input::Open;
        while input != Input::Ended {
            input = if input == Input::Paused {
                resumed(&core, id).await;
                guarded(&core, id, || core.with_wire(|shard, wire, now| shard.resume(id, wire, now)))
            } else if transport.readable(core.turnstile()).await.is_ok() {
                guarded(&core, id, || receive(&core, id, &transport))
            } else {
                Input::Ended
            };
        }
        core.closed(id);
    }
}

/// Starts a task that an action of the shard needs.
pub(super) fn spawn(core: &Rc<Core>, task: NeededTask) {
    let core = Rc::clone(core);
    match task {
        NeededTask::Write(id, transport) => drop(monoio::spawn(write(core, id, transport))),
        NeededTask::Drain(id, transport) => drop(monoio::spawn(drain(core, id, transport))),
    }
}

/// Runs `work`. If it panics the peer gets close code 1011, unless that panics too, and the connection ends.
fn guarded(core: &Rc<Core>, id: ConnId, work: impl FnOnce() -> Input) -> Input {
    caught(core, id, work)
        .or_else(|| caught(core, id, || core.with(|shard, now| shard.fail_internally(id, now))))
        .unwrap_or(Input::Ended)
}

/// Returns what `work` returns; `None` if it panics.
fn caught<R>(core: &Core, id: ConnId, work: impl FnOnce() -> R) -> Option<R> {
    let caught = std::panic::catch_unwind(AssertUnwindSafe(work));
    if caught.is_err() {
        core.metrics().count(Count::Panics);
        tracing::error!(conn = %id, "a panic ended this connection; the shard lives on");
    }
    caught.ok()
}

/// Receives what the kernel has, and gives it to the shard.
fn receive(core: &Rc<Core>, id: ConnId, transport: &Transport) -> Input {
    let Buffers { received, plain } = &mut *core.buffers();
    match transport.receive(received) {
        Ok(0) => core.with(|shard, now| shard.hear_out(id, now)),
        Ok(count) => take(core, id, &mut received[..count], plain),
        Err(Errno::AGAIN | Errno::INTR) => core.with(|shard, _| shard.input(id)),
        Err(_) => Input::Ended,
    }
}

/// Gives received bytes to the shard, decrypted if the connection has TLS.
fn take(core: &Rc<Core>, id: ConnId, received: &mut [u8], plain: &mut Vec<u8>) -> Input {
    plain.clear();
    let decrypted = core.sockets().decrypt(id, received, plain);
    match decrypted {
        Decrypted::Plain => return core.with_wire(|shard, wire, now| shard.receive(id, received, wire, now)),
        Decrypted::Opened { drained: true } => {}
        Decrypted::Opened { drained: false } => core.await_drained(id),
        Decrypted::Failed(error) => {
            core.metrics().count(Count::TlsFailures);
            core.with(|shard, now| shard.tls_failed(id, &error, now));
            return Input::Ended;
        }
    }
    match &mut plain[..] {
        [] => core.with(|shard, _| shard.input(id)),
        bytes => core.with_wire(|shard, wire, now| shard.receive(id, bytes, wire, now)),
    }
}

/// Waits for [`Action::Resume`](crate::shard::Action::Resume), or for the connection's end.
async fn resumed(core: &Core, id: ConnId) {
    let mut has_waited = false;
    std::future::poll_fn(|context| core.sockets().poll_resumed(id, &mut has_waited, context)).await;
}

/// Waits until the kernel takes bytes again, and lets the shard send. The shard asks for another writer if that was not
/// enough.
async fn write(core: Rc<Core>, id: ConnId, transport: Rc<Transport>) {
    if transport.writable().await.is_ok()
        && caught(&core, id, || core.with_wire(|shard, wire, now| shard.writable(id, wire, now))).is_none()
    {
        // After the panic it is unknown how much of the stream was sent, so the connection is reset.
        transport.reset();
        core.sockets().wake_reader(id);
        core.closed(id);
    }
}

/// Sends TLS records that did not fit into the socket.
async fn drain(core: Rc<Core>, id: ConnId, transport: Rc<Transport>) {
    while transport.writable().await.is_ok() {
        let mut sockets = core.sockets();
        if sockets.drain(id) {
            return sockets.end_draining(id);
        }
    }
}
