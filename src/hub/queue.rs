//! The answers of one channel that have to wait, in the order of the asks: behind a batch window, behind an engine that
//! has not answered yet, or behind another answer to the same client. Part of `hub`; knows no lane.

use std::collections::VecDeque;

use super::caller::Caller;
use crate::model::engine::Ticket;
use crate::model::parcel::{Answer, Ask, Asker};
use crate::planted::Fault;

/// One ask that has not been answered yet.
#[derive(Debug)]
pub(crate) struct AnswerSlot {
    /// The asker, who gets the answer.
    pub(crate) caller: Caller,
    /// What the slot waits for.
    pub(crate) state: SlotState,
}

/// What a slot waits for, apart from the slots in front of it.
#[derive(Debug)]
pub(crate) enum SlotState {
    /// The answer is known. An acknowledgement also waits until its publication has been sent.
    Answered(Answer),
    /// The ask is executed when the engine has answered the follow with this ticket.
    Asked(Ask, Ticket),
    /// The publication is at the engine, under this ticket.
    Submitted(Ticket),
}

/// The slots of one channel.
#[derive(Debug, Default)]
pub(crate) struct AnswerQueue {
    slots: VecDeque<AnswerSlot>,
    /// How many slots wait for the engine.
    at_engine: usize,
}

impl AnswerQueue {
    /// Appends a slot.
    pub(crate) fn push(&mut self, caller: Caller, state: SlotState) {
        self.at_engine += state.waits_for_engine();
        self.slots.push_back(AnswerSlot { caller, state });
    }

    /// Puts back a slot that was the first one.
    pub(crate) fn push_front(&mut self, caller: Caller, state: SlotState) {
        self.at_engine += state.waits_for_engine();
        self.slots.push_front(AnswerSlot { caller, state });
    }

    /// The first slot.
    pub(crate) fn first(&self) -> Option<&AnswerSlot> {
        self.slots.front()
    }

    /// Takes the first slot.
    pub(crate) fn pop(&mut self) -> Option<AnswerSlot> {
        let slot = self.slots.pop_front()?;
        self.at_engine -= slot.state.waits_for_engine();
        if self.slots.is_empty() && self.slots.capacity() > 64 {
            self.slots = VecDeque::new();
        }
        Some(slot)
    }

    /// Fills the slot that waits for this ticket. Returns whether there is one.
    pub(crate) fn complete(&mut self, ticket: Ticket, answer: Answer) -> bool {
        if Fault::SwappedCompletion.is_planted() {
            self.swap_tickets(); // PLANTED
        }
        let waits = |slot: &&mut AnswerSlot| matches!(slot.state, SlotState::Submitted(other) if other == ticket);
        let Some(slot) = self.slots.iter_mut().find(waits) else { return false };
        slot.state = SlotState::Answered(answer);
        self.at_engine -= 1;
        true
    }

    /// Two publications wait for each other's outcome.
    fn swap_tickets(&mut self) {
        let mut submitted = self.slots.iter_mut().filter_map(|slot| match &mut slot.state {
            SlotState::Submitted(ticket) => Some(ticket),
            _ => None,
        });
        if let (Some(one), Some(other)) = (submitted.next(), submitted.next()) {
            std::mem::swap(one, other);
        }
    }

    /// Answers every ask that waits for this follow.
    pub(crate) fn refuse_follow(&mut self, follow: Ticket, answer: impl Fn() -> Answer) {
        for slot in &mut self.slots {
            if matches!(slot.state, SlotState::Asked(_, ticket) if ticket == follow) {
                self.at_engine -= slot.state.waits_for_engine();
                slot.state = SlotState::Answered(answer());
            }
        }
    }

    /// Takes away the sign-in of a connection that is gone.
    pub(crate) fn remove_claim(&mut self, asker: Asker) -> Option<Caller> {
        let own =
            |slot: &AnswerSlot| slot.caller.asker == asker && matches!(slot.state, SlotState::Asked(Ask::Claim(_), _));
        let at = self.slots.iter().position(own)?;
        let slot = self.slots.remove(at)?;
        self.at_engine -= slot.state.waits_for_engine();
        Some(slot.caller)
    }

    /// Whether an ask of this client waits here. The backend's asks have no order among themselves.
    pub(crate) fn is_awaited_by(&self, asker: Asker) -> bool {
        asker.client().is_some() && self.slots.iter().any(|slot| slot.caller.asker == asker)
    }

    /// Whether an ask of this client waits here that may attach it to the channel.
    pub(crate) fn is_attaching(&self, asker: Asker) -> bool {
        let attaches = |slot: &AnswerSlot| {
            slot.caller.asker == asker && matches!(slot.state, SlotState::Asked(Ask::Subscribe { .. }, _))
        };
        asker.client().is_some() && self.slots.iter().any(attaches)
    }

    /// Whether a slot waits for the engine.
    pub(crate) fn is_at_engine(&self) -> bool {
        self.at_engine > 0
    }

    /// How many slots there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }
}

impl SlotState {
    fn waits_for_engine(&self) -> usize {
        match self {
            Self::Answered(_) => 0,
            Self::Submitted(_) => 1,
            Self::Asked(_, follow) => usize::from(*follow > Ticket::default()),
        }
    }
}
