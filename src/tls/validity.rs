//! When a certificate chain is valid, and when the operator has to be told that it expires soon. This file knows dates
//! only. `watch` logs them, `doctor` reports them, and a metric shows the end.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::parse_x509_certificate;

/// How long before its end a certificate is reported, in seconds. A working renewal has happened by then (Let's Encrypt's
/// clients renew 30 days before the end), and a failing one can still be repaired.
const NOTICE_S: i64 = 14 * DAY_S;
const DAY_S: i64 = 24 * 60 * 60;
const HOUR_S: i64 = 60 * 60;

/// The time in which all certificates of a chain are valid, in seconds since 1970 (RFC 5280 §4.1.2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Validity {
    /// The first second in which the chain is valid.
    pub(crate) not_before_s: i64,
    /// The last second in which the chain is valid.
    pub(crate) not_after_s: i64,
}

/// What is wrong with a certificate's dates, with the number of seconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Concern {
    /// The certificate will become valid in this many seconds. Clients refuse it until then.
    NotYetValid(i64),
    /// The certificate expires in this many seconds.
    ExpiresSoon(i64),
    /// The certificate expired this many seconds ago. Clients refuse it.
    Expired(i64),
}

impl Validity {
    /// The validity of a chain: from the latest beginning to the earliest end of its certificates. `None` if the dates of
    /// a certificate cannot be read. rustls checks only the first certificate's key, so it may serve such a chain.
    pub(crate) fn of(chain: &[CertificateDer<'_>]) -> Option<Self> {
        let mut all: Option<Self> = None;
        for certificate in chain {
            let (_, parsed) = parse_x509_certificate(certificate).ok()?;
            let (from_s, until_s) = (parsed.validity.not_before.timestamp(), parsed.validity.not_after.timestamp());
            let before = all.unwrap_or(Self { not_before_s: from_s, not_after_s: until_s });
            all = Some(Self {
                not_before_s: before.not_before_s.max(from_s),
                not_after_s: before.not_after_s.min(until_s),
            });
        }
        all
    }

    /// What is wrong at `now_s`, in seconds since 1970; `None` if nothing is.
    pub(crate) fn concern(&self, now_s: i64) -> Option<Concern> {
        let left_s = self.not_after_s - now_s;
        if left_s < 0 {
            Some(Concern::Expired(-left_s))
        } else if now_s < self.not_before_s {
            Some(Concern::NotYetValid(self.not_before_s - now_s))
        } else {
            (left_s < NOTICE_S).then_some(Concern::ExpiresSoon(left_s))
        }
    }
}

impl fmt::Display for Concern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NotYetValid(by_s) => write!(f, "becomes valid in {}", Span(by_s)),
            Self::ExpiresSoon(left_s) => write!(f, "expires in {}", Span(left_s)),
            Self::Expired(for_s) => write!(f, "expired {} ago", Span(for_s)),
        }
    }
}

/// A number of seconds, shown in days from two days up, and in hours below.
struct Span(i64);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(seconds) = *self;
        match (seconds / DAY_S, seconds / HOUR_S) {
            (days @ 2.., _) => write!(f, "{days} days"),
            (_, 1) => write!(f, "1 hour"),
            (_, hours @ 2..) => write!(f, "{hours} hours"),
            _ => write!(f, "less than an hour"),
        }
    }
}

/// Decides when a concern is logged: when it is new, and then once a day.
#[derive(Debug, Default)]
pub(crate) struct Reminder {
    last: Option<(Validity, Concern, i64)>,
}

impl Reminder {
    /// The concern to log at `now_s`, in seconds since 1970, about the certificate in use; `None` if none is due.
    pub(crate) fn due(&mut self, validity: Option<Validity>, now_s: i64) -> Option<Concern> {
        let found = validity.and_then(|validity| Some((validity, validity.concern(now_s)?, now_s)));
        let Some((validity, concern, _)) = found else {
            self.last = None;
            return None;
        };
        let kind = std::mem::discriminant::<Concern>;
        let told = self.last.is_some_and(|(of, said, at_s)| {
            // After the clock was set back, waiting for the old time would silence the reminder.
            of == validity && kind(&said) == kind(&concern) && (at_s..at_s + DAY_S).contains(&now_s)
        });
        if told {
            return None;
        }
        self.last = found;
        Some(concern)
    }

    /// Makes the next concern due at once.
    pub(crate) fn reset(&mut self) {
        self.last = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Validity = Validity { not_before_s: 1_000_000, not_after_s: 1_000_000 + 90 * DAY_S };

    #[test]
    fn dates_are_judged_at_their_edges() {
        for (now_s, text) in [
            (GOOD.not_before_s - 3 * DAY_S, Some("becomes valid in 3 days")),
            (GOOD.not_before_s - 1, Some("becomes valid in less than an hour")),
            (GOOD.not_before_s, None),
            (GOOD.not_after_s - NOTICE_S, None),
            (GOOD.not_after_s - NOTICE_S + 1, Some("expires in 13 days")),
            (GOOD.not_after_s - 2 * DAY_S + 1, Some("expires in 47 hours")),
            (GOOD.not_after_s - HOUR_S, Some("expires in 1 hour")),
            (GOOD.not_after_s, Some("expires in less than an hour")),
            (GOOD.not_after_s + 1, Some("expired less than an hour ago")),
            (GOOD.not_after_s + 400 * DAY_S, Some("expired 400 days ago")),
        ] {
            assert_eq!(GOOD.concern(now_s).map(|concern| concern.to_string()).as_deref(), text, "{now_s}");
        }
    }

    #[test]
    fn it_is_told_when_it_is_new_and_then_daily() {
        let mut reminder = Reminder::default();
        let end_s = GOOD.not_after_s;
        let mut told = Vec::new();
        for now_s in (end_s - 20 * DAY_S..end_s + 3 * DAY_S).step_by(1_800) {
            told.extend(reminder.due(Some(GOOD), now_s).map(|_| now_s - end_s));
        }
        // From the first look within the notice on, daily; anew from the moment it has expired.
        let soon = (0..14).map(|day| 1_800 - NOTICE_S + day * DAY_S);
        let expired = (0..3).map(|day| 1_800 + day * DAY_S);
        assert_eq!(told, soon.chain(expired).collect::<Vec<_>>());
    }

    #[test]
    fn another_certificate_a_reload_and_a_clock_put_back_are_told_at_once() {
        let mut reminder = Reminder::default();
        let now_s = GOOD.not_after_s - DAY_S;
        assert!(reminder.due(Some(GOOD), now_s).is_some());
        assert!(reminder.due(Some(GOOD), now_s + 1).is_none());
        let other = Validity { not_after_s: GOOD.not_after_s + 1, ..GOOD };
        assert!(reminder.due(Some(other), now_s + 2).is_some());
        reminder.reset();
        assert!(reminder.due(Some(other), now_s + 3).is_some());
        assert!(reminder.due(Some(other), now_s).is_some());
        assert!(reminder.due(None, now_s).is_none() && reminder.due(Some(GOOD), GOOD.not_before_s).is_none());
        assert!(reminder.due(Some(other), now_s).is_some());
    }

    #[test]
    fn a_chain_is_good_while_all_of_it_is() {
        let certificate = |from_year, until_year| {
            let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
            params.not_before = rcgen::date_time_ymd(from_year, 1, 1);
            params.not_after = rcgen::date_time_ymd(until_year, 1, 1);
            let key = rcgen::KeyPair::generate().expect("a key");
            params.self_signed(&key).expect("signs").der().clone()
        };
        let seconds = |year: i32| rcgen::date_time_ymd(year, 1, 1).unix_timestamp();
        // 2060 is written in another way than 2040 (RFC 5280 §4.1.2.5).
        let chain = [certificate(2020, 2060), certificate(2021, 2040)];
        let whole = Validity { not_before_s: seconds(2021), not_after_s: seconds(2040) };
        assert_eq!(Validity::of(&chain), Some(whole));
        assert_eq!(Validity::of(&chain[..1]).map(|first| first.not_after_s), Some(seconds(2060)));
        assert_eq!(Validity::of(&[]), None);
        assert_eq!(Validity::of(&[CertificateDer::from(vec![1, 2, 3])]), None);
    }
}
