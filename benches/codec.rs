//! The codec against what one would write first: a byte loop for the mask, a decoder that copies, `std` for
//! UTF-8, and a frame whose payload is built apart and copied in. The decoder against tungstenite's too.

use std::hint::black_box;
use std::io::{self, Cursor, Read, Write};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocket};
use uringcast::wire::websocket::{Assembly, Decoder, Event, MessageLimits};
use uringcast::wire::{frame, mask, utf8};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const LIMITS: MessageLimits = MessageLimits { message_bytes: 1 << 20, frame_bytes: 1 << 20, fragment_overhead: 64 };

fn naive_mask(payload: &mut [u8], key: [u8; 4]) {
    for (at, byte) in payload.iter_mut().enumerate() {
        // Kept a byte loop, which the compiler would otherwise vectorise as well.
        *byte = black_box(*byte) ^ key[at % 4];
    }
}

fn mask_payload(criterion: &mut Criterion) {
    for len in [24, 64, 1024, 65_536] {
        let mut group = criterion.benchmark_group(format!("mask/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        let mut payload = vec![0x5A; len];
        group.bench_function("apply", |bencher| bencher.iter(|| mask::apply(black_box(&mut payload), KEY, 0)));
        group.bench_function("byte loop", |bencher| bencher.iter(|| naive_mask(black_box(&mut payload), KEY)));
        group.finish();
    }
}

/// 16 masked text frames of 64 bytes, as a client that pipelines sends them.
fn pipelined() -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..16 {
        bytes.extend([0x81, 0x80 | 64]);
        bytes.extend(KEY);
        bytes.extend((0..64).map(|at| b'a' ^ KEY[at % 4]));
    }
    bytes
}

/// One allocation and one copy a frame; neither checks nor limits.
fn naive_decode(input: &[u8]) -> usize {
    let (mut at, mut total) = (0, 0);
    while at < input.len() {
        let len = usize::from(input[at + 1] & 0x7F);
        let key = &input[at + 2..at + 6];
        let mut payload = input[at + 6..at + 6 + len].to_vec();
        for (n, byte) in payload.iter_mut().enumerate() {
            *byte ^= key[n % 4];
        }
        total += String::from_utf8(payload).map_or(0, |text| black_box(text).len());
        at += 6 + len;
    }
    total
}

fn decode(decoder: &mut Decoder, assembly: &mut Assembly, input: &mut [u8]) -> usize {
    let (mut rest, mut total) = (input, 0);
    while !rest.is_empty() {
        let Ok((consumed, event)) = decoder.decode(rest, &LIMITS, assembly) else {
            return total;
        };
        if let Some(Event::Text(text)) = event {
            total += black_box(text).len();
        }
        rest = &mut rest[consumed..];
    }
    total
}

/// A socket that has been sent these bytes and no more.
struct Received(Cursor<Vec<u8>>);

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.0.read(buffer)? {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            count => Ok(count),
        }
    }
}

impl Write for Received {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One connection of tungstenite's, which reads what has been received until that ends.
fn tungstenite(socket: &mut WebSocket<Received>, input: &[u8]) -> usize {
    let received = socket.get_mut();
    received.0.get_mut().clear();
    received.0.get_mut().extend_from_slice(input);
    received.0.set_position(0);
    let mut total = 0;
    while let Ok(message) = socket.read() {
        total += black_box(message).len();
    }
    total
}

fn decode_pipelined(criterion: &mut Criterion) {
    let bytes = pipelined();
    assert_eq!(naive_decode(&bytes), decode(&mut Decoder::new(), &mut Assembly::new(|| 0), &mut bytes.clone()));
    let mut socket = WebSocket::from_raw_socket(Received(Cursor::default()), Role::Server, None);
    assert_eq!(naive_decode(&bytes), tungstenite(&mut socket, &bytes));
    let mut group = criterion.benchmark_group("decode 16 frames of 64");
    group.throughput(Throughput::Elements(16));
    let (mut decoder, mut assembly) = (Decoder::new(), Assembly::new(|| 0));
    group.bench_function("in place", |bencher| {
        let round = |input: &mut Vec<u8>| decode(&mut decoder, &mut assembly, input);
        bencher.iter_batched_ref(|| bytes.clone(), round, BatchSize::SmallInput)
    });
    group.bench_function("copying", |bencher| {
        bencher.iter_batched_ref(|| bytes.clone(), |input| naive_decode(input), BatchSize::SmallInput)
    });
    group.bench_function("tungstenite", |bencher| {
        bencher.iter_batched_ref(|| bytes.clone(), |input| tungstenite(&mut socket, input), BatchSize::SmallInput)
    });
    group.finish();
}

fn validate(criterion: &mut Criterion) {
    for (name, text) in [("ascii", "plain text "), ("mixed", "naïve 中文 😀 ")] {
        for repeat in [5, 500] {
            let text = text.repeat(repeat).into_bytes();
            let mut group = criterion.benchmark_group(format!("utf8/{name}/{}", text.len()));
            group.throughput(Throughput::Bytes(text.len() as u64));
            group.bench_function("validate", |bencher| bencher.iter(|| utf8::validate(black_box(&text))));
            group.bench_function("incremental", |bencher| {
                bencher.iter(|| utf8::Validator::default().push(black_box(&text)))
            });
            group.bench_function("std", |bencher| bencher.iter(|| std::str::from_utf8(black_box(&text)).is_ok()));
            group.finish();
        }
    }
}

fn encode(criterion: &mut Criterion) {
    for len in [64, 600, 100_000] {
        let payload = vec![b'x'; len];
        let mut out = Vec::with_capacity(2 * len);
        let mut group = criterion.benchmark_group(format!("encode/{len}"));
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function("in place", |bencher| {
            bencher.iter(|| {
                out.clear();
                let mark = frame::begin_text(&mut out);
                out.extend_from_slice(black_box(&payload));
                frame::end_text(&mut out, mark);
                black_box(out.len())
            })
        });
        group.bench_function("built apart", |bencher| {
            bencher.iter(|| {
                out.clear();
                let built = black_box(&payload).clone();
                frame::write_text(&mut out, &built);
                black_box(out.len())
            })
        });
        group.finish();
    }
}

criterion_group!(codec, mask_payload, decode_pipelined, validate, encode);
criterion_main!(codec);
