//! The decoder at every split of its input: RFC 6455 by example, the limits, and what stays on the heap.
//! Unit tests: the property tests over the same code stand in tests/.

use super::*;

const LIMITS: MessageLimits = MessageLimits { message_bytes: 100_000, frame_bytes: 80_000, fragment_overhead: 64 };
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    // The server's encoder gives the length; the mask bit and key are the client's.
    frame::write_header(&mut bytes, Opcode::Text, payload.len());
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.extend(KEY);
    bytes.extend(payload.iter().enumerate().map(|(at, byte)| byte ^ KEY[at % 4]));
    bytes
}

fn feed(
    decoder: &mut Decoder,
    bytes: &[u8],
    limits: &MessageLimits,
    log: &mut Vec<String>,
) -> Result<(), ProtocolError> {
    let (mut input, mut assembly) = (bytes.to_vec(), Assembly::new(|| 0));
    let mut rest = &mut input[..];
    while !rest.is_empty() {
        let (consumed, event) = decoder.decode(rest, limits, &mut assembly)?;
        assert!(consumed > 0, "a call with input consumes some");
        match event {
            Some(Event::Text(text)) => log.push(format!("text {}", std::str::from_utf8(text).unwrap())),
            Some(other) => log.push(format!("{other:?}")),
            None => {}
        }
        rest = &mut rest[consumed..];
    }
    Ok(())
}

/// Decodes in every split into two and byte by byte, which must not differ.
fn decode_all(bytes: &[u8], limits: &MessageLimits) -> (Vec<String>, Option<ProtocolError>) {
    let run = |chunks: &[&[u8]]| {
        let (mut decoder, mut log) = (Decoder::new(), Vec::new());
        let error = chunks.iter().find_map(|chunk| feed(&mut decoder, chunk, limits, &mut log).err());
        (log, error)
    };
    let whole = run(&[bytes]);
    assert_eq!(run(&bytes.chunks(1).collect::<Vec<_>>()), whole, "byte by byte");
    for split in 0..bytes.len().min(600) {
        assert_eq!(run(&[&bytes[..split], &bytes[split..]]), whole, "split at {split}");
    }
    whole
}

fn ok(frames: &[Vec<u8>]) -> Vec<String> {
    let (log, error) = decode_all(&frames.concat(), &LIMITS);
    assert_eq!(error, None);
    log
}

fn err(frames: &[Vec<u8>]) -> ProtocolError {
    decode_all(&frames.concat(), &LIMITS).1.expect("the frames are an error")
}

#[test]
fn whole_messages_come_from_the_input_itself() {
    let mut input = [frame(0x81, b"Hello"), frame(0x82, &[1, 2, 3])].concat();
    let range = input.as_ptr_range();
    let (mut decoder, mut assembly) = (Decoder::new(), Assembly::new(|| 0));
    let (consumed, event) = decoder.decode(&mut input, &LIMITS, &mut assembly).unwrap();
    let Some(Event::Text(text)) = event else { panic!("not a text") };
    assert_eq!((consumed, &*text), (11, &b"Hello"[..]));
    assert!(range.contains(&text.as_ptr()));
    assert!(decoder.is_idle());
    let (consumed, event) = decoder.decode(&mut input[11..], &LIMITS, &mut assembly).unwrap();
    assert_eq!((consumed, event), (9, Some(Event::Binary(&mut [1, 2, 3]))));
    assert!(decoder.is_idle());
}

#[test]
fn a_cut_header_does_not_cost_the_payload_a_copy() {
    let mut input = frame(0x81, b"Hello");
    let (head, rest) = input.split_at_mut(3);
    let range = rest.as_ptr_range();
    let (mut decoder, mut assembly) = (Decoder::new(), Assembly::new(|| 0));
    assert_eq!(decoder.decode(head, &LIMITS, &mut assembly), Ok((3, None)));
    assert!(!decoder.is_idle());
    let Ok((8, Some(Event::Text(text)))) = decoder.decode(rest, &LIMITS, &mut assembly) else { panic!("not a text") };
    assert!(range.contains(&text.as_ptr()));
    assert!(decoder.is_idle());
}

#[test]
fn fragments_with_control_frames_between() {
    let log = ok(&[
        frame(0x01, "Hé".as_bytes()),
        frame(0x89, b"ping"),
        frame(0x00, b""),
        // A character cut by a fragment.
        frame(0x00, &[0xC3]),
        frame(0x8A, b""),
        frame(0x80, &[0xA9, b'!']),
        frame(0x02, &[0xFF]),
        frame(0x80, &[0xFE]),
        frame(0x81, b""),
    ]);
    assert_eq!(log, ["Ping([112, 105, 110, 103])", "Pong([])", "text Héé!", "Binary([255, 254])", "text "]);
}

#[test]
fn all_length_encodings() {
    for len in [0, 1, 125, 126, 127, 65_535, 65_536, 80_000] {
        let payload = vec![b'x'; len];
        let bytes = frame(0x82, &payload);
        for split in [0, 1, 2, 3, 9, 10, 14, bytes.len() - 1] {
            let (mut decoder, mut log) = (Decoder::new(), Vec::new());
            let split = split.min(bytes.len());
            feed(&mut decoder, &bytes[..split], &LIMITS, &mut log).unwrap();
            feed(&mut decoder, &bytes[split..], &LIMITS, &mut log).unwrap();
            assert_eq!(log, [format!("Binary({payload:?})")], "{len} split at {split}");
        }
    }
}

#[test]
fn sequences_that_are_errors() {
    use ProtocolError::*;
    assert_eq!(err(&[frame(0x80, b"x")]), UnexpectedContinuation);
    assert_eq!(err(&[frame(0x00, b"x")]), UnexpectedContinuation);
    assert_eq!(err(&[frame(0x01, b"a"), frame(0x80, b"b"), frame(0x80, b"c")]), UnexpectedContinuation);
    assert_eq!(err(&[frame(0x01, b"a"), frame(0x81, b"b")]), InterleavedMessage);
    assert_eq!(err(&[frame(0x02, b"a"), frame(0x01, b"b")]), InterleavedMessage);
    assert_eq!(err(&[frame(0x81, b"a"), frame(0xC1, b"b")]), ReservedBits);
    assert_eq!(err(&[frame(0x89, &[0; 126])]), ControlTooLong);
    assert_eq!(err(&[frame(0x81, b"\xFF")]), InvalidUtf8);
    assert_eq!(err(&[frame(0x81, b"\xE2\x82")]), InvalidUtf8);
    assert_eq!(err(&[frame(0x01, b"\xE2\x82"), frame(0x80, b"")]), InvalidUtf8);
    assert_eq!(err(&[frame(0x01, b"\xE2"), frame(0x00, b"x")]), InvalidUtf8);
}

#[test]
fn bad_utf8_fails_within_the_frame() {
    // Autobahn 6.4: κόσμε, then a surrogate, then more that never arrives.
    let bytes = frame(0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xf4\x90\x80\x80edited");
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    let hopeless = 6 + 12;
    for at in 0..hopeless {
        assert_eq!(feed(&mut decoder, &bytes[at..=at], &LIMITS, &mut log), Ok(()), "{at}");
    }
    let error = feed(&mut decoder, &bytes[hopeless..=hopeless], &LIMITS, &mut log);
    assert_eq!(error, Err(ProtocolError::InvalidUtf8));
    assert!(decoder.is_idle(), "an error frees what was kept");
    assert_eq!(feed(&mut decoder, &bytes, &LIMITS, &mut log), Ok(()), "and is final");
    assert!(log.is_empty());
}

#[test]
fn close_payloads() {
    use ProtocolError::*;
    assert_eq!(ok(&[frame(0x88, b"")]), ["Close { code: None, reason: \"\" }"]);
    assert_eq!(ok(&[frame(0x88, b"\x03\xe8")]), ["Close { code: Some(1000), reason: \"\" }"]);
    assert_eq!(ok(&[frame(0x88, b"\x0f\xa1by\xc3\xa9")]), ["Close { code: Some(4001), reason: \"byé\" }"]);
    assert_eq!(err(&[frame(0x88, b"\x03")]), ClosePayload);
    assert_eq!(err(&[frame(0x88, b"\x03\xee")]), CloseCode);
    assert_eq!(err(&[frame(0x88, b"\x03\xe8\xff")]), InvalidUtf8);
}

#[test]
fn nothing_follows_a_close() {
    let log = ok(&[frame(0x01, b"a"), frame(0x88, b""), frame(0x80, b"b"), vec![0xFF; 40]]);
    assert_eq!(log, ["Close { code: None, reason: \"\" }"]);
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    for byte in [frame(0x01, b"a"), frame(0x88, b"\x03\xe8")].concat() {
        feed(&mut decoder, &[byte], &LIMITS, &mut log).unwrap();
    }
    assert!(decoder.is_idle(), "the message that will never end is freed with the Close");
}

#[test]
fn limits_hold_at_the_header() {
    let limits = MessageLimits { message_bytes: 1000, frame_bytes: 500, fragment_overhead: 64 };
    let header_of = |first, len| frame(first, &vec![b'x'; len])[..8].to_vec();
    let run = |frames: &[Vec<u8>]| decode_all(&frames.concat(), &limits).1;
    assert_eq!(run(&[frame(0x81, &[b'x'; 500])]), None);
    assert_eq!(run(&[header_of(0x81, 501)]), Some(ProtocolError::FrameTooBig));
    // 64 + 400, 64 + 400: 72 are left, 8 of them for payload.
    let start = [frame(0x01, &[b'x'; 400]), frame(0x00, &[b'x'; 400])].concat();
    assert_eq!(run(&[start.clone(), frame(0x80, &[b'x'; 8])]), None);
    assert_eq!(run(&[start.clone(), frame(0x80, &[b'x'; 9])[..6].to_vec()]), Some(ProtocolError::MessageTooBig));
    assert_eq!(run(&[vec![0x82, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4]]), Some(ProtocolError::FrameTooBig));
    // A limit on frames does not touch control frames.
    let tiny = MessageLimits { message_bytes: 4, frame_bytes: 4, fragment_overhead: 0 };
    assert_eq!(decode_all(&frame(0x89, b"longer"), &tiny), (vec!["Ping([108, 111, 110, 103, 101, 114])".into()], None));
}

#[test]
fn a_flood_of_empty_fragments_ends() {
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    feed(&mut decoder, &frame(0x01, b""), &LIMITS, &mut log).unwrap();
    let error = (0..2000).find_map(|_| feed(&mut decoder, &frame(0x00, b""), &LIMITS, &mut log).err());
    assert_eq!(error, Some(ProtocolError::MessageTooBig));
}

#[test]
fn an_announcement_costs_nothing() {
    let limits = MessageLimits { message_bytes: usize::MAX, frame_bytes: usize::MAX, fragment_overhead: 64 };
    let mut bytes = vec![0x82, 0xFF, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    bytes.extend([0; 100]);
    let mut decoder = Decoder::new();
    feed(&mut decoder, &bytes, &limits, &mut Vec::new()).unwrap();
    assert!(decoder.heap_bytes() <= size_of::<Partial>() + 200);
}

#[test]
fn idle_is_small_and_holds_nothing() {
    assert!(size_of::<Decoder>() <= 16);
    assert!(size_of::<Partial>() <= 192, "{}", size_of::<Partial>());
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    for byte in [frame(0x01, b"Hel"), frame(0x89, b"p"), frame(0x80, b"lo")].concat() {
        feed(&mut decoder, &[byte], &LIMITS, &mut log).unwrap();
    }
    assert_eq!(log, ["Ping([112])", "text Hello"]);
    assert!(decoder.is_idle());
    assert_eq!(decoder.heap_bytes(), 0);
}

#[test]
fn a_control_frame_between_two_fragments_keeps_the_message() {
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    for byte in [frame(0x01, b"Hel"), frame(0x89, b"p")].concat() {
        feed(&mut decoder, &[byte], &LIMITS, &mut log).unwrap();
    }
    for byte in frame(0x80, b"lo") {
        feed(&mut decoder, &[byte], &LIMITS, &mut log).unwrap();
    }
    assert_eq!(log, ["Ping([112])", "text Hello"]);
}

/// Decodes with compression agreed on, whole and byte by byte, which must not differ.
fn deflated(frames: &[Vec<u8>], limits: &MessageLimits) -> (Vec<String>, Option<ProtocolError>) {
    let bytes = frames.concat();
    let run = |chunk_bytes: usize| {
        let (mut decoder, mut log) = (Decoder::new(), Vec::new());
        decoder.allow_deflate();
        let error = bytes.chunks(chunk_bytes).find_map(|chunk| feed(&mut decoder, chunk, limits, &mut log).err());
        (log, error, decoder.is_idle())
    };
    let (log, error, _) = run(bytes.len());
    assert_eq!((&log, error), (&run(1).0, run(1).1), "byte by byte");
    (log, error)
}

const HELLO: [u8; 7] = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];

#[test]
fn compressed_messages_come_inflated() {
    let (log, error) = deflated(
        &[
            frame(0xC1, &HELLO),
            frame(0x81, b"plain"),
            // RSV1 on the first fragment alone; the others, and what stands between, have none.
            frame(0x41, &HELLO[..3]),
            frame(0x89, b"p"),
            frame(0x00, b""),
            frame(0x80, &HELLO[3..]),
            frame(0x42, b""),
            frame(0x80, &HELLO),
            frame(0xC2, &[0x00]),
            frame(0xC1, b""),
            frame(0x01, b"pl"),
            frame(0x80, b"ain"),
        ],
        &LIMITS,
    );
    let binary = format!("{:?}", b"Hello");
    let expected = [
        "text Hello",
        "text plain",
        "Ping([112])",
        "text Hello",
        &format!("Binary({binary})"),
        "Binary([])",
        "text ",
        "text plain",
    ];
    assert_eq!((log, error), (expected.map(str::to_owned).to_vec(), None));
}

#[test]
fn rsv1_stands_on_the_first_frame_of_an_agreed_message() {
    let error = |frames: &[Vec<u8>]| deflated(frames, &LIMITS).1;
    assert_eq!(error(&[frame(0x41, &HELLO[..3]), frame(0xC0, &HELLO[3..])]), Some(ProtocolError::ReservedBits));
    assert_eq!(error(&[frame(0x01, b"a"), frame(0xC0, &HELLO)]), Some(ProtocolError::ReservedBits));
    for control in [0xC8, 0xC9, 0xCA, 0xE1, 0xD1, 0xF2] {
        assert_eq!(error(&[frame(control, b"")]), Some(ProtocolError::ReservedBits), "{control:x}");
    }
    assert_eq!(err(&[frame(0xC1, &HELLO)]), ProtocolError::ReservedBits, "without an agreement");
}

#[test]
fn what_inflates_badly_ends_the_stream() {
    let error = |frames: &[Vec<u8>], limits: &MessageLimits| deflated(frames, limits);
    let (log, bad) = error(&[frame(0x81, b"first"), frame(0xC1, b"Hello"), frame(0x81, b"never")], &LIMITS);
    assert_eq!((log, bad), (vec!["text first".to_owned()], Some(ProtocolError::InvalidDeflate)));
    let fragments = [frame(0x41, &HELLO[..3]), frame(0x80, b"")];
    assert_eq!(error(&fragments, &LIMITS).1, Some(ProtocolError::InvalidDeflate));
    // Four bytes of a stored block that are no text: judged when they are inflated.
    let bytes = [&[0x00, 2, 0, 0xfd, 0xff][..], &[0xff, 0xfe], &[0x00]].concat();
    assert_eq!(error(&[frame(0xC1, &bytes)], &LIMITS).1, Some(ProtocolError::InvalidUtf8));
    assert_eq!(error(&[frame(0xC2, &bytes)], &LIMITS), (vec!["Binary([255, 254])".to_owned()], None));
    // The limit counts what comes in, and then what comes out.
    let limits = MessageLimits { message_bytes: 4, frame_bytes: 100, fragment_overhead: 0 };
    assert_eq!(error(&[frame(0xC1, &HELLO)], &limits).1, Some(ProtocolError::MessageTooBig));
    let limits = MessageLimits { message_bytes: 40, frame_bytes: 100, fragment_overhead: 0 };
    let zeros = [0x62, 0x60, 0x18, 0x05, 0xa3, 0x60, 0x14, 0x0c, 0x77, 0x00, 0x00];
    assert_eq!(error(&[frame(0xC1, &zeros)], &limits).1, Some(ProtocolError::InflatedTooBig));
}

#[test]
fn a_compressed_message_keeps_nothing_behind() {
    let (mut decoder, mut assembly) = (Decoder::new(), Assembly::new(|| 0));
    decoder.allow_deflate();
    assert!(size_of::<Decoder>() <= 16);
    for byte in [frame(0x41, &HELLO[..3]), frame(0x80, &HELLO[3..])].concat() {
        if let (_, Some(event)) = decoder.decode(&mut [byte], &LIMITS, &mut assembly).unwrap() {
            assert_eq!(event, Event::Text(&mut b"Hello".to_vec()));
            assert!(decoder.is_idle(), "what was compressed has gone by the time that it is inflated");
        }
    }
    assert!(decoder.is_idle());
}

#[test]
fn behind_our_close_only_the_peers_close_counts() {
    let stream = |deflate: bool| {
        let first = if deflate { 0xC1 } else { 0x81 };
        [
            frame(first, b"no DEFLATE and \xff no text"),
            // A fragment that begins, a ping between, and one that continues nothing.
            frame(0x01, &[b'x'; 70_000]),
            frame(0x89, b"still"),
            frame(0x80, &[b'y'; 70_000]),
            frame(0x80, b"z"),
            frame(0x88, &[0x03, 0xe8]),
        ]
        .concat()
    };
    for (deflate, chunk) in [(false, usize::MAX), (true, usize::MAX), (true, 1), (false, 4_000)] {
        let bytes = stream(deflate);
        let (mut decoder, mut log) = (Decoder::new(), Vec::new());
        if deflate {
            decoder.allow_deflate();
        }
        decoder.skip_messages();
        for chunk in bytes.chunks(chunk) {
            feed(&mut decoder, chunk, &LIMITS, &mut log).unwrap();
            assert!(decoder.heap_bytes() < 1_000, "payloads are not kept");
        }
        assert_eq!(log.len(), 2, "{log:?}");
        assert!(log[0].starts_with("Ping") && log[1].starts_with("Close"), "{log:?}");
        assert_eq!(decoder.skipped(), bytes.len());
    }
}

#[test]
fn what_had_come_of_a_message_is_freed_when_it_is_skipped() {
    let message = frame(0x81, &[b'x'; 50_000]);
    let (mut decoder, mut log) = (Decoder::new(), Vec::new());
    feed(&mut decoder, &message[..40_000], &LIMITS, &mut log).unwrap();
    assert!(decoder.heap_bytes() >= 39_000);
    decoder.skip_messages();
    assert!(decoder.heap_bytes() < 1_000);
    feed(&mut decoder, &message[40_000..], &LIMITS, &mut log).unwrap();
    feed(&mut decoder, &frame(0x88, b""), &LIMITS, &mut log).unwrap();
    assert_eq!(log, ["Close { code: None, reason: \"\" }"]);
    assert_eq!(size_of::<Decoder>(), 16);
}

/// What an echo endpoint makes of a stream that comes in these pieces: the frames that it sends back, and a line for each
/// other event. With `short` the short way is tried before each piece. The number counts the messages that it took.
fn echoed(pieces: &[&[u8]], most: usize, short: bool) -> (Vec<u8>, usize) {
    let (mut decoder, mut assembly, mut sent, mut at_once) = (Decoder::new(), Assembly::new(|| 0), Vec::new(), 0);
    for piece in pieces {
        let (mut input, mut out, mut taken) = (piece.to_vec(), Vec::new(), 0);
        if short {
            let echoed = decoder.echo(&input, &LIMITS, most, &mut out);
            assert_eq!(echoed.messages == 0, echoed.bytes == 0);
            at_once += echoed.messages;
            taken = echoed.bytes;
            sent.append(&mut out);
        }
        while taken < input.len() {
            match decoder.decode(&mut input[taken..], &LIMITS, &mut assembly) {
                Ok((used, event)) => {
                    taken += used;
                    match event {
                        None => {}
                        Some(Event::Text(text)) => frame::write_frame(&mut sent, Opcode::Text, text),
                        Some(Event::Binary(bytes)) => frame::write_frame(&mut sent, Opcode::Binary, bytes),
                        Some(other) => sent.extend(format!("{other:?}").bytes()),
                    }
                }
                Err(error) => {
                    sent.extend(format!("{error:?}").bytes());
                    return (sent, at_once);
                }
            }
        }
    }
    (sent, at_once)
}

#[test]
fn whole_messages_are_echoed_at_once() {
    let stream = [frame(0x81, "grün".as_bytes()), frame(0x82, &[0xff; 300]), frame(0x89, b"ping"), frame(0x81, b"x")];
    let bytes = stream.concat();
    let (sent, at_once) = echoed(&[&bytes], usize::MAX, true);
    assert_eq!((&sent, at_once), (&echoed(&[&bytes], usize::MAX, false).0, 2));
    assert_eq!(echoed(&[&bytes], 1, true), (sent, 1), "it stops when there is enough");
}

proptest::proptest! {
    #[test]
    fn the_short_way_of_an_echo_makes_the_same_of_every_stream(
        frames in proptest::collection::vec((0usize..12, proptest::collection::vec(0u8..=255, 0..300)), 1..12),
        cuts in proptest::collection::vec(0usize..4000, 0..4),
        most in 1usize..2000,
    ) {
        let firsts = [0x81, 0x81, 0x81, 0x82, 0x82, 0x89, 0x8a, 0x01, 0x80, 0x88, 0xc1, 0x83];
        let mut stream = Vec::new();
        for (kind, payload) in frames {
            // Texts are mostly UTF-8, and control frames mostly short.
            let ascii: Vec<u8> = payload.iter().map(|byte| byte & 0x7f).collect();
            let payload = match firsts[kind] {
                0x81 | 0x01 | 0x80 if payload.first() != Some(&0xff) => &ascii,
                0x88..=0x8a => &payload[..payload.len().min(125)],
                _ => &payload[..],
            };
            stream.extend(frame(firsts[kind], payload));
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % stream.len()).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let pieces: Vec<&[u8]> = cuts.windows(2).map(|ends| &stream[ends[0]..ends[1]]).collect();
        proptest::prop_assert_eq!(echoed(&pieces, most, true).0, echoed(&pieces, most, false).0);
    }
}
