//! Commands of clients: the session judges each, and its effect is carried out here. Part of `shard`; what a command means
//! is the `session`'s to say.

use super::ShardCore;
use super::refusals::{TokenUse, token_use};
use crate::auth::RefusedToken;
use crate::hub::LOBBY;
use crate::ids::ConnId;
use crate::limits::Address;
use crate::model::command::Request;
use crate::model::notice::{About, Reply};
use crate::model::refusal::RequestError;
use crate::model::text::Text;
use crate::session::{Effect, Local, Rules, Session, Wanted};
use crate::time::clock::Now;

impl ShardCore {
    /// Has the session judge a command, and carries out the effect.
    pub(super) fn command(&mut self, id: ConnId, request: Request<'_>, now: Now) {
        self.charge_escaping(id, &request.command, now);
        let token_use = token_use(&request.command);
        let looks_at_tokens = token_use.is_none() || self.may_sign_in(id, now);
        let mark = request.id;
        let channel = request.command.channel().unwrap_or(LOBBY);
        let (effect, refused) =
            self.judge(id, channel, looks_at_tokens, |session, rules| session.command(request, rules, now));
        match effect {
            Effect::Reply(reply, mark) => self.say(id, &reply, mark),
            Effect::Wait => {}
            Effect::Ask(asked) => self.ask(id, asked, now),
            Effect::Local(what, channel, mark) => self.local(id, what, channel, mark, now),
            Effect::Cancel(cancelled, channel, mark) => {
                let error = RequestError::new(409, Text::Cancelled);
                self.local(id, Local::Refuse(error), channel, cancelled.as_deref(), now);
                self.say(id, &Reply::Unsubscribed { channel, code: 200 }, mark);
            }
            Effect::Refreshed(reply, mark) => {
                self.say(id, &reply, mark);
                self.review_subscriptions(id);
                self.file_deadline(id);
            }
            Effect::Close(reply, mark, code) => {
                self.say(id, &reply, mark);
                // In dev mode every client is on this machine and may know why.
                let why = refused.as_ref().filter(|_| self.settings.site.is_dev());
                let why = why.map(RefusedToken::close_reason);
                self.close(id, code, why.as_deref().unwrap_or("unauthorized"), now);
            }
        }
        if let (Some(token), Some(token_use)) = (refused, token_use) {
            self.token_refused(id, mark, token_use, &token, now);
        }
    }

    /// Subscribes to the channels that came with `auth`. Each is answered separately.
    pub(super) fn subscribe_all(&mut self, id: ConnId, channels: &[Wanted], now: Now) {
        for wanted in channels {
            let looks_at_tokens = !wanted.has_token() || self.may_sign_in(id, now);
            let (effect, refused) = self
                .judge(id, &wanted.channel, looks_at_tokens, |session, rules| session.subscribe_to(wanted, rules, now));
            match effect {
                Effect::Ask(asked) => self.ask(id, asked, now),
                // Told from the answer to `auth` by the channel that it names, the lobby too.
                Effect::Local(Local::Refuse(error), channel, mark) => {
                    self.tell_local_refusal(id, channel, error.text, now);
                    self.say(id, &Reply::Error { error, about: Some(About::Channel { channel }) }, mark);
                }
                Effect::Wait => {}
                effect => unreachable!("{effect:?} doesn't come of a subscribe"),
            }
            if let Some(token) = refused {
                let what = TokenUse { kind: "auth.channels", channel: Some(&wanted.channel) };
                self.token_refused(id, None, what, &token, now);
                if self.conns.at(id.slot).is_closing() {
                    return;
                }
            }
        }
    }

    /// Lets the connection's session judge something about `channel`. Returns what it says, and the token that it refused.
    pub(super) fn judge<R>(
        &mut self,
        id: ConnId,
        channel: &str,
        looks_at_tokens: bool,
        judge: impl FnOnce(&mut Session, &mut Rules<'_>) -> R,
    ) -> (R, Option<RefusedToken>) {
        let subscribed = self.find_subscription(id, channel).is_some();
        let conn = self.conns.at(id.slot);
        let subscriptions = conn.subscriptions.len();
        // The lobby does not count. That only matters at the bound, and below it costs no look-up.
        let is_at_bound = subscriptions + conn.session.subscribing() >= self.settings.subscriptions;
        let in_lobby = is_at_bound && self.find_subscription(id, LOBBY).is_some();
        let bounded = *self.conns.address(id.slot) != Address::NONE;
        let accepted_ns = self.conns.accepted_ns(id.slot);
        let Self { conns, authenticator, settings, .. } = self;
        let conn = conns.at(id.slot);
        let mut rules = Rules {
            authenticator,
            namespaces: &settings.hub.namespaces,
            request_ms: settings.request_ms,
            subscriptions_max: settings.subscriptions,
            subscriptions: subscriptions - usize::from(in_lobby),
            subscribed,
            bounded,
            accepted_ns,
            looks_at_tokens,
            refused_token: None,
        };
        let judged = judge(&mut conn.session, &mut rules);
        (judged, rules.refused_token)
    }
}
