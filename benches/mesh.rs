//! One hop of a parcel from shard to shard, against the channels one would take otherwise: std's and flume's. On
//! one thread it is the work that a parcel makes; between two threads, what the cores make of it. Nobody sleeps
//! here: a wake-up is the kernel's time.

use std::hint::black_box;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use uringcast::ids::ShardId;
use uringcast::mesh::{self, Endpoint, Staging};

const CAPACITY: usize = 1024;
const A: ShardId = ShardId(0);
const B: ShardId = ShardId(1);

/// As large as a parcel's common cases.
type Parcel = [u64; 6];

fn parcel(number: u64) -> Parcel {
    [number; 6]
}

fn pair() -> (Endpoint<Parcel>, Endpoint<Parcel>, Staging<Parcel>) {
    let mut ends = mesh::build(2, CAPACITY).expect("two eventfds");
    let b = ends.pop().expect("the second of two");
    let a = ends.pop().expect("the first of two");
    (a, b, Staging::new(A, 2, CAPACITY))
}

/// Takes what is there. Returns how many.
fn drain(end: &mut Endpoint<Parcel>) -> u64 {
    let mut taken = 0;
    end.drain(256, usize::MAX, size_of_val, |_, parcel| taken += u64::from(black_box(parcel)[0] > 0));
    taken
}

fn one_thread(criterion: &mut Criterion) {
    for batch in [1, 64] {
        let mut group = criterion.benchmark_group(format!("hop on one thread, {batch} a batch"));
        group.throughput(Throughput::Elements(batch));
        let (mut a, mut b, mut staging) = pair();
        group.bench_function("lanes", |bencher| {
            bencher.iter(|| {
                (1..=batch).for_each(|n| staging.push(B, parcel(n)));
                a.ship(&mut staging);
                assert_eq!(drain(&mut b), batch);
            })
        });
        let (sender, receiver) = sync_channel(CAPACITY);
        group.bench_function("std mpsc", |bencher| {
            bencher.iter(|| {
                (1..=batch).for_each(|n| sender.try_send(parcel(n)).expect("room"));
                assert_eq!(receiver.try_iter().map(black_box).count() as u64, batch);
            })
        });
        let (sender, receiver) = flume::bounded(CAPACITY);
        group.bench_function("flume", |bencher| {
            bencher.iter(|| {
                (1..=batch).for_each(|n| sender.try_send(parcel(n)).expect("room"));
                assert_eq!(receiver.drain().map(black_box).count() as u64, batch);
            })
        });
        group.finish();
    }
}

/// The time until `count` parcels have come over from another thread. Both sides only ever try, as shards do.
fn transfer(count: u64, mut produce: impl FnMut(u64) -> u64 + Send, mut consume: impl FnMut() -> u64) -> Duration {
    std::thread::scope(|scope| {
        let start = Instant::now();
        scope.spawn(move || {
            let mut sent = 0;
            while sent < count {
                let now = produce(count - sent);
                sent += now;
                if now == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let mut taken = 0;
        while taken < count {
            let now = consume();
            taken += now;
            if now == 0 {
                std::thread::yield_now();
            }
        }
        start.elapsed()
    })
}

fn two_threads(criterion: &mut Criterion) {
    for batch in [1, 64] {
        let mut group = criterion.benchmark_group(format!("hop between two threads, {batch} a batch"));
        group.throughput(Throughput::Elements(batch));
        group.bench_function("lanes", |bencher| {
            bencher.iter_custom(|times| {
                let (mut a, mut b, mut staging) = pair();
                let produce = move |left: u64| {
                    let count = if staging.has_outbound() { 0 } else { batch.min(left) };
                    (0..count).for_each(|_| staging.push(B, parcel(1)));
                    a.ship(&mut staging);
                    // What stays staged at the end has to leave before the thread does.
                    while count == left && staging.has_outbound() {
                        std::thread::yield_now();
                        a.ship(&mut staging);
                    }
                    count
                };
                transfer(times * batch, produce, || drain(&mut b))
            })
        });
        group.bench_function("std mpsc", |bencher| {
            bencher.iter_custom(|times| {
                let (sender, receiver) = sync_channel(CAPACITY);
                let produce = move |left: u64| {
                    (0..batch.min(left)).take_while(|_| sender.try_send(parcel(1)).is_ok()).count() as u64
                };
                transfer(times * batch, produce, || receiver.try_iter().take(256).map(black_box).count() as u64)
            })
        });
        group.bench_function("flume", |bencher| {
            bencher.iter_custom(|times| {
                let (sender, receiver) = flume::bounded(CAPACITY);
                let produce = move |left: u64| {
                    (0..batch.min(left)).take_while(|_| sender.try_send(parcel(1)).is_ok()).count() as u64
                };
                transfer(times * batch, produce, || receiver.try_iter().take(256).map(black_box).count() as u64)
            })
        });
        group.finish();
    }
}

criterion_group!(hop, one_thread, two_threads);
criterion_main!(hop);
