//! The wire against naive oracles: a reference decoder written without looking at the real one, a byte loop for
//! the mask, `std` for UTF-8; each over inputs and cuts that no one would think of.

mod oracles {
    pub mod deflate;
    pub mod frames;
}

use oracles::deflate::{deflate, inflate};
use oracles::frames::{LIMITS, Seen, decode, reference};
use proptest::collection::vec;
use proptest::prelude::*;
use uringcast::wire::deflate::compress::Compressors;
use uringcast::wire::deflate::inflate::Inflater;
use uringcast::wire::frame::{self, Opcode};
use uringcast::wire::handshake::UpgradeRequest;
use uringcast::wire::http;
use uringcast::wire::utf8::{self, Validator};
use uringcast::wire::{codes, mask};

/// Cuts `bytes` into chunks at these places.
fn cut(bytes: &[u8], cuts: &[prop::sample::Index]) -> Vec<Vec<u8>> {
    let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    places.windows(2).map(|pair| bytes[pair[0]..pair[1]].to_vec()).collect()
}

fn client_frame(first: u8, payload: &[u8], key: [u8; 4]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        len @ 0..=125 => out.push(128 + len as u8),
        len @ 126..=65535 => out.extend([128 + 126, (len / 256) as u8, (len % 256) as u8]),
        len => {
            out.push(128 + 127);
            out.extend((len as u64).to_be_bytes());
        }
    }
    out.extend(key);
    out.extend(payload.iter().enumerate().map(|(n, byte)| byte ^ key[n % 4]));
    out
}

fn payloads() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => "[a-zé😀\u{800}]{0,40}".prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..130),
        1 => (100..1600usize).prop_map(|len| vec![b'x'; len]),
        1 => (995..1020u16, "[a-zé]{0,8}").prop_map(|(code, reason)| [&code.to_be_bytes(), reason.as_bytes()].concat()),
    ]
}

/// Streams that mostly make sense: frames in an order that is often legal, some damaged.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let first = prop_oneof![
        6 => Just(0x81u8), 4 => Just(0x82), 4 => Just(0x01), 2 => Just(0x02), 6 => Just(0x00), 5 => Just(0x80),
        4 => Just(0x89), 2 => Just(0x8A), 1 => Just(0x88), 1 => any::<u8>(),
    ];
    let frames = vec((first, payloads(), any::<[u8; 4]>()), 0..12).prop_map(|frames| {
        frames.iter().flat_map(|(first, payload, key)| client_frame(*first, payload, *key)).collect()
    });
    (frames, prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()))).prop_map(
        |(mut bytes, damage): (Vec<u8>, _)| {
            if let Some((at, byte)) = damage.filter(|_| !bytes.is_empty()) {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        },
    )
}

/// A message cut into fragments at characters or within them, control frames in between: always legal.
fn legal_messages() -> impl Strategy<Value = (Vec<u8>, Vec<Seen>)> {
    let message = (any::<bool>(), "[a-zé😀]{0,60}", vec(any::<prop::sample::Index>(), 0..4), any::<[u8; 4]>());
    vec(message, 0..6).prop_map(|messages| {
        let (mut bytes, mut seen) = (Vec::new(), Vec::new());
        for (text, content, cuts, key) in messages {
            let parts = cut(content.as_bytes(), &cuts);
            for (n, part) in parts.iter().enumerate() {
                let fin = if n + 1 == parts.len() { 128 } else { 0 };
                let opcode = if n > 0 { 0 } else { 2 - u8::from(text) };
                bytes.extend(client_frame(fin + opcode, part, key));
                if fin == 0 {
                    bytes.extend(client_frame(0x89, part, key).iter().take(6 + part.len()));
                    seen.push(Seen::Ping(part.clone()));
                }
            }
            let content = content.into_bytes();
            seen.push(if text { Seen::Text(content) } else { Seen::Binary(content) });
        }
        (bytes, seen)
    })
}

fn no_long_pings(seen: &[Seen]) -> bool {
    seen.iter().all(|seen| !matches!(seen, Seen::Ping(payload) if payload.len() > 125))
}

/// Contents that shrink, that don't, and that are no text.
fn contents(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => "[a-zé😀]{0,200}".prop_map(String::into_bytes),
        2 => ("[a-z ]{1,30}", 0..most / 30).prop_map(|(word, times)| word.repeat(times).into_bytes()),
        2 => vec(any::<u8>(), 0..most),
    ]
}

/// Frames of which some are compressed messages, whole, in fragments or damaged.
fn compressed_streams() -> impl Strategy<Value = Vec<u8>> {
    let message = (
        contents(LIMITS.message_bytes + 200),
        (0..11u8, any::<bool>(), prop::bool::weighted(0.8)),
        prop::option::of(any::<prop::sample::Index>()),
        prop::option::weighted(0.2, (any::<prop::sample::Index>(), 1..=255u8)),
        (any::<bool>(), any::<[u8; 4]>(), prop::sample::select(&[0x80u8, 0x80, 0x80, 0xC0, 0x00][..])),
    );
    vec(message, 1..5).prop_map(|messages| {
        let mut bytes = Vec::new();
        for (content, (level, last, compressed), cut, damage, (text, key, end)) in messages {
            let mut payload = if compressed { deflate(&content, level, last) } else { content };
            if let Some((at, by)) = damage.filter(|_| !payload.is_empty()) {
                let at = at.index(payload.len());
                payload[at] ^= by;
            }
            let first = 2 - u8::from(text) + if compressed { 0x40 } else { 0 };
            match cut {
                None => bytes.extend(client_frame(first + 0x80, &payload, key)),
                Some(cut) => {
                    let (head, tail) = payload.split_at(cut.index(payload.len() + 1));
                    bytes.extend(client_frame(first, head, key));
                    bytes.extend(client_frame(0x89, b"between", key));
                    bytes.extend(client_frame(end, tail, key));
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 5000, ..ProptestConfig::default() })]

    #[test]
    fn any_cut_decodes_as_the_reference(
        bytes in streams(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let (seen, error) = reference(&bytes, false);
        let cut_up = decode(&cut(&bytes, &cuts), false);
        prop_assert_eq!((&cut_up.0, cut_up.1), (&seen, error));
        let singles: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
        let (seen_by_byte, error_by_byte, arrived) = decode(&singles, false);
        prop_assert_eq!((&seen_by_byte, error_by_byte), (&seen, error));
        // Fail fast: one byte less and the reference saw nothing wrong.
        if error.is_some() {
            prop_assert_eq!(reference(&bytes[..arrived], false).1, error);
            prop_assert_eq!(reference(&bytes[..arrived - 1], false).1, None);
        }
    }

    #[test]
    fn legal_messages_arrive((bytes, seen) in legal_messages(), cuts in vec(any::<prop::sample::Index>(), 0..12)) {
        prop_assume!(no_long_pings(&seen));
        let decoded = decode(&cut(&bytes, &cuts), false);
        prop_assert_eq!((decoded.0, decoded.1), (seen, None));
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..400), cuts in vec(any::<prop::sample::Index>(), 0..8)) {
        let decoded = decode(&cut(&bytes, &cuts), false);
        prop_assert_eq!((decoded.0, decoded.1), reference(&bytes, false));
        let _ = UpgradeRequest::parse(&bytes, &http::HeadLimits::default());
    }

    /// The server's inflater may be stricter than the other one about codes that nobody makes, and never laxer.
    #[test]
    fn compressed_messages_decode_as_the_reference(
        bytes in compressed_streams(),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let (seen, error) = reference(&bytes, true);
        let decoded = decode(&cut(&bytes, &cuts), true);
        if decoded.1 == Some(1007) {
            prop_assert_eq!(&decoded.0, &seen[..decoded.0.len()]);
        } else {
            prop_assert_eq!((&decoded.0, decoded.1), (&seen, error));
        }
        let singles: Vec<Vec<u8>> = bytes.iter().map(|&byte| vec![byte]).collect();
        let by_byte = decode(&singles, true);
        prop_assert_eq!((by_byte.0, by_byte.1), (decoded.0, decoded.1));
    }

    #[test]
    fn what_others_compress_is_inflated_and_what_is_cut_is_judged_no_milder(
        content in contents(40_000),
        level in 0..11u8,
        last: bool,
        cut in any::<prop::sample::Index>(),
    ) {
        let payload = deflate(&content, level, last);
        let mut inflater = Inflater::new(|| 0);
        let whole = inflater.inflate(&payload, content.len()).map(|content| content.to_vec());
        prop_assert_eq!(whole.as_ref(), Ok(&content));
        let cut = cut.index(payload.len());
        let ours = inflater.inflate(&payload[..cut], content.len()).map(|content| content.to_vec()).ok();
        // miniz takes an incomplete set of distance codes, as a tail read as codes may make one; zlib refuses it.
        let theirs = inflate(&payload[..cut], content.len()).ok();
        prop_assert!(ours.is_none() || ours == theirs, "{:?}, {:?}", ours, theirs);
        // A cut may fall where a block begins; content that was not sent never comes of it.
        prop_assert!(ours.is_none_or(|ours| content.starts_with(&ours)));
        if !content.is_empty() {
            prop_assert!(inflater.inflate(&payload, content.len() - 1).is_err());
        }
    }

    #[test]
    fn what_is_compressed_others_inflate(
        messages in vec(contents(40_000), 1..6),
        level in 1..=9u32,
        window_bits in 9..=15u8,
    ) {
        let mut compressors = Compressors::new(level);
        for content in &messages {
            let mut out = b"before".to_vec();
            if compressors.write_alone(&mut out, Opcode::Text, content, window_bits) {
                prop_assert_eq!(out[6], 0xC1);
                out[6] &= !0x40;
                let (_, payload) = frame::message(&out[6..]);
                prop_assert!(payload.len() < content.len());
                prop_assert_eq!(inflate(payload, content.len()), Ok(content.clone()));
            } else {
                prop_assert_eq!(&out, b"before");
            }
        }
    }

    #[test]
    fn mask_equals_a_byte_loop(
        payload in vec(any::<u8>(), 0..300),
        key in any::<[u8; 4]>(),
        phase in 0..100usize,
        cuts in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let expected: Vec<u8> = payload.iter().enumerate().map(|(n, byte)| byte ^ key[(n + phase) % 4]).collect();
        let mut masked = Vec::new();
        for mut chunk in cut(&payload, &cuts) {
            mask::apply(&mut chunk, key, phase + masked.len());
            masked.extend(chunk);
        }
        prop_assert_eq!(masked, expected);
    }

    #[test]
    fn utf8_fails_at_the_chunk_that_cannot_be_mended(
        text in prop_oneof![
            any::<String>().prop_map(String::into_bytes),
            vec(prop_oneof![Just(b'a'), 0x80..=0xFFu8], 0..12),
            "[a-é😀]{60,100}".prop_map(String::into_bytes),
        ],
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut text = text;
        if let Some((at, byte)) = damage.filter(|_| !text.is_empty()) {
            let at = at.index(text.len());
            text[at] = byte;
        }
        let mut validator = Validator::default();
        let mut arrived = Vec::new();
        for chunk in cut(&text, &cuts) {
            arrived.extend(&chunk);
            let hopeless = std::str::from_utf8(&arrived).is_err_and(|error| error.error_len().is_some());
            prop_assert_eq!(validator.push(&chunk).is_err(), hopeless);
            if hopeless {
                return Ok(());
            }
        }
        prop_assert_eq!(validator.finish().is_ok(), std::str::from_utf8(&text).is_ok());
        prop_assert_eq!(utf8::validate(&text).is_ok(), std::str::from_utf8(&text).is_ok());
    }

    #[test]
    fn server_frames_have_boundaries(
        lens in vec(prop_oneof![0..300usize, 65_530..65_540usize], 0..6),
        at in any::<prop::sample::Index>(),
    ) {
        let (mut copied, mut in_place, mut boundaries) = (Vec::new(), Vec::new(), vec![0]);
        for len in lens {
            frame::write_frame(&mut copied, Opcode::Text, &vec![b'x'; len]);
            let mark = frame::begin_text(&mut in_place);
            in_place.resize(in_place.len() + len, b'x');
            frame::end_text(&mut in_place, mark);
            boundaries.push(copied.len());
        }
        prop_assert_eq!(&copied, &in_place);
        let at = at.index(copied.len() + 1);
        let expected = boundaries.into_iter().find(|&boundary| boundary >= at).unwrap();
        prop_assert_eq!(frame::first_boundary(&copied, at), expected);
    }

    #[test]
    fn close_reasons_stay_whole_characters(reason in "[a-zé😀\u{800}]{0,140}") {
        let mut out = Vec::new();
        frame::write_close(&mut out, codes::close::SLOW_CONSUMER, &reason);
        prop_assert!(out.len() <= 127 && usize::from(out[1]) == out.len() - 2);
        let kept = std::str::from_utf8(&out[4..]).unwrap();
        prop_assert!(reason.starts_with(kept));
        prop_assert!(kept == reason || kept.len() > 123 - 4);
    }

    #[test]
    fn a_request_may_arrive_in_any_pieces(
        path in "/[a-z0-9/]{0,20}",
        query in prop::option::of("[a-z=&%0-9]{0,20}"),
        headers in vec(("X-[A-Za-z]{1,10}", "[!-~]([ -~]{0,30}[!-~])?"), 0..10),
        body in vec(any::<u8>(), 0..20),
    ) {
        let target = query.as_ref().map_or(path.clone(), |query| format!("{path}?{query}"));
        let mut head = format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n");
        for (name, value) in &headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let limits = http::HeadLimits::default();
        for end in 0..head.len() {
            prop_assert!(matches!(UpgradeRequest::parse(&head.as_bytes()[..end], &limits), Ok(None)));
        }
        let bytes = [head.as_bytes(), &body].concat();
        let (request, consumed) = UpgradeRequest::parse(&bytes, &limits).unwrap().unwrap();
        prop_assert_eq!(consumed, head.len());
        prop_assert_eq!((request.path(), request.query()), (&path[..], query.as_deref()));
        for (name, value) in &headers {
            let lower = name.to_ascii_lowercase();
            prop_assert!(request.headers(&lower).any(|found| found == value.as_bytes()));
        }
    }
}
