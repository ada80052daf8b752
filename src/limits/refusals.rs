//! The log of refusals: one info line tells the operator what was refused, why and for whom. Repeats are counted and not
//! written, so a flood of refusals costs a look-up each and floods no log. All threads share one `RefusalLog`. It knows
//! reasons by their names and nothing of what is refused; docs/logging.md says which reasons there are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashbrown::HashMap;

use crate::ids::ConnId;
use crate::limits::{Address, Gcra, Peer, Rate};

/// Lines about one reason and one address: the first few at once, so that a person who tries something out sees each …
const REPEATS_AT_ONCE: u64 = 3;
/// … then so many a minute.
const REPEATS_PER_MINUTE: u64 = 1;
/// Lines about one reason, whatever the address: so many at once …
const LINES_AT_ONCE: u64 = 20;
/// … and so many a second over time. Each reason has its own budget, so a flood of one doesn't hide another.
const LINES_PER_S: u64 = 1;
/// Pairs of a reason and an address that are remembered. A further one is told without an address of its own.
const REPEATS_MAX: usize = 4_096;
/// How often the counts of refusals without a line are written.
const SWEEP_MS: u64 = 10_000;

/// Why a token was refused: the label `reason` of `uringcast_tokens_refused_total`.
macro_rules! token_reasons {
    ($($(#[doc = $doc:literal])+ $Reason:ident = $name:literal,)*) => {
        /// Why a token was refused.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum TokenReason { $($(#[doc = $doc])+ $Reason,)* }

        impl TokenReason {
            /// All of them.
            pub const ALL: &[TokenReason] = &[$(TokenReason::$Reason,)*];

            /// Its name in metrics.
            pub fn label(self) -> &'static str {
                match self { $(TokenReason::$Reason => $name,)* }
            }

            /// Its name in the log.
            pub fn name(self) -> &'static str {
                match self { $(TokenReason::$Reason => concat!("token_", $name),)* }
            }
        }
    };
}

token_reasons! {
    /// It can't be read.
    Malformed = "malformed",
    /// No key fits its `alg` and `kid`.
    NoKey = "no_key",
    /// Its signature is wrong.
    Signature = "signature",
    /// Its time has passed.
    Expired = "expired",
    /// Its time has not come.
    NotYet = "not_yet",
    /// The backend has revoked it.
    Revoked = "revoked",
    /// A claim is missing or wrong.
    Claim = "claim",
    /// It is good, and another user's than the connection's.
    OtherUser = "other_user",
    /// It is good, and for another channel.
    OtherChannel = "other_channel",
}

/// One refusal.
#[derive(Clone, Copy, Debug)]
pub struct RefusalNote<'a> {
    /// Why, as one word: [`Limit::name`](crate::limits::Limit::name), [`TokenReason::name`] or another of docs/logging.md.
    pub reason: &'static str,
    /// The client's address, or the API client's.
    pub client: Option<Peer>,
    /// The connection, if it has got so far.
    pub conn: Option<ConnId>,
    /// The user's key, if the client has signed in.
    pub user: Option<&'a str>,
}

/// What is written to the log about refusals, and what is only counted.
#[derive(Debug)]
pub struct RefusalLog {
    tally: Mutex<Tally>,
    /// When the next sweep is due, in milliseconds of the monotonic clock.
    sweep_at_ms: AtomicU64,
}

#[derive(Debug)]
struct Tally {
    /// By reason and address; `None` without an address.
    repeats: HashMap<(&'static str, Option<Address>), RepeatedRefusal, RandomState>,
    /// By reason: as many as the source has names.
    reasons: HashMap<&'static str, RefusedForReason, RandomState>,
    same: Rate,
    all: Rate,
}

#[derive(Debug, Default)]
struct RepeatedRefusal {
    lines: Gcra,
    /// Refusals since the last line.
    left_out: u64,
}

#[derive(Debug, Default)]
struct RefusedForReason {
    lines: Gcra,
    /// Refusals that found the budget empty or the table full, since they were last told.
    left_out: u64,
}

/// Refusals that had no line of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct LeftOut {
    reason: &'static str,
    /// `None`: of various addresses.
    client: Option<Address>,
    count: u64,
}

impl Default for RefusalLog {
    fn default() -> Self {
        let same = Rate::per_minute(REPEATS_PER_MINUTE, REPEATS_AT_ONCE).expect("not 0");
        let all = Rate::per_s(LINES_PER_S, LINES_AT_ONCE).expect("not 0");
        let tally = Tally { repeats: HashMap::default(), reasons: HashMap::default(), same, all };
        Self { tally: Mutex::new(tally), sweep_at_ms: AtomicU64::new(SWEEP_MS) }
    }
}

impl RefusalLog {
    /// Writes a line about a refusal, or counts it. `detail` is only called for a line; it must quote what a client made
    /// up, as [`quoted`] does, and must not contain a token.
    pub fn tell(&self, note: &RefusalNote<'_>, now_ms: u64, detail: impl FnOnce() -> String) {
        let admitted = self.with_tally(|tally| tally.admit(note.reason, note.client.map(Address::of), now_ms));
        let Some(left_out) = admitted else { return };
        let RefusalNote { reason, client, conn, user } = *note;
        let client = client.map(tracing::field::display);
        let conn = conn.map(tracing::field::display);
        let (user, detail) = (user.map(quoted), detail());
        let left_out = (left_out > 0).then_some(left_out);
        tracing::info!(reason, client, conn, user, detail, left_out, "refused");
    }

    /// Tells how many refusals had no line of their own, some seconds after the last time.
    pub fn tick(&self, now_ms: u64) {
        let due_ms = self.sweep_at_ms.load(Ordering::Relaxed);
        let taken = due_ms <= now_ms
            && self
                .sweep_at_ms
                .compare_exchange(due_ms, now_ms + SWEEP_MS, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if taken {
            tell_left_out(self.with_tally(|tally| tally.sweep(now_ms)));
        }
    }

    /// Tells all that is left to tell: the process ends.
    pub fn finish(&self) {
        tell_left_out(self.with_tally(Tally::take_all));
    }

    fn with_tally<R>(&self, work: impl FnOnce(&mut Tally) -> R) -> R {
        // A panic in `work` leaves counts, each of which is whole.
        work(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn tell_left_out(all: Vec<LeftOut>) {
    for LeftOut { reason, client, count } in all {
        match client {
            Some(client) => tracing::info!(reason, %client, left_out = count, "refused again, not told one by one"),
            None => tracing::info!(reason, left_out = count, "refused, not told one by one"),
        }
    }
}

impl Tally {
    /// Whether a line may be written: with the number of refusals of the same kind that had none since the last line.
    fn admit(&mut self, reason: &'static str, client: Option<Address>, now_ms: u64) -> Option<u64> {
        let key = (reason, client);
        if let Some(repeat) = self.repeats.get_mut(&key)
            && repeat.lines.take(&self.same, 1, now_ms).is_err()
        {
            repeat.left_out += 1;
            return None;
        }
        let for_reason = self.reasons.entry(reason).or_default();
        let is_full = self.repeats.len() >= REPEATS_MAX && !self.repeats.contains_key(&key);
        if is_full || for_reason.lines.take(&self.all, 1, now_ms).is_err() {
            for_reason.left_out += 1;
            return None;
        }
        let repeat = self.repeats.entry(key).or_insert_with(|| {
            let mut lines = Gcra::default();
            lines.charge(&self.same, 1, now_ms);
            RepeatedRefusal { lines, left_out: 0 }
        });
        Some(std::mem::take(&mut repeat.left_out))
    }

    /// Takes out what may be told of now, and forgets those that would have their first lines again.
    fn sweep(&mut self, now_ms: u64) -> Vec<LeftOut> {
        let mut told = Vec::new();
        let Self { repeats, reasons, same, all } = self;
        repeats.retain(|(reason, client), repeat| {
            if repeat.left_out == 0 {
                return !repeat.lines.is_full(now_ms);
            }
            let budget = &mut reasons.entry(reason).or_default().lines;
            if repeat.lines.take(same, 1, now_ms).is_ok() && budget.take(all, 1, now_ms).is_ok() {
                let count = std::mem::take(&mut repeat.left_out);
                told.push(LeftOut { reason, client: *client, count });
            }
            true
        });
        for (reason, for_reason) in reasons {
            if for_reason.left_out > 0 {
                // One line each sweep, whatever the budget: a flood that goes on would leave nothing in it.
                for_reason.lines.charge(all, 1, now_ms);
                let count = std::mem::take(&mut for_reason.left_out);
                told.push(LeftOut { reason, client: None, count });
            }
        }
        told
    }

    /// Takes out everything that was not told, by reason alone: the addresses could be thousands.
    fn take_all(&mut self) -> Vec<LeftOut> {
        for ((reason, _), repeat) in self.repeats.drain() {
            self.reasons.entry(reason).or_default().left_out += repeat.left_out;
        }
        let told = self.reasons.drain().filter(|(_, for_reason)| for_reason.left_out > 0);
        told.map(|(reason, for_reason)| LeftOut { reason, client: None, count: for_reason.left_out }).collect()
    }
}

/// Characters of a client's text that the log shows.
const QUOTED_CHARS: usize = 64;

/// A text that a client made up, as the log may show it: in quotes, with control characters escaped, and cut.
pub fn quoted(text: &str) -> String {
    quoted_up_to(QUOTED_CHARS, text)
}

/// The same for a text that may be longer.
pub fn quoted_up_to(chars: usize, text: &str) -> String {
    match text.char_indices().nth(chars) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// The shortest word of base64url that could be a token's signature (HS256: 43 characters).
const SECRET_CHARS: usize = 40;

/// A path, a host or an origin, as the log may show it. A word that may be a part of a token, since somebody put one there,
/// is cut: it is long, or begins as JSON does in base64.
pub fn quoted_place(place: &str) -> String {
    let is_of_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let mut shown = String::new();
    for piece in place.split_inclusive(|c| !is_of_word(c)) {
        let word = piece.trim_end_matches(|c| !is_of_word(c));
        if word.len() >= SECRET_CHARS || word.starts_with("eyJ") {
            shown.extend([&word[..4.min(word.len())], "…", &piece[word.len()..]]);
        } else {
            shown.push_str(piece);
        }
    }
    quoted(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        RefusalLog::default().tally.into_inner().unwrap()
    }

    fn address(number: u32) -> Option<Address> {
        Some(Address::of(Peer::Ip(core::net::IpAddr::V4(number.into()))))
    }

    #[test]
    fn the_first_lines_come_at_once_and_then_one_a_minute_with_the_count_of_the_others() {
        let mut tally = tally();
        let mut lines = |now_ms, refusals: u64| -> Vec<u64> {
            (0..refusals).filter_map(|_| tally.admit("a", address(1), now_ms)).collect()
        };
        assert_eq!(lines(0, 100), [0, 0, 0]);
        assert!(lines(59_999, 1).is_empty());
        assert_eq!(lines(60_000, 5), [98]);
        assert_eq!(lines(120_000, 1), [4]);
    }

    #[test]
    fn what_has_no_line_is_told_later_although_nothing_more_happens() {
        let mut tally = tally();
        (0..10).for_each(|_| assert!(tally.admit("a", address(1), 0).is_none_or(|left_out| left_out == 0)));
        assert_eq!(tally.sweep(10_000), []);
        assert_eq!(tally.sweep(60_000), [LeftOut { reason: "a", client: address(1), count: 7 }]);
        assert_eq!(tally.sweep(600_000), []);
        assert!(tally.repeats.is_empty(), "what would have its first lines again is forgotten");
    }

    #[test]
    fn a_flood_from_many_addresses_has_few_lines_and_hides_no_other_reason() {
        let mut tally = tally();
        let (mut lines, mut told) = (0, 0);
        for n in 0..1_000_000 {
            let now_ms = u64::from(n) / 100;
            lines += usize::from(tally.admit("flood", address(n), now_ms).is_some());
            if n % 100_000 == 0 {
                let left_out = tally.sweep(now_ms);
                lines += left_out.len();
                told += left_out.iter().map(|left_out| left_out.count).sum::<u64>();
            }
        }
        assert_eq!(tally.admit("other", address(7), 10_000), Some(0));
        told += tally.take_all().iter().map(|left_out| left_out.count).sum::<u64>();
        // Ten seconds, and one line at each of ten sweeps.
        assert!((20..=45).contains(&lines), "{lines} lines");
        assert!(told > 999_900, "{told} were told");
    }

    #[test]
    fn every_reason_is_documented() {
        let page = include_str!("../../docs/logging.md");
        let limits = crate::limits::Limit::ALL.iter().map(|limit| limit.name());
        for name in limits.chain(TokenReason::ALL.iter().map(|reason| reason.name())) {
            assert!(page.contains(&format!("`{name}`")), "docs/logging.md lacks {name}");
        }
    }

    #[test]
    fn the_table_has_a_bound() {
        let mut tally = tally();
        for n in 0..100_000 {
            // As slowly as the budget lets each have its line.
            tally.admit("a", address(n), u64::from(n) * 10);
            tally.repeats.iter_mut().for_each(|(_, repeat)| repeat.left_out = 1);
        }
        assert!(tally.repeats.len() <= REPEATS_MAX, "{}", tally.repeats.len());
    }

    #[test]
    fn a_clients_text_can_not_forge_a_line() {
        assert_eq!(quoted("a\n\u{1b}[31m\"b"), r#""a\n\u{1b}[31m\"b""#);
        assert_eq!(
            quoted_place("https://a-long-name.of.a.host.example:80"),
            r#""https://a-long-name.of.a.host.example:80""#
        );
        let signature = "s".repeat(43);
        let token = format!("/ws/eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.{signature}/ж/");
        assert_eq!(quoted_place(&token), r#""/ws/eyJh….eyJz….ssss…/ж/""#);
        let cut = quoted(&"ж".repeat(1_000));
        assert_eq!(cut.chars().count(), QUOTED_CHARS + 3, "{cut}");
    }
}
