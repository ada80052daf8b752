//! The outbox against its rules, one at a time and in any order. What is held is added up here by reachability, as an
//! allocator would see it. What leaves is taken apart again into texts and gaps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::fanout::run::Mark;
use crate::model::namespace::{Compress, Sending};
use crate::wire::frame;

fn frames(texts: &[&str]) -> Vec<u8> {
    let mut out = Vec::new();
    texts.iter().for_each(|text| frame::write_text(&mut out, text.as_bytes()));
    out
}

fn origin(overflow: Overflow) -> Rc<Origin> {
    Origin::new("c".into(), "e".into(), Sending { overflow, compress: Compress::Auto })
}

/// A run of one frame per publication: (offset, key, text).
fn run_of(origin: &Rc<Origin>, publications: &[(u64, u64, &str)]) -> Run {
    let (mut bytes, mut marks) = (Vec::new(), Vec::new());
    for &(offset, key, text) in publications {
        frame::write_text(&mut bytes, text.as_bytes());
        marks.push(Mark { end: place(bytes.len()), offset, key });
    }
    Rc::new(Frames { origin: Rc::clone(origin), packed: None, bytes, marks })
}

fn run(overflow: Overflow, publications: &[(u64, u64, &str)]) -> Run {
    run_of(&origin(overflow), publications)
}

fn push(outbox: &mut Outbox, run: &Run) {
    outbox.push_slice(run, 0, run.bytes.len());
}

/// Tidies to so many bytes held.
fn shed(outbox: &mut Outbox, keep: usize) {
    outbox.0.as_mut().expect("something waits").tidy(keep, usize::MAX, Voice::NativeText);
}

/// What is held, by reachability: each run once.
fn reachable(outbox: &Outbox) -> usize {
    let Some(queue) = &outbox.0 else { return 0 };
    let mut runs = BTreeMap::new();
    let mut held = queue.segments.len() * SEGMENT_BYTES;
    for segment in &queue.segments {
        match segment {
            Segment::Slice { run, .. } => {
                runs.insert(Rc::as_ptr(run), run.weight());
            }
            Segment::Begun { bytes, .. } | Segment::Private(bytes) | Segment::Told(bytes) => held += bytes.capacity(),
            Segment::About(about) => held += size_of::<AboutEvents>() + about.bytes.capacity(),
            Segment::Compressing { plain, .. } => held += plain.capacity(),
            Segment::Gap { .. } | Segment::Fence => {}
        }
    }
    held + runs.values().sum::<usize>()
}

fn waiting(outbox: &Outbox) -> Vec<u8> {
    let mut pieces = Vec::new();
    outbox.pieces(&mut pieces);
    pieces.iter().flat_map(|piece| piece.to_vec()).collect()
}

#[test]
fn nothing_overtakes_a_message_that_is_being_compressed() {
    let (long, packed) = (frames(&["a long message"]), frames(&["packed"]));
    for (ticket, made) in [(1, Some(packed.clone())), (2, None)] {
        let mut outbox = Outbox::default();
        outbox.push_private(|buffer| buffer.extend(frames(&["before"])));
        outbox.push_compressing(long.clone(), ticket);
        outbox.push_private(|buffer| buffer.extend(frames(&["behind"])));
        assert_eq!(waiting(&outbox), frames(&["before"]));
        let waits = outbox.bytes();
        assert!(!outbox.make_room(0, Voice::NativeText) && outbox.bytes() == waits, "it is never dropped");
        assert_eq!((outbox.held_bytes(), outbox.private_bytes()), (reachable(&outbox), waits));
        outbox.advance(frames(&["before"]).len());
        assert_eq!((waiting(&outbox), outbox.is_empty()), (Vec::new(), false));
        assert_eq!((outbox.compressing(ticket), outbox.compressing(9)), (Some(&long[..]), None));
        outbox.finish(ticket, made.clone());
        assert_eq!(outbox.held_bytes(), reachable(&outbox));
        let sent = [&made.as_ref().unwrap_or(&long)[..], &frames(&["behind"])].concat();
        assert_eq!((waiting(&outbox), outbox.private_bytes()), (sent.clone(), sent.len()));
        outbox.advance(sent.len());
        assert!(outbox.is_empty());
    }
    let mut outbox = Outbox::default();
    outbox.push_compressing(long, 3);
    outbox.drop_unstarted(Voice::NativeText);
    outbox.finish(3, Some(packed));
    assert!(outbox.is_empty());
}

#[test]
fn room_is_made_of_what_may_be_dropped() {
    let text = "x".repeat(1_000);
    for (overflow, drops) in [(Overflow::Disconnect, false), (Overflow::DropOldest, true), (Overflow::Conflate, true)] {
        let mut outbox = Outbox::default();
        for offset in 1..=10 {
            push(&mut outbox, &run(overflow, &[(offset, 0, &text)]));
        }
        assert_eq!(outbox.make_room(5_000, Voice::NativeText), drops);
        assert_eq!(outbox.held_bytes() <= 5_000, drops);
        assert_eq!(outbox.held_bytes(), reachable(&outbox));
        assert!(!outbox.make_room(5_000, Voice::NativeText), "once is enough");
    }
}

/// What waits, readably: the texts, and gaps as "from-to reason".
fn shown(outbox: &mut Outbox) -> Vec<String> {
    let mut bytes = Vec::new();
    while !outbox.is_empty() {
        outbox.settle(Voice::NativeText);
        let next = waiting(outbox);
        assert!(!next.is_empty(), "nothing to send of {outbox:?}");
        outbox.advance(next.len());
        bytes.extend(next);
    }
    assert_eq!((outbox.bytes(), outbox.private_bytes()), (0, 0));
    let mut rest = &bytes[..];
    let mut shown = Vec::new();
    while !rest.is_empty() {
        let (length, skip) = match rest[1] {
            126 => (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4),
            length => (usize::from(length), 2),
        };
        let text = String::from_utf8(rest[skip..skip + length].to_vec()).expect("text");
        shown.push(match serde_json::from_str::<serde_json::Value>(&text) {
            Ok(gap) if gap["type"] == "gap" => {
                format!(
                    "{}-{} {}",
                    gap["data"]["from"],
                    gap["data"]["to"],
                    gap["data"]["reason"].as_str().expect("text")
                )
            }
            _ => text,
        });
        rest = &rest[skip + length..];
    }
    shown
}

#[test]
fn order_is_kept_and_any_split_of_sends_gives_the_same_bytes() {
    let run = run(Overflow::Disconnect, &[(1, 0, "aa"), (2, 0, "bbb"), (3, 0, "c")]);
    let expected = [frames(&["1", "2"]), run.bytes.clone(), frames(&["3"])].concat();
    for step in 1..=expected.len() {
        let mut outbox = Outbox::default();
        outbox.push_private(|b| b.extend(frames(&["1"])));
        outbox.push_private(|b| b.extend(frames(&["2"])));
        push(&mut outbox, &run);
        outbox.push_private(|b| b.extend(frames(&["3"])));
        let mut got = Vec::new();
        while !outbox.is_empty() {
            let now = waiting(&outbox);
            assert_eq!(now.len(), outbox.bytes());
            let n = step.min(now.len());
            got.extend_from_slice(&now[..n]);
            outbox.advance(n);
        }
        assert_eq!(got, expected);
        assert_eq!((outbox.bytes(), outbox.private_bytes()), (0, 0));
    }
}

#[test]
fn dropping_keeps_the_frame_that_has_begun() {
    let run = run(Overflow::Disconnect, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
    for sent in 0..=run.bytes.len() {
        let mut outbox = Outbox::default();
        push(&mut outbox, &run);
        outbox.push_private(|b| b.extend(frames(&["tail"])));
        outbox.advance(sent);
        outbox.drop_unstarted(Voice::NativeText);
        let whole = sent.div_ceil(6) * 6;
        assert_eq!(waiting(&outbox), &run.bytes[sent..whole.max(sent)], "after {sent}");
        assert_eq!(outbox.bytes(), whole - sent);
    }
}

#[test]
fn dropping_keeps_the_head_whether_it_has_begun_or_not() {
    for sent in 0..=4 {
        let mut outbox = Outbox::default();
        outbox.push_head(|b| b.extend(b"HTTP"));
        outbox.push_private(|b| b.extend(frames(&["tail"])));
        outbox.advance(sent);
        outbox.drop_unstarted(Voice::NativeText);
        assert_eq!(waiting(&outbox), &b"HTTP"[sent..]);
        assert_eq!((outbox.bytes(), outbox.private_bytes()), (4 - sent, 4 - sent));
    }
}

#[test]
fn the_oldest_go_first_and_a_gap_stands_where_they_stood() {
    let origin = origin(Overflow::DropOldest);
    let old = run_of(&origin, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (0, 0, "join"), (3, 0, "cccc")]);
    let new = run_of(&origin, &[(4, 0, "dddd"), (5, 0, "eeee")]);
    let mut outbox = Outbox::default();
    push(&mut outbox, &old);
    outbox.push_private(|b| b.extend(frames(&["mine"])));
    push(&mut outbox, &new);
    let all = outbox.held_bytes();
    shed(&mut outbox, all - 1);
    assert_eq!(outbox.bytes(), 36, "one is enough");
    // Two of the four frames of the first run are a half of its weight.
    let keep = outbox.held_bytes() - old.weight() / 4 - 1;
    shed(&mut outbox, keep);
    assert_eq!(shown(&mut outbox), ["1-3 slow_consumer", "join", "mine", "dddd", "eeee"][..].to_vec());
}

#[test]
fn what_may_not_be_dropped_stays() {
    let kept = run(Overflow::Disconnect, &[(1, 0, "aaaa"), (2, 0, "bbbb")]);
    let mut outbox = Outbox::default();
    push(&mut outbox, &kept);
    shed(&mut outbox, 0);
    assert_eq!(shown(&mut outbox), ["aaaa", "bbbb"]);
    push(&mut outbox, &kept);
    assert_eq!(outbox.keep_within(100, Voice::NativeText), Kept::TooMuch);
}

#[test]
fn conflation_keeps_the_newest_of_each_key_and_a_gap_ends_before_each() {
    let ticks = run(
        Overflow::Conflate,
        &[(1, 7, "a1"), (2, 8, "b1"), (3, 7, "a2"), (4, 0, "no key"), (5, 7, "a3"), (6, 9, "c1")],
    );
    let mut outbox = Outbox::default();
    push(&mut outbox, &ticks);
    shed(&mut outbox, usize::MAX);
    assert_eq!(shown(&mut outbox), ["1-1 conflated", "b1", "3-3 conflated", "no key", "a3", "c1"]);
}

/// Otherwise as many gaps as publications could be made to wait, by publishing with a key and without by turns.
#[test]
fn neighbours_that_are_dropped_for_two_reasons_are_one_gap() {
    let ticks = run(Overflow::Conflate, &[(1, 7, "a1"), (2, 0, "x"), (3, 7, "a2"), (4, 0, "y"), (5, 7, "a3")]);
    let mut outbox = Outbox::default();
    push(&mut outbox, &ticks);
    shed(&mut outbox, 0);
    assert_eq!(shown(&mut outbox), ["1-4 slow_consumer", "a3"]);
}

#[test]
fn a_gap_moves_over_other_channels_and_answers_and_not_over_the_end_of_a_subscription() {
    let (ours, theirs) = (origin(Overflow::DropOldest), run(Overflow::Disconnect, &[(9, 0, "other")]));
    let mut outbox = Outbox::default();
    for offset in 1..=4 {
        push(&mut outbox, &run_of(&ours, &[(offset, 0, "aaaa")]));
        push(&mut outbox, &theirs);
        if offset == 1 {
            outbox.push_private(|b| b.extend(frames(&["answer"])));
        }
        if offset == 2 {
            outbox.push_fence();
            outbox.push_private(|b| b.extend(frames(&["unsubscribed"])));
        }
    }
    shed(&mut outbox, 0);
    let expected =
        ["1-2 slow_consumer", "other", "answer", "other", "unsubscribed", "3-4 slow_consumer", "other", "other"];
    assert_eq!(shown(&mut outbox), expected);
}

#[test]
fn gaps_of_a_client_that_reads_in_drips_do_not_pile_up() {
    let mut outbox = Outbox::default();
    let origin = origin(Overflow::DropOldest);
    for round in 0..500 {
        push(&mut outbox, &run_of(&origin, &[(2 * round + 1, 0, "aaaa"), (2 * round + 2, 0, "bbbb")]));
        shed(&mut outbox, 6);
        outbox.settle(Voice::NativeText);
        outbox.advance(1);
        let queue = outbox.0.as_ref().expect("it waits");
        assert!(queue.told < TOLD_BYTES + 200 && queue.segments.len() <= 64, "{outbox:?}");
    }
}

#[test]
fn gaps_leave_together_with_the_frames_between_them() {
    let mut outbox = Outbox::default();
    let origin = origin(Overflow::Conflate);
    for offset in (1..400).step_by(2) {
        push(&mut outbox, &run_of(&origin, &[(offset, 1, "hot"), (offset + 1, 1 + offset, "cold")]));
    }
    shed(&mut outbox, usize::MAX);
    let (mut sends, mut frames) = (0, 0);
    while !outbox.is_empty() {
        outbox.settle(Voice::NativeText);
        let (mut pieces, mut sent) = (Vec::new(), 0);
        outbox.pieces(&mut pieces);
        pieces.iter().for_each(|piece| sent += piece.len());
        frames += pieces.len();
        outbox.advance(sent);
        sends += 1;
    }
    assert!(sends * 8 < frames, "{sends} sends for {frames} pieces");
}

#[test]
fn a_gap_behind_what_has_been_sent_is_told_next() {
    let ticks = run(Overflow::DropOldest, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
    for frames in 1..3 {
        let mut outbox = Outbox::default();
        push(&mut outbox, &ticks);
        outbox.advance(frames * 6);
        shed(&mut outbox, 0);
        assert_eq!(shown(&mut outbox), [format!("{}-3 slow_consumer", frames + 1)]);
    }
}

#[test]
fn the_frame_that_has_begun_is_shed_by_nobody() {
    let ticks = run(Overflow::DropOldest, &[(1, 0, "aaaa"), (2, 0, "bbbb"), (3, 0, "cccc")]);
    for sent in 0..ticks.bytes.len() {
        let mut outbox = Outbox::default();
        push(&mut outbox, &ticks);
        outbox.advance(sent);
        shed(&mut outbox, 0);
        let begun = sent.div_ceil(6) * 6;
        assert_eq!(outbox.bytes(), begun - sent, "after {sent}");
        assert_eq!(&waiting(&outbox)[..], &ticks.bytes[sent..begun], "after {sent}");
    }
}

#[test]
fn a_small_publication_that_is_kept_does_not_hold_its_run() {
    let (origin, large) = (origin(Overflow::Conflate), "x".repeat(50_000));
    let mut outbox = Outbox::default();
    for n in 0..100 {
        push(&mut outbox, &run_of(&origin, &[(2 * n + 1, 100 + n, "small"), (2 * n + 2, 1, &large)]));
        assert_ne!(outbox.keep_within(1 << 20, Voice::NativeText), Kept::TooMuch);
    }
    shed(&mut outbox, usize::MAX);
    assert!(outbox.held_bytes() < 70_000, "{} bytes are held", outbox.held_bytes());
    assert_eq!(shown(&mut outbox).iter().filter(|text| *text == "small").count(), 100);
}

/// A slow client that gets the end of each run, since it was sent the beginning before, holds no more than another.
#[test]
fn the_end_of_a_run_does_not_hold_the_run() {
    let long = "x".repeat(3_000);
    for overflow in [Overflow::Disconnect, Overflow::DropOldest] {
        let (origin, mut outbox) = (origin(overflow), Outbox::default());
        for n in 0..50 {
            let run = run_of(&origin, &[(2 * n + 1, 0, &long), (2 * n + 2, 0, "end")]);
            outbox.push_slice(&run, run.marks[0].end as usize, run.bytes.len());
            assert_ne!(outbox.keep_within(20_000, Voice::NativeText), Kept::TooMuch, "{overflow:?}, {n}");
        }
    }
}

#[test]
fn clients_that_are_equally_slow_share_what_they_keep() {
    let (origin, large) = (origin(Overflow::Conflate), "x".repeat(10_000));
    let mut outboxes: Vec<Outbox> = (0..100).map(|_| Outbox::default()).collect();
    for n in 0..100 {
        let run = run_of(&origin, &[(2 * n + 1, 100 + n, "small"), (2 * n + 2, 1, &large)]);
        for (number, outbox) in outboxes.iter_mut().enumerate() {
            // They fall behind one after the other.
            if number <= n as usize {
                push(outbox, &run);
                assert_ne!(outbox.keep_within(1 << 20, Voice::NativeText), Kept::TooMuch);
            }
        }
    }
    outboxes.iter_mut().for_each(|outbox| shed(outbox, usize::MAX));
    let (mut shared, mut counted) = (BTreeMap::new(), 0);
    for outbox in &outboxes {
        let queue = outbox.0.as_ref().expect("it waits");
        for segment in &queue.segments {
            if let Segment::Slice { run, .. } = segment {
                shared.insert(Rc::as_ptr(run), run.weight());
            }
        }
        counted += queue.held;
    }
    let held: usize = shared.values().sum();
    assert!(held < 150_000 && counted > 10 * held, "{held} bytes are held, {counted} counted");
}

/// A step of the property below.
#[derive(Clone, Debug)]
enum Step {
    /// A run of (channel, publications by key and length), of which the first frames were sent already.
    Run(usize, Vec<(u64, usize)>, usize),
    Private(usize),
    Fence,
    Send(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = prop_oneof![6 => 0..40usize, 2 => 0..400usize, 1 => 2_000..9_000usize];
    let publications = prop::collection::vec((0..30u64, length), 1..12);
    prop_oneof![
        12 => (0..3usize, publications, 0..6usize).prop_map(|(channel, list, sent)| Step::Run(channel, list, sent / 3)),
        3 => (1..200usize).prop_map(Step::Private),
        1 => Just(Step::Fence),
        4 => (1..3_000usize).prop_map(Step::Send),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Whatever is published, sent and dropped in whatever order: the outbox counts exactly the memory that it holds,
    /// what is kept is within the bound, and tidying never holds more than there was.
    #[test]
    fn held_is_what_is_held_and_within_the_bound(
        steps in prop::collection::vec(step(), 1..250),
        bound in prop::sample::select(&[4_096usize, 20_000, 200_000][..]),
    ) {
        let origins = [Overflow::Disconnect, Overflow::DropOldest, Overflow::Conflate].map(origin);
        let (mut outboxes, mut offsets) = ([Outbox::default(), Outbox::default()], [0; 3]);
        for step in steps {
            let run = if let Step::Run(channel, list, _) = &step {
                let texts: Vec<String> = list.iter().map(|(_, length)| "x".repeat(*length)).collect();
                let publications: Vec<_> = list.iter().zip(&texts).map(|((key, _), text)| {
                    offsets[*channel] += 1;
                    (offsets[*channel], *key, text.as_str())
                }).collect();
                Some(run_of(&origins[*channel], &publications))
            } else {
                None
            };
            for outbox in &mut outboxes {
                match (&step, &run) {
                    (Step::Run(_, _, sent), Some(run)) => {
                        let start = sent.checked_sub(1).map_or(0, |sent| run.marks[sent.min(run.marks.len() - 1)].end);
                        outbox.push_slice(run, start as usize, run.bytes.len());
                    }
                    (Step::Private(length), _) => outbox.push_private(|b| frame::write_text(b, &vec![b'p'; *length])),
                    (Step::Fence, _) => outbox.push_fence(),
                    (Step::Send(most), _) => {
                        outbox.settle(Voice::NativeText);
                        let count = waiting(outbox).len().min(*most);
                        outbox.advance(count);
                    }
                    (Step::Run(..), None) => unreachable!("made above"),
                }
                prop_assert_eq!(outbox.held_bytes(), reachable(outbox));
                let before = outbox.held_bytes();
                match outbox.keep_within(bound, Voice::NativeText) {
                    Kept::Untouched => prop_assert_eq!(outbox.held_bytes(), before),
                    Kept::TooMuch => {
                        prop_assert!(before > bound);
                        outbox.drop_unstarted(Voice::NativeText);
                    }
                    Kept::Tidied | Kept::Shed => {}
                }
                prop_assert!(outbox.held_bytes() <= bound.max(12_000), "{} of {}", outbox.held_bytes(), bound);
                prop_assert_eq!(outbox.held_bytes(), reachable(outbox));
            }
        }
    }
}
