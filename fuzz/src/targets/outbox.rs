//! What waits for one client, against a list: pushes, partial sends and shedding in any order. Input: the operations.

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::rc::Rc;

use serde_json::Value;
use uringcast::fanout::outbox::{Kept, Outbox};
use uringcast::fanout::run::{Frames, Mark, Origin};
use uringcast::model::namespace::{Compress, Overflow, Sending};
use uringcast::model::voice::Voice;
use uringcast::wire::frame;

use crate::dice::Dice;

const CHANNELS: [(&str, Overflow); 3] =
    [("keep", Overflow::Disconnect), ("old", Overflow::DropOldest), ("key", Overflow::Conflate)];
/// Operations that are taken.
const STEPS: usize = 400;

/// The naive model: everything ever pushed, in order.
struct Model {
    origins: [Rc<Origin>; 3],
    /// Texts that must come out in this order, whatever is shed.
    certain: Vec<String>,
    /// Per channel the offsets given out.
    offsets: [u64; 3],
    /// What came out.
    sent: Vec<u8>,
}

/// Frames that are not dropped leave in order and whole. Publications and gaps of a channel follow each other without a
/// hole and without an overlap. After every look at a bound no more than the bound is held.
pub fn run(bytes: &[u8]) {
    let mut dice = Dice::loaded(bytes);
    let mut outbox = Outbox::default();
    let origins = CHANNELS.map(|(channel, overflow)| {
        Origin::new(channel.into(), "e".into(), Sending { overflow, compress: Compress::Off })
    });
    let mut model = Model { origins, certain: Vec::new(), offsets: [0; 3], sent: Vec::new() };
    for _ in 0..STEPS {
        if dice.is_spent() {
            break;
        }
        match dice.weighted(&[6, 10, 10, 6]) {
            0 => {
                let text = format!("p{}", model.certain.len());
                outbox.push_private(|out| frame::write_text(out, text.as_bytes()));
                model.certain.push(text);
            }
            1 => push_run(&mut outbox, &mut model, &mut dice),
            2 => send(&mut outbox, &mut model, dice.between(1, 300)),
            _ => {
                let bound = dice.between(1_000, 20_000);
                match outbox.keep_within(bound, Voice::NativeText) {
                    // The shell would end the connection; here it goes on.
                    Kept::TooMuch => assert!(outbox.held_bytes() > bound - bound / 8),
                    Kept::Untouched | Kept::Tidied | Kept::Shed => assert!(outbox.held_bytes() <= bound),
                }
            }
        }
        assert!(next(&outbox).len() <= outbox.bytes() && outbox.bytes() <= outbox.held_bytes());
    }
    while !outbox.is_empty() {
        send(&mut outbox, &mut model, usize::MAX);
    }
    assert_eq!((outbox.bytes(), outbox.private_bytes(), outbox.held_bytes()), (0, 0, 0));
    judge(&model);
}

fn push_run(outbox: &mut Outbox, model: &mut Model, dice: &mut Dice) {
    let which = dice.below(3);
    let (channel, _) = CHANNELS[which];
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
    let run = Rc::new(Frames { origin: Rc::clone(&model.origins[which]), packed: None, bytes, marks });
    outbox.push_slice(&run, 0, end);
}

fn next(outbox: &Outbox) -> Vec<u8> {
    let mut pieces: Vec<IoSlice<'_>> = Vec::new();
    outbox.pieces(&mut pieces);
    pieces.iter().flat_map(|piece| piece.iter().copied()).collect()
}

fn send(outbox: &mut Outbox, model: &mut Model, most: usize) {
    outbox.settle(Voice::NativeText);
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

/// Every offset was sent or lies in a gap, in order.
fn covered(overflow: &Overflow, top: u64, heard: &[(u64, u64, String)]) {
    let mut position = 0;
    for (from, to, reason) in heard {
        assert!(*from == position + 1 && from <= to, "{from}-{to} after {position}: {heard:?}");
        position = *to;
        let fits = match overflow {
            Overflow::Disconnect => reason.is_empty(),
            Overflow::DropOldest => reason.is_empty() || reason == "slow_consumer",
            Overflow::Conflate => true,
        };
        assert!(fits, "{reason} under {overflow:?}");
    }
    assert_eq!(position, top, "{heard:?}");
}

/// Any operations will do.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let length = dice.between(4, 600);
    (0..length).map(|_| (dice.throw() >> 24) as u8).collect()
}
