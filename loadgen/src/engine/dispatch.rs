//! Where the messages of one `recv` go: to the sign-in, then to the workload. Counts what passes.
//!
//! Lives for one `recv` of one connection. Made by `engine`, called by `client`.

use super::{Stage, Stats, Workload};
use crate::client::{Ended, Outgoing, Sink};
use crate::control::Plan;
use crate::deflate::Agreed;
use crate::protocol::SignIn;
use crate::random::Random;

/// A connection's place in its thread while it receives.
pub(super) struct Dispatch<'a, W> {
    pub plan: &'a Plan,
    pub number: usize,
    pub slot: usize,
    pub at: u64,
    pub started: u64,
    pub again: bool,
    pub stage: &'a mut Stage,
    pub in_flight: &'a mut usize,
    pub workload: &'a mut W,
    pub random: &'a mut Random,
    pub stats: &'a mut Stats,
}

impl<W: Workload> Dispatch<'_, W> {
    fn signing_in(&mut self, state: SignIn, position: Option<&[u8]>, out: Option<&mut Outgoing>) {
        *self.stage = Stage::SigningIn(state);
        if state != SignIn::Done {
            return;
        }
        *self.stage = Stage::Ready;
        *self.in_flight -= 1;
        let took = self.at.saturating_sub(self.started);
        if self.again {
            self.stats.returned.record(took.max(1));
        } else {
            self.stats.ready += 1;
            self.stats.signed_in.record(took);
        }
        self.workload.signed_in(self.slot, position, self.at);
        if let Some(out) = out {
            self.workload.opened(self.slot, out, self.random);
        }
    }
}

impl<W: Workload> Sink for Dispatch<'_, W> {
    fn upgraded(&mut self, out: &mut Outgoing) -> Result<(), Ended> {
        let took = self.at.saturating_sub(self.started);
        if !self.again {
            self.stats.upgraded.record(took);
        }
        let state = self.plan.dialect.hello(out, self.random);
        self.signing_in(state, None, Some(out));
        Ok(())
    }

    fn streaming(&mut self) {
        if !self.again {
            self.stats.upgraded.record(self.at.saturating_sub(self.started));
        }
        self.signing_in(SignIn::Subscribed, None, None);
    }

    fn answer(&mut self, status: u16, body: &[u8]) {
        self.stats.frames += 1;
        self.workload.answer(self.slot, status, body, self.at);
    }

    fn key(&mut self) -> u32 {
        self.random.key()
    }

    #[inline]
    fn message(&mut self, out: &mut Outgoing, payload: &[u8]) -> Result<(), Ended> {
        self.stats.frames += 1;
        match *self.stage {
            Stage::Ready => self.workload.message(self.slot, payload, self.at),
            Stage::SigningIn(state) => {
                let Self { plan, number, slot, workload, random, .. } = self;
                let more = |data: &mut Vec<u8>| workload.auth(*slot, data);
                let step = plan.dialect.step(state, *number, payload, out, random, more).map_err(Ended::SignIn)?;
                self.signing_in(step.state, step.position.then_some(payload), Some(out));
            }
            _ => {}
        }
        Ok(())
    }

    fn agreed(&mut self, agreed: Option<&Agreed>) {
        let tally = &mut self.stats.compression;
        *agreed.map_or(&mut tally.declined, |agreed| tally.agreed.entry(*agreed).or_default()) += 1;
    }

    #[inline]
    fn reads(&self) -> bool {
        *self.stage != Stage::Ready || self.workload.verifies(self.slot)
    }

    #[inline]
    fn wire(&mut self, payload: &[u8], compressed: bool) {
        let tally = &mut self.stats.compression;
        if compressed {
            tally.compressed += 1;
            tally.compressed_bytes += payload.len() as u64;
        } else {
            tally.plain += 1;
        }
        self.workload.wire(self.slot, payload, compressed);
    }

    fn inflated(&mut self, from: usize, to: usize) {
        let tally = &mut self.stats.compression;
        tally.inflated += 1;
        tally.inflated_from_bytes += from as u64;
        tally.inflated_to_bytes += to as u64;
    }

    #[inline]
    fn unread(&mut self) {
        self.stats.frames += 1;
        self.workload.unread(self.slot);
    }
}
