//! One publication on its way to everyone who subscribes to its channel on a shard, against a queue of copies:
//! what a hub does that gives each subscriber a message of its own. And the outbox of one connection against a
//! queue of buffers. The kernel is left out: what a send would take is looked at and no more.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uringcast::fanout::Fanout;
use uringcast::fanout::outbox::Outbox;
use uringcast::fanout::run::{Frames, Mark, Origin};
use uringcast::model::namespace::{Compress, Overflow, Sending};
use uringcast::model::voice::Voice;
use uringcast::wire::frame;

const KEPT: Sending = Sending { overflow: Overflow::Disconnect, compress: Compress::Auto };
const SUBSCRIBERS: [u32; 4] = [1, 100, 1000, 8000];

/// A push of 200 bytes, framed.
fn push() -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_text(&mut out, &[b'x'; 200]);
    out
}

/// What a socket is given: the bytes are there, and nobody takes them.
fn send(pieces: &[IoSlice<'_>]) -> usize {
    black_box(pieces).iter().map(|piece| piece.len()).sum()
}

/// Appends one publication and seals it. Returns the channel, and how many runs it has.
fn seal(fanout: &mut Fanout, push: &[u8], offset: u64) -> (u32, usize) {
    let channel = fanout.find("news", Voice::NativeText).expect("somebody subscribes");
    fanout.append(channel, push, offset, 0);
    let mut dirty = None;
    fanout.seal_dirty(|channel, local| dirty = Some((channel, local.sealed())));
    dirty.expect("something was appended")
}

/// One publication: appended, sealed, and handed to every subscriber. Returns the bytes sent.
fn publish(fanout: &mut Fanout, push: &[u8], offset: u64) -> usize {
    let (channel, runs) = seal(fanout, push, offset);
    let local = fanout.channel(channel);
    let mut sent = 0;
    for index in (0..local.len()).rev() {
        local.take_sealed(index, None, |run, start, end| sent += send(&[IoSlice::new(&run.bytes[start..end])]));
    }
    fanout.end_walk(channel, runs);
    sent
}

/// The same with connections that are busy: the run goes through each one's outbox.
fn publish_queued(fanout: &mut Fanout, outboxes: &mut [Outbox], push: &[u8], offset: u64) -> usize {
    let (channel, runs) = seal(fanout, push, offset);
    let local = fanout.channel(channel);
    let mut sent = 0;
    for (index, outbox) in outboxes.iter_mut().enumerate() {
        local.take_sealed(index, None, |run, start, end| outbox.push_slice(run, start, end));
    }
    fanout.end_walk(channel, runs);
    for outbox in outboxes {
        sent += drain(outbox);
    }
    sent
}

fn drain(outbox: &mut Outbox) -> usize {
    outbox.settle(Voice::NativeText);
    let mut pieces = Vec::with_capacity(4);
    outbox.pieces(&mut pieces);
    let count = send(&pieces);
    drop(pieces);
    outbox.advance(count);
    count
}

/// A copy for each, queued and then sent.
fn publish_copies(queues: &mut [VecDeque<Vec<u8>>], push: &[u8]) -> usize {
    for queue in queues.iter_mut() {
        queue.push_back(push.to_vec());
    }
    let mut sent = 0;
    for queue in queues {
        while let Some(message) = queue.pop_front() {
            sent += send(&[IoSlice::new(&message)]);
        }
    }
    sent
}

fn publish_to_many(criterion: &mut Criterion) {
    let push = push();
    for subscribers in SUBSCRIBERS {
        let (name, epoch): (Arc<str>, Arc<str>) = ("news".into(), "0f3a9c6d7be1425f".into());
        let mut fanout = Fanout::default();
        for slot in 0..subscribers {
            fanout.subscribe((&name, Voice::NativeText), &epoch, KEPT, slot);
        }
        let mut outboxes: Vec<Outbox> = (0..subscribers).map(|_| Outbox::default()).collect();
        let mut queues = vec![VecDeque::new(); subscribers as usize];
        let expected = push.len() * subscribers as usize;
        assert_eq!(publish(&mut fanout, &push, 1), expected);
        assert_eq!(publish_queued(&mut fanout, &mut outboxes, &push, 2), expected);
        assert_eq!(publish_copies(&mut queues, &push), expected);

        let mut offset = 2;
        let mut group = criterion.benchmark_group(format!("publish to {subscribers}"));
        group.throughput(Throughput::Elements(subscribers.into()));
        group.bench_function("one run for all", |bencher| {
            bencher.iter(|| {
                offset += 1;
                publish(&mut fanout, black_box(&push), offset)
            })
        });
        group.bench_function("through outboxes", |bencher| {
            bencher.iter(|| {
                offset += 1;
                publish_queued(&mut fanout, &mut outboxes, black_box(&push), offset)
            })
        });
        group.bench_function("a copy each", |bencher| bencher.iter(|| publish_copies(&mut queues, black_box(&push))));
        group.finish();
    }
}

/// What the kernel takes in one send when it is nearly full: never a whole number of frames.
const TAKEN: usize = 1000;

fn through_outbox(outbox: &mut Outbox, reply: &[u8], run: &Rc<Frames>) -> usize {
    let mut sends = 0;
    for _ in 0..8 {
        outbox.push_private(|buffer| buffer.extend_from_slice(reply));
        outbox.push_slice(run, 0, run.bytes.len());
    }
    while !outbox.is_empty() {
        outbox.settle(Voice::NativeText);
        let mut pieces = Vec::with_capacity(4);
        outbox.pieces(&mut pieces);
        let count = send(&pieces).min(TAKEN);
        drop(pieces);
        outbox.advance(count);
        sends += 1;
    }
    sends
}

fn through_queue(queue: &mut VecDeque<Vec<u8>>, reply: &[u8], run: &[u8]) -> usize {
    let mut sends = 0;
    for _ in 0..8 {
        queue.push_back(reply.to_vec());
        queue.push_back(run.to_vec());
    }
    let mut sent = 0;
    while !queue.is_empty() {
        let mut skip = sent;
        let mut pieces = Vec::with_capacity(4);
        for message in queue.iter() {
            pieces.push(IoSlice::new(&message[skip..]));
            skip = 0;
        }
        sent += send(&pieces).min(TAKEN);
        sends += 1;
        while queue.front().is_some_and(|first| first.len() <= sent) {
            sent -= queue.pop_front().map_or(0, |first| first.len());
        }
    }
    sends
}

/// A slow connection: 8 replies of its own and 8 runs of a channel between them, which leave in sends of 1,000 bytes.
fn outbox(criterion: &mut Criterion) {
    let (reply, mut bytes, mut marks) = (push(), Vec::new(), Vec::new());
    for offset in 1..=4 {
        bytes.extend(push());
        marks.push(Mark { end: u32::try_from(bytes.len()).expect("short"), offset, key: 0 });
    }
    let origin = Origin::new("news".into(), "0f3a9c6d7be1425f".into(), KEPT);
    let run = Rc::new(Frames { origin, packed: None, bytes, marks });
    let (mut ours, mut theirs) = (Outbox::default(), VecDeque::new());
    assert_eq!(through_outbox(&mut ours, &reply, &run), through_queue(&mut theirs, &reply, &run.bytes));

    let mut group = criterion.benchmark_group("outbox of 16 pieces");
    group.throughput(Throughput::Elements(16));
    group.bench_function("segments", |bencher| {
        bencher.iter(|| through_outbox(&mut ours, black_box(&reply), black_box(&run)))
    });
    group.bench_function("queue of copies", |bencher| {
        bencher.iter(|| through_queue(&mut theirs, black_box(&reply), black_box(&run.bytes)))
    });
    group.finish();
}

criterion_group!(fanout, publish_to_many, outbox);
criterion_main!(fanout);
