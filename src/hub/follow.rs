//! How far an owner knows a channel of a remote engine: which follows it has sent, which were answered, and whether
//! publications are missing. Part of `hub`.

use crate::model::engine::Ticket;

/// How far the owner knows a channel of a remote engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FollowState {
    /// The first follow that was sent; ticket 0 if none was. Answers to earlier ones are about a channel of the same name
    /// that is gone.
    first: Ticket,
    /// The latest follow that was sent.
    asked: Ticket,
    /// The latest follow that was answered; ticket 0 if none was, and then nothing is known of the channel.
    heard: Ticket,
    /// An answer is awaited.
    is_asking: bool,
    /// Publications are missing. Those that come are dropped until the follow with this ticket is answered; ticket 0 if it
    /// has not been sent yet.
    behind: Option<Ticket>,
}

impl Default for FollowState {
    fn default() -> Self {
        Self::UNKNOWN
    }
}

impl FollowState {
    /// Nothing is known, and nothing was asked.
    pub(crate) const UNKNOWN: Self =
        Self { first: Ticket(0), asked: Ticket(0), heard: Ticket(0), is_asking: false, behind: None };

    /// The latest follow that was answered.
    pub(crate) fn heard(&self) -> Ticket {
        self.heard
    }

    /// The latest follow that was sent; ticket 0 if none was.
    pub(crate) fn asked(&self) -> Ticket {
        self.asked
    }

    /// The channel's position is known.
    pub(crate) fn is_known(&self) -> bool {
        self.heard > Ticket(0)
    }

    /// The channel has been followed, whether that was answered or not.
    pub(crate) fn was_asked(&self) -> bool {
        self.asked > Ticket(0)
    }

    /// A follow has not been answered.
    pub(crate) fn is_asking(&self) -> bool {
        self.is_asking
    }

    /// Publications are missing.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Notes that publications are missing. A follow has to be sent for them.
    pub(crate) fn fall_behind(&mut self) {
        self.behind = Some(Ticket(0));
    }

    /// Notes a follow that was sent, and that it will bring what is missing.
    pub(crate) fn sent_for_missing(&mut self, ticket: Ticket) {
        self.sent(ticket);
        self.behind = Some(ticket);
    }

    /// Notes a follow that was not answered in time. Returns whether missing publications were to come with it.
    pub(crate) fn give_up(&mut self, ticket: Ticket) -> bool {
        self.is_asking &= ticket < self.asked;
        self.behind == Some(ticket)
    }

    /// Notes a follow that was sent.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        if self.first == Ticket(0) {
            self.first = ticket;
        }
        (self.asked, self.is_asking) = (ticket, true);
    }

    /// Whether the follow with this ticket is one of this channel's.
    pub(crate) fn is_own(&self, ticket: Ticket) -> bool {
        self.first > Ticket(0) && ticket >= self.first
    }

    /// Notes a follow that was answered.
    pub(crate) fn answered(&mut self, ticket: Ticket) {
        self.heard = self.heard.max(ticket);
        self.is_asking &= ticket < self.asked;
        self.behind = self.behind.filter(|needed| *needed == Ticket(0) || ticket < *needed);
    }
}
