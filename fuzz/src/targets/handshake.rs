//! The head of a request, at every place where it may be cut, and the decision on an upgrade.
//! Input: the bytes of the request and of what follows it.

use uringcast::wire::deflate::Mode;
use uringcast::wire::handshake::{HttpRefusal, Policy, UpgradeRequest, upgrade};
use uringcast::wire::http::HeadLimits;

use crate::dice::Dice;

const LIMITS: HeadLimits = HeadLimits { head_bytes: 1024, headers: 16 };

/// What a request came to: its length, method, path and headers, or why it is refused.
type Judged = Result<(usize, String, String, u64), HttpRefusal>;

fn judge(bytes: &[u8]) -> Option<Judged> {
    match UpgradeRequest::parse(bytes, &LIMITS) {
        Ok(None) => None,
        Ok(Some((request, taken))) => {
            assert!(taken <= bytes.len() && taken <= LIMITS.head_bytes);
            let path = request.query().map_or(request.path().to_owned(), |query| format!("{}?{query}", request.path()));
            Some(Ok((taken, request.method().to_owned(), path, request.content_length())))
        }
        Err(refusal) => Some(Err(refusal)),
    }
}

/// The verdict is the same however the bytes arrive: the one at the first cut where there is one stays. What is taken
/// has one reading, and what is upgraded asked for it.
pub fn run(bytes: &[u8]) {
    let whole = judge(bytes);
    let first = (0..=bytes.len()).find_map(|end| judge(&bytes[..end]).map(|judged| (end, judged)));
    match first {
        None => assert_eq!(whole, None),
        Some((end, judged)) => {
            assert_eq!(whole.as_ref(), Some(&judged), "cut at {end}");
            if let Ok((taken, ..)) = judged {
                assert_eq!(taken, end, "a head ends with its last byte");
            }
        }
    }
    assert!(whole.is_some() || bytes.len() < LIMITS.head_bytes, "undecided at the limit");
    if let Ok(Some((request, taken))) = UpgradeRequest::parse(bytes, &LIMITS) {
        one_reading(&bytes[..taken]);
        let policy = Policy { subprotocols: &["uringcast.v1"], compression: Mode::On, ..Policy::default() };
        match upgrade(&request, &policy) {
            Ok(agreed) => {
                asked_for_it(&bytes[..taken]);
                let mut out = Vec::new();
                agreed.write_response(&mut out);
                well_formed(&out, 101);
                let told = fields(&out).into_iter().find(|(name, _)| name == "sec-websocket-extensions");
                assert_eq!(told.is_some(), agreed.deflate().is_some());
                if let Some((_, told)) = told {
                    offered(&bytes[..taken], &told);
                }
                // Whether it is spoken changes nothing about who may upgrade, unless it is demanded.
                let off = upgrade(&request, &Policy { compression: Mode::Off, ..policy.clone() });
                assert_eq!(off.map(|off| off.deflate()), Ok(None));
                let forced = upgrade(&request, &Policy { compression: Mode::Forced, ..policy });
                assert_eq!(forced.is_ok(), agreed.deflate().is_some());
            }
            Err(refusal) => refused(&refusal),
        }
    } else if let Some(Err(refusal)) = whole {
        refused(&refusal);
    }
}

fn refused(refusal: &HttpRefusal) {
    let mut out = Vec::new();
    refusal.write("GET", &mut out);
    well_formed(&out, refusal.status);
}

fn well_formed(response: &[u8], status: u16) {
    let text = std::str::from_utf8(response).expect("an answer is text");
    assert!(text.starts_with(&format!("HTTP/1.1 {status} ")) && text.contains("\r\n\r\n"), "{text}");
    let (head, _) = text.split_once("\r\n\r\n").expect("just seen");
    assert!(head.split("\r\n").skip(1).all(|line| line.contains(": ") && !line.contains('\n')), "{text}");
}

/// The fields of a head, read as naively as another server or proxy might.
fn fields(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head).into_owned();
    // An empty line before the request line is skipped (RFC 9112 §2.2).
    let lines = text.trim_start_matches(['\r', '\n']).split('\n').skip(1).map(|line| line.trim_end_matches('\r'));
    lines
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned())
        })
        .collect()
}

/// Nothing in it that a proxy in front could read otherwise: folded lines, spaces before a colon, two lengths.
fn one_reading(head: &[u8]) {
    let fields = fields(head);
    for (name, value) in &fields {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        assert!(!name.is_empty() && name.bytes().all(token), "{name:?} is no name");
        assert!(!value.contains(['\r', '\0']), "{value:?} has what ends a line elsewhere");
    }
    let of = |wanted: &str| fields.iter().filter(|(name, _)| name == wanted).count();
    assert_eq!(of("host"), 1);
    assert_eq!(of("transfer-encoding"), 0);
    assert!(of("content-length") <= 1);
}

fn asked_for_it(head: &[u8]) {
    let fields = fields(head);
    let of = |wanted: &str| {
        let values = fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        values.collect::<Vec<_>>().join(",").to_ascii_lowercase()
    };
    assert!(String::from_utf8_lossy(head).trim_start().starts_with("GET "));
    assert!(of("upgrade").contains("websocket") && of("connection").contains("upgrade"));
    assert_eq!((of("sec-websocket-version").as_str(), of("sec-websocket-key").len()), ("13", 24));
    assert!(matches!(of("content-length").trim_start_matches('0'), ""));
}

/// The client offered what it is told, in these words; read as naively as may be, with quotes and commas as they come.
fn offered(head: &[u8], told: &str) {
    let offers = fields(head).into_iter().filter(|(name, _)| name == "sec-websocket-extensions").map(|(_, line)| line);
    let offers = offers.collect::<Vec<_>>().join(",");
    let of = |text: &str| -> Vec<String> {
        let plain = |part: &str| part.replace(['"', '\\', ' ', '\t'], "");
        text.split(';').map(plain).filter(|part| part != "client_no_context_takeover").collect()
    };
    let told = of(told);
    assert_eq!(told[0], "permessage-deflate");
    assert!(told[1..].iter().all(|part| {
        part == "server_no_context_takeover"
            || part.strip_prefix("server_max_window_bits=").is_some_and(|bits| {
                bits.parse::<u8>().is_ok_and(|number| (9..=15).contains(&number) && number.to_string() == bits)
            })
    }));
    let takes = |offer: &str| {
        let offer = of(offer);
        offer[0] == told[0] && told[1..].iter().all(|part| offer.iter().filter(|other| *other == part).count() == 1)
    };
    assert!(offers.split(',').any(takes), "{offers:?} was answered {told:?}");
}

/// An upgrade with some lines left out, doubled or strange.
pub fn generate(dice: &mut Dice) -> Vec<u8> {
    let request_line = [
        "GET /ws HTTP/1.1",
        "GET /ws HTTP/1.1",
        "GET /ws HTTP/1.1",
        "POST /ws HTTP/1.1",
        "GET /ws?a=b#c HTTP/1.1",
        "GET http://a/ws HTTP/1.1",
        "GET /ws HTTP/1.0",
        "GET  /ws HTTP/1.1",
        "GET /%00 HTTP/1.1",
        "PRI * HTTP/2.0",
    ];
    let usual = [
        "Host: a.example",
        "Upgrade: websocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
    ];
    let unusual = [
        "Origin: http://a.example",
        "Origin: null",
        "Host: b",
        "Content-Length: 0",
        "Content-Length: 5",
        "Content-Length: +1",
        "Transfer-Encoding: chunked",
        "Transfer-Encoding : chunked",
        "Upgrade: h2c",
        "Sec-WebSocket-Protocol: chat, uringcast.v1",
        "X: é",
        " folded: line",
        "X-Empty:",
        "Sec-WebSocket-Version: 8",
        "Connection:",
        "Host: [::1]:80",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8, permessage-deflate; a=b, foo",
        "Sec-WebSocket-Extensions: x;y=\"z\",permessage-deflate;server_max_window_bits=\"1\\0\";server_no_context_takeover",
        "sec-websocket-extensions: permessage-deflate ; server_max_window_bits = 12 ; client_max_window_bits = 9 ,",
        "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; client_no_context_takeover",
        "Sec-WebSocket-Extensions: permessage-deflate;",
    ];
    let end = dice.pick(&["\r\n", "\r\n", "\r\n", "\n", "\r"]);
    let mut head = dice.pick(&request_line).to_owned() + end;
    for line in usual {
        if !dice.once_in(20) {
            head += line;
            head += end;
        }
        if dice.once_in(6) {
            head += dice.pick(&unusual);
            head += end;
        }
    }
    if dice.once_in(12) {
        let filler = dice.between(700, 1200);
        head += &format!("X-Long: {}{end}", "x".repeat(filler));
    }
    (0..dice.pick(&[0, 0, 0, 9, 12, 20])).for_each(|n| head += &format!("X-{n}: {n}{end}"));
    head += end;
    if dice.once_in(3) {
        head += "\u{81}\u{5}what follows";
    }
    head.into_bytes()
}
