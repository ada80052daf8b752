//! Errands that this shard has given to the control thread, and the clients that wait for them. Today there is one: a token
//! names a key that is not known, and the keys come by an address. The message that brought the token is put off: nothing
//! more is read of its client, so that the order of the client's messages stays. When the errand is done, or its deadline
//! has passed, the message is taken as if it came then. Part of `shard`.
//!
//! A client waits for one errand at a time, with one message, whose bytes count as an unfinished message of its address. An
//! errand that finds no credit is not given: the message is taken at once, by the keys that are known.

use super::{Action, ShardCore};
use crate::ids::ConnId;
use crate::metrics::Count;
use crate::model::command::Command;
use crate::model::errand::{Errand, ErrandOutcome};
use crate::planted::Fault;
use crate::time::clock::Now;

/// Errands that may be unanswered at a time, those past their deadline among them. The queue to the control thread has room
/// for as many of each shard.
pub(crate) const ERRANDS_MAX: usize = 16;

/// The errands that this shard has given.
#[derive(Debug, Default)]
pub(super) struct Errands {
    next_number: u32,
    given: Vec<GivenErrand>,
    /// Until this moment a fetch would bring no newer keys, in milliseconds of the monotonic clock.
    keys_again_at_ms: u64,
}

/// An errand that has no answer yet.
#[derive(Debug)]
struct GivenErrand {
    number: u32,
    errand: Errand,
    /// Until when clients wait for it, in milliseconds of the monotonic clock.
    deadline_ms: u64,
    /// The deadline has passed and no client waits for it. It still holds its credit.
    is_late: bool,
    waiting: Vec<ConnId>,
}

/// What becomes of a client that wants an errand done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ErrandWait {
    /// It waits for a new errand with this number.
    Given(u32),
    /// It waits for an errand that others wait for already.
    Shared,
    /// It does not wait: there is no credit, or the control thread is behind with the same errand.
    NotGiven,
}

impl Errands {
    /// Whether a fetch of the key set may bring newer keys.
    fn may_refresh_keys(&self, now_ms: u64) -> bool {
        now_ms >= self.keys_again_at_ms
    }

    /// A client wants an errand done that others can share.
    fn share(&mut self, errand: Errand, id: ConnId, deadline_ms: u64) -> ErrandWait {
        if let Some(given) = self.given.iter_mut().find(|given| given.errand == errand) {
            if given.is_late {
                return ErrandWait::NotGiven;
            }
            given.waiting.push(id);
            return ErrandWait::Shared;
        }
        if self.given.len() >= ERRANDS_MAX {
            return ErrandWait::NotGiven;
        }
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        self.given.push(GivenErrand { number, errand, deadline_ms, is_late: false, waiting: vec![id] });
        ErrandWait::Given(number)
    }

    /// Takes an answer. Returns the clients that wait for it: none if the errand is late or was answered before.
    fn done(&mut self, number: u32, outcome: ErrandOutcome) -> Vec<ConnId> {
        let Some(at) = self.given.iter().position(|given| given.number == number) else { return Vec::new() };
        if let ErrandOutcome::KeysChecked { again_at_ms } = outcome {
            self.keys_again_at_ms = again_at_ms;
        }
        self.given.swap_remove(at).waiting
    }

    /// Returns who waits for errands whose deadline has passed.
    fn take_late(&mut self, now_ms: u64) -> Vec<ConnId> {
        let late = self.given.iter_mut().filter(|given| !given.is_late && given.deadline_ms <= now_ms);
        late.flat_map(|given| {
            given.is_late = true;
            std::mem::take(&mut given.waiting)
        })
        .collect()
    }

    /// Whether no client waits for an errand.
    pub(super) fn is_idle(&self) -> bool {
        self.given.iter().all(|given| given.is_late)
    }
}

impl ShardCore {
    /// Whether the command is put off until the keys have been fetched again, since a token of it could be good by newer
    /// ones. The caller forgets it then; it comes again as [`ShardCore::take_put_off`] finds it.
    pub(super) fn puts_off(&mut self, id: ConnId, command: &Command<'_>, text: &[u8], now: Now) -> bool {
        let session = &self.conns.at(id.slot).session;
        let (is_anonymous, is_signed_in) = (session.is_anonymous(), session.user().is_some());
        let authenticator = &mut self.authenticator;
        let mut awaits = |token: &str| authenticator.awaits_keys(token);
        let is_awaited = self.errands.may_refresh_keys(now.mono_ms)
            && match command {
                Command::Auth { token: Some(token), channels, .. } if is_anonymous => {
                    let of_channels = channels.iter().filter_map(|channel| channel.token);
                    std::iter::once(*token).chain(of_channels).any(&mut awaits)
                }
                Command::Refresh { token, .. } if is_signed_in => awaits(token),
                Command::Subscribe(to) if is_signed_in => to.token.is_some_and(awaits),
                _ => false,
            };
        if !is_awaited || !self.may_sign_in(id, now) {
            return false;
        }
        let errand = Errand::RefreshKeys;
        match self.errands.share(errand, id, now.mono_ms + self.settings.request_ms) {
            ErrandWait::NotGiven => {
                self.metrics.count(Count::ErrandsNotGiven);
                return false;
            }
            ErrandWait::Given(number) => {
                self.metrics.count(Count::Errands);
                self.actions.push(Action::Errand(number, errand));
            }
            ErrandWait::Shared => {}
        }
        self.metrics.count(Count::TokensPutOff);
        self.conns.at(id.slot).put_off(text);
        true
    }

    /// The clients that wait for the errand go on.
    pub(super) fn errand_done(&mut self, number: u32, outcome: ErrandOutcome) {
        for id in self.errands.done(number, outcome) {
            self.end_wait(id);
        }
    }

    /// Clients do not wait for errands beyond their deadline.
    pub(super) fn end_late_errands(&mut self, now: Now) {
        for id in self.errands.take_late(now.mono_ms) {
            self.metrics.count(Count::TokensWaitedInVain);
            self.end_wait(id);
        }
    }

    fn end_wait(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get(id) {
            if Fault::ForgottenMessage.is_planted() {
                return conn.forget_put_off(); // PLANTED
            }
            conn.end_wait();
            self.maybe_resume(id);
        }
    }

    /// The message that was put off, once its wait has ended.
    pub(super) fn take_put_off(&mut self, id: ConnId) -> Option<Box<[u8]>> {
        self.conns.get(id)?.take_put_off()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::ShardId;

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 0 }
    }

    const CHECKED: ErrandOutcome = ErrandOutcome::KeysChecked { again_at_ms: 500 };

    #[test]
    fn clients_share_an_errand_and_are_let_go_once() {
        let mut errands = Errands::default();
        assert_eq!(errands.share(Errand::RefreshKeys, conn(1), 100), ErrandWait::Given(0));
        assert_eq!(errands.share(Errand::RefreshKeys, conn(2), 900), ErrandWait::Shared);
        assert!(!errands.is_idle());
        assert_eq!(errands.done(7, CHECKED), [], "nobody gave this one");
        assert_eq!(errands.done(0, CHECKED), [conn(1), conn(2)]);
        assert_eq!(errands.done(0, CHECKED), [], "a second answer");
        assert!(errands.is_idle());
        assert!(!errands.may_refresh_keys(499) && errands.may_refresh_keys(500));
        assert_eq!(errands.share(Errand::RefreshKeys, conn(1), 100), ErrandWait::Given(1));
        assert_eq!(errands.done(1, ErrandOutcome::NotDone), [conn(1)]);
        assert!(errands.may_refresh_keys(500), "what was not done says nothing of the keys");
    }

    #[test]
    fn nobody_waits_beyond_the_deadline_nor_for_an_errand_that_is_late() {
        let mut errands = Errands::default();
        assert_eq!(errands.share(Errand::RefreshKeys, conn(1), 100), ErrandWait::Given(0));
        assert_eq!(errands.take_late(99), []);
        assert_eq!(errands.take_late(100), [conn(1)]);
        assert_eq!(errands.take_late(200), []);
        assert!(errands.is_idle());
        assert_eq!(errands.share(Errand::RefreshKeys, conn(2), 300), ErrandWait::NotGiven);
        assert_eq!(errands.done(0, CHECKED), [], "nobody waits any more");
        assert_eq!(errands.share(Errand::RefreshKeys, conn(2), 300), ErrandWait::Given(1));
    }
}
