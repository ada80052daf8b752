//! What waits for one client, against a list: pushes, partial sends and shedding in any order. Input: the operations.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::rc::Rc;

use serde_json::Value;
use uringcast::namespace::{Compress, Overflow};
use uringcast::outbox::Outbox;
use uringcast::proto::frame;
use uringcast::run::{Frames, Mark, Run};

use crate::dice::Dice;

const CHANNELS: [(&str, Overflow); 3] =
    [("keep", Overflow::Disconnect), ("old", Overflow::DropOldest), ("key", Overflow::Conflate)];
/// Operations that are taken.
const STEPS: usize = 400;

/// The naive model: everything ever pushed, in order.
#[derive(Default)]
struct Model {
    /// Texts that must come out in this order, whatever is shed.
    certain: Vec<String>,
    /// Per channel the offsets given out.
    offsets: [u64; 3],
    /// What came out.
    sent: Vec<u8>,
}

/// What is not dropped leaves in order and whole; of what is dropped a gap tells, once, where it stood, and nothing
/// else; the count of bytes is that of what waits.
pub fn run(bytes: &[u8]) {
    let mut dice = Dice::loaded(bytes);
    let (mut outbox, mut model) = (Outbox::default(), Model::default());
    for _ in 0..STEPS {
        if dice.is_spent() {
            break;
        }
        match dice.weighted(&[6, 10, 10, 4, 2]) {
            0 => {
                let text = format!("p{}", model.certain.len());
                outbox.push_private(|out| frame::write_text(out, text.as_bytes()));
                model.certain.push(text);
            }
            1 => push_run(&mut outbox, &mut model, &mut dice),
            2 => send(&mut outbox, &mut model, dice.between(1, 300)),
            3 => {
                let keep = dice.below(600);
                outbox.shed(keep);
                assert!(outbox.bounded_bytes() <= outbox.bytes());
            }
            _ => {
                let (first, keep) = (dice.below(400), dice.below(800));
                outbox.shed_above(first, keep);
            }
        }
        assert!(next(&outbox).len() <= outbox.bytes());
        assert!(outbox.bounded_bytes() <= outbox.bytes());
    }
    while !outbox.is_empty() {
        send(&mut outbox, &mut model, usize::MAX);
    }
    assert_eq!((outbox.bytes(), outbox.private_bytes(), outbox.bounded_bytes()), (0, 0, 0));
    judge(&model);
}

fn push_run(outbox: &mut Outbox, model: &mut Model, dice: &mut Dice) {
    let which = dice.below(3);
    let (channel, overflow) = CHANNELS[which];
    let (mut bytes, mut marks) = (Vec::new(), Vec::new());
    for _ in 0..dice.between(1, 4) {
        let is_event = dice.once_in(6);
        let text = if is_event {
            let text = format!("e{}", model.certain.len());
            model.certain.push(text.clone());
            text
        } else {
            model.offsets[which] += 1;
            format!("{channel} {} {}", model.offsets[which], "x".repeat(dice.below(160)))
        };
        frame::write_text(&mut bytes, text.as_bytes());
        let key = if is_event { 0 } else { dice.below(4) as u64 };
        let offset = if is_event { 0 } else { model.offsets[which] };
        marks.push(Mark { end: bytes.len() as u32, offset, key });
    }
    let end = bytes.len();
    let run: Run =
        Rc::new(Frames { channel: channel.into(), epoch: "e".into(), overflow, compress: Compress::Off, bytes, marks });
    outbox.push_slice(&run, 0, end);
}

fn next(outbox: &Outbox) -> Vec<u8> {
    let mut pieces: Vec<IoSlice<'_>> = Vec::new();
    outbox.pieces(&mut pieces);
    pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn send(outbox: &mut Outbox, model: &mut Model, most: usize) {
    outbox.settle();
    let bytes = next(outbox);
    assert!(!bytes.is_empty() || outbox.is_empty(), "{outbox:?} has nothing to send");
    assert!(bytes.len() <= outbox.bytes());
    let count = bytes.len().min(most);
    model.sent.extend(&bytes[..count]);
    outbox.advance(count);
}

fn judge(model: &Model) {
    let (mut certain, mut heard) = (Vec::new(), BTreeMap::<String, Vec<(u64, u64, String)>>::new());
    let mut rest = &model.sent[..];
    while let [first, second, after @ ..] = rest {
        assert_eq!(*first, 0x81, "a whole text frame");
        let (length, start) = match second {
            126 => (usize::from(u16::from_be_bytes([after[0], after[1]])), 2),
            short => (usize::from(*short), 0),
        };
        let text = std::str::from_utf8(&after[start..start + length]).expect("text");
        rest = &after[start + length..];
        match text.split(' ').collect::<Vec<_>>()[..] {
            [channel, offset, ..] if CHANNELS.iter().any(|(name, _)| *name == channel) => {
                let offset = offset.parse().expect("an offset");
                heard.entry(channel.to_owned()).or_default().push((offset, offset, String::new()));
            }
            _ if text.starts_with('{') => {
                let gap: Value = serde_json::from_str(text).expect("JSON");
                let gap = &gap["data"];
                let number = |name: &str| gap[name].as_u64().expect("a number");
                let text = |name: &str| gap[name].as_str().expect("a text").to_owned();
                heard.entry(text("channel")).or_default().push((number("from"), number("to"), text("reason")));
            }
            _ => certain.push(text.to_owned()),
        }
    }
    assert!(rest.is_empty(), "half a frame");
    assert_eq!(certain, model.certain);
    for ((channel, overflow), top) in CHANNELS.iter().zip(model.offsets) {
        covered(overflow, top, heard.get(*channel).map_or(&[], Vec::as_slice));
    }
}

/// Every offset was sent, in order, or lies in a gap.
fn covered(overflow: &Overflow, top: u64, heard: &[(u64, u64, String)]) {
    let is_gap = |entry: &&(u64, u64, String)| !entry.2.is_empty();
    let sent: Vec<u64> = heard.iter().filter(|entry| !is_gap(entry)).map(|entry| entry.0).collect();
    assert!(sent.is_sorted_by(|a, b| a < b), "{heard:?}");
    let lies_in = |offset: u64, entry: &&(u64, u64, String)| (entry.0..=entry.1).contains(&offset);
    for offset in 1..=top {
        let told = heard.iter().filter(is_gap).any(|gap| lies_in(offset, &gap));
        assert!(told || sent.contains(&offset), "{offset} of {top} is lost without a word: {heard:?}");
        // A gap of what was conflated spans what is kept; what is lost is lost.
        let lost = heard.iter().filter(is_gap).any(|gap| gap.2 == "slow_consumer" && lies_in(offset, &gap));
        assert!(!(lost && sent.contains(&offset)), "{offset} is told lost and sent: {heard:?}");
    }
    for gap in heard.iter().filter(is_gap) {
        assert!(1 <= gap.0 && gap.0 <= gap.1 && gap.1 <= top, "{gap:?} of {top}");
        let fits = match overflow {
            Overflow::Disconnect => false,
            Overflow::DropOldest => gap.2 == "slow_consumer",
            Overflow::Conflate => true,
        };
        assert!(fits, "{gap:?} under {overflow:?}");
    }
}

/// Any operations will do.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let length = dice.between(4, 600);
    (0..length).map(|_| (dice.throw() >> 24) as u8).collect()
}
