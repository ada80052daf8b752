//! What compressing a batch costs and saves: messages of several sizes by themselves, and a batch of them together,
//! each against an implementation of DEFLATE by other hands at the same level. `cargo bench --bench deflate` prints a
//! line for each; a number of bytes as its argument (`-- 200`) shows that size alone.

use std::hint::black_box;
use std::time::{Duration, Instant};

use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, compress, create_comp_flags_from_zip_params};
use uringcast::fanout::run::{Frames, Mark, Origin, Packer};
use uringcast::metrics::Metrics;
use uringcast::model::namespace::{Compress, Overflow, Sending};
use uringcast::wire::deflate::Deflate;
use uringcast::wire::deflate::compress::Compressors;
use uringcast::wire::deflate::inflate::Inflater;
use uringcast::wire::frame;

const SIZES: [usize; 8] = [64, 128, 192, 256, 512, 1024, 4096, 16384];
/// Messages in a batch.
const BATCH: u64 = 16;
/// How long each is measured.
const SPAN: Duration = Duration::from_millis(200);
const LEVEL: u32 = 3;

/// A publication of about `bytes`: quotes, as a price feed has them.
fn publication(offset: u64, bytes: usize) -> String {
    let mut random = offset.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut number = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut out = format!(r#"{{"type":"publication","data":{{"channel":"prices","offset":{offset},"data":["#);
    while out.len() + 2 < bytes {
        let (symbol, bid, at) = (number(500), number(1_000_000), number(1_000));
        out += &format!(r#"{{"s":"SYM{symbol}","bid":{}.{:02},"t":1763836800{at:03}}},"#, bid / 100, bid % 100);
    }
    out.truncate(bytes.saturating_sub(4).max(56));
    out + "]}}"
}

/// Nanoseconds of one call, the best of five spans.
fn cost_ns(mut call: impl FnMut()) -> f64 {
    let span = |call: &mut dyn FnMut()| {
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < SPAN / 5 {
            (0..16).for_each(|_| call());
            count += 16;
        }
        start.elapsed().as_nanos() as f64 / f64::from(count)
    };
    (0..5).map(|_| span(&mut call)).fold(f64::INFINITY, f64::min)
}

fn run(texts: &[String]) -> Frames {
    let (mut bytes, mut marks) = (Vec::new(), Vec::new());
    for (offset, text) in (1..).zip(texts) {
        frame::write_text(&mut bytes, text.as_bytes());
        marks.push(Mark { end: u32::try_from(bytes.len()).expect("short"), offset, key: 0 });
    }
    let sending = Sending { overflow: Overflow::Disconnect, compress: Compress::Auto };
    Frames { origin: Origin::new("prices".into(), "e".into(), sending), packed: None, bytes, marks }
}

/// Nanoseconds and bytes of the messages compressed, as a shard does it.
fn packed(texts: &[String], takeover: bool) -> (f64, usize) {
    let run = run(texts);
    let metrics = Metrics::new(1).shard(0);
    let mut compressors = Compressors::new(LEVEL);
    let deflate = Deflate { window_bits: 15, takeover };
    let mut pack = || {
        let (min_bytes, compressors, stopwatch, metrics) = (0, &mut compressors, || 0, &metrics);
        Packer { deflate, min_bytes, compressors, stopwatch, metrics }.pack(black_box(&run))
    };
    let bytes = pack().map_or(run.bytes.len(), |packed| packed.bytes.len());
    (cost_ns(|| drop(black_box(pack()))), bytes)
}

/// The same by miniz, each message afresh: nanoseconds and bytes.
fn by_miniz(texts: &[String]) -> (f64, usize) {
    let mut compressor = CompressorOxide::new(create_comp_flags_from_zip_params(LEVEL as i32, -15, 0));
    let mut room = vec![0; 32 * 1024];
    let mut all = || {
        let mut bytes = 0;
        for text in texts {
            compressor.reset();
            let (_, _, made) = compress(&mut compressor, black_box(text.as_bytes()), &mut room, TDEFLFlush::Sync);
            bytes += (made - 4).min(text.len()) + frame::header_len(made);
        }
        bytes
    };
    let bytes = all();
    (cost_ns(|| assert!(black_box(all()) > 0)), bytes)
}

/// Nanoseconds to inflate a message that miniz made, ours and miniz's.
fn inflated(text: &str) -> (f64, f64) {
    let payload = miniz_oxide::deflate::compress_to_vec(text.as_bytes(), 6);
    let whole = [&payload[..], &[0]].concat();
    let mut inflater = Inflater::new(|| 0);
    let ours = cost_ns(|| {
        black_box(inflater.inflate(black_box(&whole), 1 << 20).expect("DEFLATE"));
    });
    let theirs = cost_ns(|| {
        black_box(miniz_oxide::inflate::decompress_to_vec_with_limit(black_box(&payload), 1 << 20).expect("DEFLATE"));
    });
    (ours, theirs)
}

fn main() {
    let wanted: Option<usize> = std::env::args().find_map(|argument| argument.parse().ok());
    println!(
        "µs and part of the plain bytes, level {LEVEL}: one message; {BATCH} messages, apart and together; inflated"
    );
    println!(" bytes | one: ours      miniz       | 16: apart       together        miniz       | inflate: ours miniz");
    for size in SIZES.into_iter().filter(|&size| wanted.is_none_or(|wanted| wanted == size)) {
        let texts: Vec<String> = (1..=BATCH).map(|offset| publication(offset, size)).collect();
        let plain = |texts: &[String]| run(texts).bytes.len() as f64;
        let show = |(ns, bytes): (f64, usize), plain: f64| format!("{:6.2} {:4.2}", ns / 1e3, bytes as f64 / plain);
        let (one, all) = (plain(&texts[..1]), plain(&texts));
        let (ours, theirs) = inflated(&texts[0]);
        println!(
            "{size:6} | {}  {} | {}  {}  {} | {:6.2} {:6.2}",
            show(packed(&texts[..1], false), one),
            show(by_miniz(&texts[..1]), one),
            show(packed(&texts, false), all),
            show(packed(&texts, true), all),
            show(by_miniz(&texts), all),
            ours / 1e3,
            theirs / 1e3,
        );
    }
}
