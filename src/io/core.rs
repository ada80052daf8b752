//! What all tasks of one shard's thread share: the pure shard, its sockets, the clock and the signal for the next turn.
//! A task lets the shard work through [`Core::with`], which then carries out the shard's actions. No borrow is held
//! across an `.await`.

use std::cell::{Cell, RefCell, RefMut};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use rustls::ServerConfig;

use crate::ids::{ConnId, ShardId};
use crate::io::commands::ApiOrder;
use crate::io::driver::Turnstile;
use crate::io::sockets::{OpenSockets, Sockets};
use crate::metrics::ShardMetrics;
use crate::model::errand::{Errand, ErrandOrder};
use crate::shard::{Action, ControlCall, Shard};
use crate::time::clock::{Clock, Now};

/// The size of the one buffer that all of a shard's connections receive into, in bytes.
const RECEIVE_BYTES: usize = 64 * 1024;

/// The state that all tasks of a shard's thread share.
#[derive(Debug)]
pub(super) struct Core {
    shard: RefCell<Shard>,
    sockets: RefCell<Sockets>,
    buffers: RefCell<Buffers>,
    /// What TLS is served with; `None` if TLS is not configured.
    certificate: RefCell<Option<Arc<ServerConfig>>>,
    open_sockets: Arc<OpenSockets>,
    turnstile: Turnstile,
    metrics: Arc<ShardMetrics>,
    clock: Clock,
    /// The moment that is taken for now while many connections are served in a row.
    held_now: Cell<Option<Now>>,
    turn: Signal,
    resumptions: Resumptions,
    errands: ErrandDesk,
    is_draining: Cell<bool>,
}

/// What a [`Core`] is made of.
pub(super) struct CoreParts {
    pub(super) shard: Shard,
    pub(super) own: ShardId,
    pub(super) certificate: Option<Arc<ServerConfig>>,
    pub(super) open_sockets: Arc<OpenSockets>,
    /// `None` if the configuration needs no errands.
    pub(super) errands: Option<flume::Sender<ErrandOrder>>,
    /// `None` if there is no API.
    pub(super) calls: Option<flume::Sender<ApiOrder>>,
    pub(super) clock: Clock,
}

/// The buffers that all connections receive into. Nothing stays in them between two reads.
#[derive(Debug)]
pub(super) struct Buffers {
    /// Bytes as the kernel has them.
    pub(super) received: Box<[u8]>,
    /// The same bytes decrypted, if the connection has TLS.
    pub(super) plain: Vec<u8>,
}

/// Connections whose pause is over.
#[derive(Debug, Default)]
pub(super) struct Resumptions {
    due: RefCell<Vec<ConnId>>,
    signal: Signal,
}

impl Resumptions {
    fn add(&self, id: ConnId) {
        self.due.borrow_mut().push(id);
        self.signal.ring();
    }

    /// Waits until there is at least one, and takes all of them out.
    pub(super) async fn take(&self) -> Vec<ConnId> {
        self.signal.wait().await;
        self.due.take()
    }
}

/// The way to the control thread, which does errands and answers slow calls of the API.
#[derive(Debug)]
struct ErrandDesk {
    own: ShardId,
    /// `None` if the configuration needs no errands.
    orders: Option<flume::Sender<ErrandOrder>>,
    /// Numbers of errands that the control thread did not take. The shard is told in its next turn.
    refused: RefCell<Vec<u32>>,
    /// `None` if there is no API.
    calls: Option<flume::Sender<ApiOrder>>,
    /// Numbers of the API's calls that the control thread did not take. The shard is told in its next turn.
    refused_calls: RefCell<Vec<u32>>,
}

impl Core {
    /// Puts the parts together.
    ///
    /// # Errors
    /// When the kernel has no descriptor left.
    pub(super) fn new(parts: CoreParts) -> io::Result<Rc<Self>> {
        Ok(Rc::new(Self {
            metrics: Arc::clone(parts.shard.metrics()),
            shard: RefCell::new(parts.shard),
            sockets: RefCell::new(Sockets::new(parts.own)?),
            buffers: RefCell::new(Buffers { received: vec![0; RECEIVE_BYTES].into(), plain: Vec::new() }),
            certificate: RefCell::new(parts.certificate),
            open_sockets: parts.open_sockets,
            turnstile: Turnstile::default(),
            clock: parts.clock,
            held_now: Cell::default(),
            turn: Signal::default(),
            resumptions: Resumptions::default(),
            errands: ErrandDesk {
                own: parts.own,
                orders: parts.errands,
                refused: RefCell::default(),
                calls: parts.calls,
                refused_calls: RefCell::default(),
            },
            is_draining: Cell::new(false),
        }))
    }

    /// Lets the shard work, carries out its actions, and asks for a turn if one is needed then.
    pub(super) fn with<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, Now) -> R) -> R {
        self.with_wire(|shard, _, now| work(shard, now))
    }

    /// As [`Core::with`], for work that sends.
    pub(super) fn with_wire<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, &mut Sockets, Now) -> R) -> R {
        let (result, needs_turn) = self.act_on(work);
        if needs_turn {
            self.turn.ring();
        }
        result
    }

    /// Lets the shard work and carries out its actions. Returns whether a turn is needed then.
    pub(super) fn act_on<R>(self: &Rc<Self>, work: impl FnOnce(&mut Shard, &mut Sockets, Now) -> R) -> (R, bool) {
        let now = self.now();
        let mut shard = self.shard.borrow_mut();
        let result = work(&mut shard, &mut self.sockets.borrow_mut(), now);
        let actions = shard.take_actions();
        let calls = shard.take_control_calls();
        let needs_turn = shard.has_work() || shard.is_stuck();
        drop(shard);
        for action in actions {
            self.act(action);
        }
        for call in calls {
            self.give_call(call);
        }
        (result, needs_turn)
    }

    fn act(self: &Rc<Self>, action: Action) {
        match action {
            Action::Alarm(at_ms) => self.ring_at(at_ms),
            Action::Errand(number, errand) => self.give_errand(number, errand),
            Action::Resume(id) => self.end_pause(id),
            Action::AwaitWritable(id) => self.sockets().await_writable(id),
            Action::Finish(id) => {
                let mut sockets = self.sockets();
                if !sockets.finish(id) {
                    sockets.await_drained(id);
                }
            }
            Action::BoundSilence(id, bound_ms) => self.sockets().bound_silence(id, bound_ms),
            Action::End(id) => {
                self.sockets().end(id);
                self.end_pause(id);
            }
            Action::Abort(id) => {
                self.sockets().abort(id);
                self.end_pause(id);
            }
        }
    }

    /// Has a paused connection resumed. A connection that ends is resumed, too: it is then read to its end.
    pub(super) fn end_pause(&self, id: ConnId) {
        let was_paused = self.sockets().end_pause(id);
        if was_paused {
            self.resumptions.add(id);
        }
    }

    /// Asks for a turn at a moment of the monotonic clock.
    fn ring_at(self: &Rc<Self>, at_ms: u64) {
        let wait = Duration::from_millis(at_ms.saturating_sub(self.clock.now().mono_ms));
        let core = Rc::clone(self);
        monoio::spawn(async move {
            monoio::time::sleep(wait).await;
            core.turn.ring();
        });
    }

    /// Hands an errand to the control thread. If it takes none, the shard is told in its next turn.
    fn give_errand(&self, number: u32, errand: Errand) {
        let order = ErrandOrder { shard: self.errands.own, number, errand };
        let is_given = self.errands.orders.as_ref().is_some_and(|orders| orders.try_send(order).is_ok());
        if !is_given {
            self.errands.refused.borrow_mut().push(number);
            self.turn.ring();
        }
    }

    /// Hands a call of the API to the control thread. If it takes none, the shard is told in its next turn.
    fn give_call(&self, call: ControlCall) {
        let ControlCall { number, peer, call } = call;
        let order = ApiOrder { shard: self.errands.own, number, peer, call };
        let is_given = self.errands.calls.as_ref().is_some_and(|calls| calls.try_send(order).is_ok());
        if !is_given {
            self.errands.refused_calls.borrow_mut().push(number);
            self.turn.ring();
        }
    }

    /// Takes out the numbers of the API's calls that the control thread did not take.
    pub(super) fn take_refused_calls(&self) -> Vec<u32> {
        self.errands.refused_calls.take()
    }

    /// Takes out the numbers of the errands that the control thread did not take.
    pub(super) fn take_refused_errands(&self) -> Vec<u32> {
        self.errands.refused.take()
    }

    /// A connection has ended. A second call for the same connection, which a panic can cause, changes nothing.
    pub(super) fn closed(self: &Rc<Self>, id: ConnId) {
        let is_of_api = self.with(|shard, now| {
            let is_of_api = shard.is_of_api(id);
            shard.closed(id, now);
            is_of_api
        });
        if self.sockets().remove(id) && !is_of_api {
            self.open_sockets.leave();
        }
    }

    pub(super) fn sockets(&self) -> RefMut<'_, Sockets> {
        self.sockets.borrow_mut()
    }

    pub(super) fn buffers(&self) -> RefMut<'_, Buffers> {
        self.buffers.borrow_mut()
    }

    pub(super) fn turnstile(&self) -> &Turnstile {
        &self.turnstile
    }

    pub(super) fn resumptions(&self) -> &Resumptions {
        &self.resumptions
    }

    pub(super) fn turn_signal(&self) -> &Signal {
        &self.turn
    }

    pub(super) fn open_sockets(&self) -> &OpenSockets {
        &self.open_sockets
    }

    pub(super) fn metrics(&self) -> &ShardMetrics {
        &self.metrics
    }

    pub(super) fn now(&self) -> Now {
        self.held_now.get().unwrap_or_else(|| self.clock.now())
    }

    /// Reads the clock once for everything until [`Core::release_now`]. The caller must not wait in between.
    pub(super) fn hold_now(&self) {
        self.held_now.set(Some(self.clock.now()));
    }

    /// Ends what [`Core::hold_now`] began.
    pub(super) fn release_now(&self) {
        self.held_now.set(None);
    }

    pub(super) fn certificate(&self) -> Option<Arc<ServerConfig>> {
        self.certificate.borrow().clone()
    }

    pub(super) fn set_certificate(&self, config: Arc<ServerConfig>) {
        self.certificate.replace(Some(config));
    }

    /// Whether the shard drains. New connections are not accepted then.
    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    pub(super) fn set_draining(&self) {
        self.is_draining.set(true);
    }
}

/// Wakes the one task that waits for it, for example the loop for its next turn. A ring that comes before the wait ends it at once.
#[derive(Debug, Default)]
pub(super) struct Signal {
    is_rung: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Signal {
    pub(super) fn ring(&self) {
        if !self.is_rung.replace(true)
            && let Some(waker) = self.waker.borrow_mut().take()
        {
            waker.wake();
        }
    }

    /// Whether it has been rung since the last wait.
    pub(super) fn is_rung(&self) -> bool {
        self.is_rung.get()
    }

    /// Forgets the rings so far.
    pub(super) fn clear(&self) {
        self.is_rung.set(false);
    }

    pub(super) async fn wait(&self) {
        std::future::poll_fn(|context| {
            if self.is_rung.replace(false) {
                return Poll::Ready(());
            }
            *self.waker.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}
