//! Whether every message came exactly once and in order: the checker, and the table of what went wrong.
//!
//! Pure: numbers in, counts out. A *lane* is one receiver's view of one sender; its messages are numbered
//! 0, 1, 2 … The usual case is one comparison; everything else is kept aside until it is known whether a
//! missing number was lost or only late.
//! Called by the workloads.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::AddAssign;

use serde::Serialize;

/// How many missing numbers are remembered one by one; beyond that they count as lost at once.
const REMEMBERED: usize = 1 << 20;

/// What went wrong, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Faults {
    /// Never came.
    pub lost: u64,
    /// Came more than once.
    pub doubled: u64,
    /// Came after a later one.
    pub reordered: u64,
    /// Came with other bytes than were sent.
    pub corrupted: u64,
    /// The server's own offsets had a hole or went back.
    pub offset_breaks: u64,
    /// Requests that the server answered with an error.
    pub refused: u64,
    /// Observers that believed, in the end, that someone was there who wasn't, or the other way round; and a
    /// server's count of users that was wrong.
    pub presence: u64,
    /// Connections that ended before their time.
    pub cut: u64,
    /// Connections that could not be opened or signed in.
    pub failed: u64,
}

impl Faults {
    /// The counts with their names.
    pub fn named(&self) -> [(&'static str, u64); 9] {
        [
            ("lost", self.lost),
            ("doubled", self.doubled),
            ("reordered", self.reordered),
            ("corrupted", self.corrupted),
            ("offset breaks", self.offset_breaks),
            ("refused", self.refused),
            ("presence", self.presence),
            ("cut", self.cut),
            ("failed", self.failed),
        ]
    }

    /// Any at all.
    pub fn any(&self) -> bool {
        self.named().iter().any(|(_, count)| *count > 0)
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.offset_breaks += other.offset_breaks;
        self.refused += other.refused;
        self.presence += other.presence;
        self.cut += other.cut;
        self.failed += other.failed;
    }
}

/// The numbers that each of many receivers has seen from each of a few senders.
pub struct Checker {
    senders: usize,
    next: Vec<u32>,
    gone: Vec<bool>,
    /// Sum of `next` over receivers that are not gone: how far all of them are together.
    progress: u64,
    missing: HashMap<usize, BTreeSet<u32>>,
    remembered: usize,
    /// Lanes that were told of a hole before what comes next.
    forgiven: HashSet<usize>,
    /// What went wrong so far.
    pub faults: Faults,
}

impl Checker {
    /// A checker for `receivers` that each hear `senders`.
    pub fn new(receivers: usize, senders: usize) -> Self {
        Self {
            senders,
            next: vec![0; receivers * senders],
            gone: vec![false; receivers],
            progress: 0,
            missing: HashMap::new(),
            remembered: 0,
            forgiven: HashSet::new(),
            faults: Faults::default(),
        }
    }

    /// The number that should come next.
    #[inline]
    pub fn next(&self, receiver: usize, sender: usize) -> u32 {
        self.next[receiver * self.senders + sender]
    }

    /// The number that should come next came.
    #[inline]
    pub fn advance(&mut self, receiver: usize, sender: usize) {
        self.next[receiver * self.senders + sender] += 1;
        self.progress += 1;
    }

    /// Number `seen` came, whatever should have.
    pub fn saw(&mut self, receiver: usize, sender: usize, seen: u32) {
        let lane = receiver * self.senders + sender;
        let expected = self.next[lane];
        if seen == expected {
            self.advance(receiver, sender);
        } else if seen > expected {
            self.progress += u64::from(seen - expected) + 1;
            self.next[lane] = seen + 1;
            if self.forgiven.remove(&lane) {
                return;
            }
            let skipped = (seen - expected) as usize;
            if self.remembered + skipped > REMEMBERED {
                self.faults.lost += skipped as u64;
            } else {
                self.remembered += skipped;
                self.missing.entry(lane).or_default().extend(expected..seen);
            }
        } else if self.missing.get_mut(&lane).is_some_and(|missing| missing.remove(&seen)) {
            self.remembered -= 1;
            self.faults.reordered += 1;
        } else {
            self.faults.doubled += 1;
        }
    }

    /// How far the receiver is, all senders together.
    pub fn had(&self, receiver: usize) -> u64 {
        let lanes = receiver * self.senders..(receiver + 1) * self.senders;
        self.next[lanes].iter().map(|next| u64::from(*next)).sum()
    }

    /// The receiver's connection ended, or it is judged otherwise.
    pub fn is_gone(&self, receiver: usize) -> bool {
        self.gone[receiver]
    }

    /// The receiver's connection ended: what it never got no longer counts as lost.
    pub fn ended(&mut self, receiver: usize) {
        if !std::mem::replace(&mut self.gone[receiver], true) {
            self.progress -= self.had(receiver);
        }
    }

    /// The receiver was told that something is missing here: the next hole of each lane doesn't count.
    pub fn forgive(&mut self, receiver: usize) {
        self.forgiven.extend(receiver * self.senders..(receiver + 1) * self.senders);
    }

    /// The receiver is there (again), and number `next` of its only sender is the first that it should get.
    pub fn restart(&mut self, receiver: usize, next: u32) {
        let was = std::mem::replace(&mut self.next[receiver], next);
        if !std::mem::take(&mut self.gone[receiver]) {
            self.progress -= u64::from(was);
        }
        self.progress += u64::from(next);
        if let Some(missing) = self.missing.remove(&receiver) {
            self.remembered -= missing.len();
        }
    }

    /// Every receiver that is still there has all there is; `sent` is what it should have, all senders
    /// together.
    pub fn complete(&self, sent: impl Fn(usize) -> u64) -> bool {
        let here = (0..self.gone.len()).filter(|receiver| !self.gone[*receiver]);
        self.remembered == 0 && self.progress >= here.map(sent).sum()
    }

    /// Counts what is still missing as lost; `sent(receiver, sender)` is all there was.
    pub fn finish(&mut self, sent: impl Fn(usize, usize) -> u32) {
        self.faults.lost += self.remembered as u64;
        self.remembered = 0;
        self.missing.clear();
        for (lane, next) in self.next.iter_mut().enumerate() {
            if !self.gone[lane / self.senders] && !self.forgiven.contains(&lane) {
                let sent = sent(lane / self.senders, lane % self.senders);
                self.faults.lost += u64::from(sent.saturating_sub(*next));
                *next = sent;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(seen: &[u32], sent: u32) -> Faults {
        let mut checker = Checker::new(3, 2);
        for number in seen {
            checker.saw(1, 1, *number);
        }
        for receiver in [0, 2] {
            checker.ended(receiver);
        }
        let complete = checker.complete(|_| u64::from(sent));
        checker.finish(|_, sender| if sender == 1 { sent } else { 0 });
        assert_eq!(complete, checker.faults.lost == 0);
        checker.faults
    }

    #[test]
    fn an_orderly_run_has_no_faults() {
        assert_eq!(faults_of(&[0, 1, 2, 3], 4), Faults::default());
        assert!(!faults_of(&[], 0).any());
    }

    #[test]
    fn a_planted_loss_is_found_in_the_middle_and_at_the_end() {
        assert_eq!(faults_of(&[0, 1, 3], 4).lost, 1);
        assert_eq!(faults_of(&[0, 5], 6).lost, 4);
        assert_eq!(faults_of(&[0, 1], 4).lost, 2);
    }

    #[test]
    fn a_planted_double_is_found() {
        let faults = faults_of(&[0, 1, 1, 2, 0], 3);
        assert_eq!((faults.doubled, faults.lost, faults.reordered), (2, 0, 0));
    }

    #[test]
    fn a_planted_reorder_is_no_loss() {
        let faults = faults_of(&[0, 2, 1, 3], 4);
        assert_eq!((faults.reordered, faults.lost, faults.doubled), (1, 0, 0));
        let faults = faults_of(&[0, 2, 1, 1], 3);
        assert_eq!((faults.reordered, faults.lost, faults.doubled), (1, 0, 1));
    }

    #[test]
    fn a_hole_that_was_told_of_is_no_loss() {
        let mut checker = Checker::new(1, 1);
        checker.saw(0, 0, 0);
        checker.forgive(0);
        checker.saw(0, 0, 5);
        assert!(checker.complete(|_| 6));
        checker.saw(0, 0, 7);
        checker.finish(|_, _| 8);
        assert_eq!(checker.faults.lost, 1);
    }

    #[test]
    fn a_receiver_that_returns_starts_where_it_is_told() {
        let mut checker = Checker::new(1, 1);
        checker.saw(0, 0, 0);
        checker.saw(0, 0, 2);
        checker.ended(0);
        checker.restart(0, 6);
        assert!(!checker.complete(|_| 7));
        checker.saw(0, 0, 6);
        assert!(checker.complete(|_| 7));
        checker.finish(|_, _| 7);
        assert!(!checker.faults.any());
    }

    #[test]
    fn what_a_cut_connection_never_got_is_not_lost() {
        let mut checker = Checker::new(2, 1);
        checker.saw(0, 0, 0);
        checker.saw(1, 0, 0);
        checker.saw(0, 0, 1);
        assert!(!checker.complete(|_| 2));
        checker.ended(1);
        checker.ended(1);
        assert!(checker.complete(|_| 2));
        checker.finish(|_, _| 2);
        assert!(!checker.faults.any());
    }
}
