//! What is done with the connections of a shard when the kernel has something for them. [`serve`] is one task for all
//! connections: it waits for the readiness set, and then receives from each socket that is ready. [`resume`] lets paused
//! connections go on. A panic in the work for a connection ends that connection and nothing else.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use monoio::net::UnixStream;
use rustix::io::Errno;

use crate::ids::ConnId;
use crate::io::core::{Buffers, Core};
use crate::io::readiness::{READY_MAX, ReadySocket};
use crate::io::sockets::Decrypted;
use crate::metrics::Count;
use crate::shard::Input;

/// How many sockets are served between two looks at the clock. That takes about a tenth of a millisecond, and reading both
/// clocks costs a hundredth of an echo.
const READS_PER_CLOCK: usize = 16;

/// Serves the sockets that the readiness set reports. The shard's other tasks run between two looks at the set, so a
/// client that sends without a pause does not have the shard to itself: it is received from once per look. If
/// `keeps_awake`, the loop takes a turn after each look, and so puts off its sleep.
pub(super) async fn serve(core: Rc<Core>, readiness: UnixStream, keeps_awake: bool) {
    let mut ready = Vec::with_capacity(READY_MAX);
    while core.turnstile().readable(&readiness).await.is_ok() {
        serve_ready(&core, &mut ready);
        if keeps_awake {
            core.turn_signal().ring();
        }
    }
}

/// Serves every socket that is ready, each once. Call this before clients are judged by the time, if the process was
/// stopped or slow: what a client has sent by then counts.
pub(super) fn catch_up(core: &Rc<Core>) {
    let mut ready = Vec::with_capacity(READY_MAX);
    // The set reports sockets in turn, so that each is reported in as many looks.
    for _ in 0..=core.open_sockets().count() / READY_MAX {
        if serve_ready(core, &mut ready) < READY_MAX {
            return;
        }
    }
}

/// Looks at the readiness set once, and serves what it reports. Returns how many sockets that were. `ready` is empty before
/// and after.
fn serve_ready(core: &Rc<Core>, ready: &mut Vec<ReadySocket>) -> usize {
    core.sockets().look(ready);
    for some in ready.chunks(READS_PER_CLOCK) {
        core.hold_now();
        for &ReadySocket { id, readable, writable } in some {
            if readable {
                receive(core, id);
            }
            if writable {
                write(core, id);
            }
        }
        core.release_now();
    }
    let count = ready.len();
    ready.clear();
    count
}

/// Lets paused connections go on when the shard says so.
pub(super) async fn resume(core: Rc<Core>) {
    loop {
        for id in core.resumptions().take().await {
            let input = guarded(&core, id, || core.with_wire(|shard, wire, now| shard.resume(id, wire, now)));
            match input {
                Input::Open => core.sockets().read_on(id),
                Input::Paused => core.sockets().pause(id),
                Input::Ended => core.closed(id),
            }
        }
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

/// Receives what the kernel has, and gives it to the shard. Does nothing if the connection is paused, or has ended.
fn receive(core: &Rc<Core>, id: ConnId) {
    let Buffers { received, plain } = &mut *core.buffers();
    let result = core.sockets().receive(id, received);
    let Some(result) = result else { return };
    let input = guarded(core, id, || match result {
        Ok(0) => core.with(|shard, now| shard.hear_out(id, now)),
        Ok(count) => take(core, id, &mut received[..count], plain),
        Err(Errno::AGAIN | Errno::INTR) => core.with(|shard, _| shard.input(id)),
        Err(_) => Input::Ended,
    });
    match input {
        Input::Open => {}
        Input::Paused => core.sockets().pause(id),
        Input::Ended => core.closed(id),
    }
}

/// Gives received bytes to the shard, decrypted if the connection has TLS.
fn take(core: &Rc<Core>, id: ConnId, received: &mut [u8], plain: &mut Vec<u8>) -> Input {
    plain.clear();
    let decrypted = core.sockets().decrypt(id, received, plain);
    match decrypted {
        Decrypted::Plain => return core.with_wire(|shard, wire, now| shard.receive(id, received, wire, now)),
        Decrypted::Opened { drained: true } => {}
        Decrypted::Opened { drained: false } => core.sockets().await_drained(id),
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

/// The kernel takes bytes again: lets the shard send, if it waits for that. The shard waits again if that was not enough.
fn write(core: &Rc<Core>, id: ConnId) {
    let is_awaited = core.sockets().take_writable(id);
    if is_awaited && caught(core, id, || core.with_wire(|shard, wire, now| shard.writable(id, wire, now))).is_none() {
        // After the panic it is unknown how much of the stream was sent, so the connection is reset.
        core.sockets().abort(id);
        core.closed(id);
    }
}
