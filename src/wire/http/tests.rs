//! Heads of requests: which are taken, where their bodies end, and which have more than one reading.
//! `handshake`'s tests and the fuzz targets hold the same parser to more.

use super::*;

/// Gives what `read` makes of a head.
fn with<T>(head: &str, read: impl FnOnce(&RequestHead<'_, '_>) -> T) -> Result<T, HttpFault> {
    let mut room = HeaderRoom::default();
    let (parsed, taken) = RequestHead::parse(head.as_bytes(), &HeadLimits::default(), &mut room)?.expect("complete");
    assert_eq!(taken, head.len());
    Ok(read(&parsed))
}

fn framing(version: &str, headers: &str) -> Result<BodyFraming, HttpFault> {
    with(&format!("POST / HTTP/{version}\r\nHost: a\r\n{headers}\r\n"), |head| head.framing())?
}

#[test]
fn a_body_has_one_end() {
    assert_eq!(framing("1.1", ""), Ok(BodyFraming::Length(0)));
    assert_eq!(framing("1.1", "content-LENGTH:  12 \r\n"), Ok(BodyFraming::Length(12)));
    assert_eq!(framing("1.0", "Content-Length: 12\r\n"), Ok(BodyFraming::Length(12)));
    assert_eq!(framing("1.1", "Transfer-Encoding: Chunked\r\n"), Ok(BodyFraming::Chunked));
    for (headers, fault) in [
        ("Content-Length: 5\r\nContent-Length: 5\r\n", HttpFault::Repeated),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", HttpFault::Repeated),
        ("Content-Length: 5, 5\r\n", HttpFault::Length),
        ("Content-Length: +5\r\n", HttpFault::Length),
        ("Content-Length: -5\r\n", HttpFault::Length),
        ("Content-Length: 0x5\r\n", HttpFault::Length),
        ("Content-Length: 5 5\r\n", HttpFault::Length),
        ("Content-Length:\r\n", HttpFault::Length),
        ("Content-Length: 18446744073709551616\r\n", HttpFault::Length),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", HttpFault::TwoLengths),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", HttpFault::Coding),
        ("Transfer-Encoding: gzip, chunked\r\n", HttpFault::Coding),
        ("Transfer-Encoding: chunked, identity\r\n", HttpFault::Coding),
        ("Transfer-Encoding: \x0bchunked\r\n", HttpFault::Malformed),
        ("Transfer-Encoding: xchunked\r\n", HttpFault::Coding),
        ("Transfer-Encoding : chunked\r\n", HttpFault::Malformed),
        ("Transfer-Encoding:\r\n chunked\r\n", HttpFault::Malformed),
    ] {
        assert_eq!(framing("1.1", headers), Err(fault), "{headers:?}");
    }
    assert_eq!(framing("1.0", "Transfer-Encoding: chunked\r\n"), Err(HttpFault::TwoLengths));
}

#[test]
fn connections_are_kept_as_the_version_says() {
    let keeps = |version: &str, headers: &str| {
        with(&format!("GET / HTTP/{version}\r\nHost: a\r\n{headers}\r\n"), |head| head.keeps_alive())
    };
    for (version, headers, expected) in [
        ("1.1", "", true),
        ("1.1", "Connection: keep-alive\r\n", true),
        ("1.1", "Connection: Close\r\n", false),
        ("1.1", "Connection: x , close\r\n", false),
        ("1.1", "Connection: x\r\nConnection: close\r\n", false),
        ("1.1", "Connection: closed\r\n", true),
        ("1.0", "", false),
        ("1.0", "Connection: Keep-Alive\r\n", true),
        ("1.0", "Connection: keep-alive, close\r\n", false),
    ] {
        assert_eq!(keeps(version, headers), Ok(expected), "{version} {headers:?}");
    }
}

#[test]
fn a_request_names_one_host() {
    let host = |version: &str, headers: &str| {
        with(&format!("GET / HTTP/{version}\r\n{headers}\r\n"), |head| head.host().map(|host| host.map(str::to_owned)))?
    };
    assert_eq!(host("1.1", "Host: a:1\r\n"), Ok(Some("a:1".to_owned())));
    assert_eq!(host("1.0", ""), Ok(None));
    assert_eq!(host("1.0", "Host: a\r\n"), Ok(Some("a".to_owned())));
    for headers in ["", "Host: a\r\nHost: a\r\n", "Host: \u{fc}\r\nhost: a\r\n"] {
        assert_eq!(host("1.1", headers), Err(HttpFault::HostCount), "{headers:?}");
    }
    for name in ["", "a b", "a/b", "u@a", "a:b", "[::1", "a,b"] {
        assert_eq!(host("1.1", &format!("Host: {name}\r\n")), Err(HttpFault::HostForm), "{name:?}");
    }
}

#[test]
fn a_client_may_ask_before_it_sends() {
    let expects = |version: &str, value: &str| {
        with(&format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: {value}\r\n\r\n"), |head| head.expects_continue())?
    };
    assert_eq!(expects("1.1", "100-Continue"), Ok(true));
    assert_eq!(expects("1.0", "100-continue"), Ok(false));
    assert_eq!(expects("1.1", "200-ok"), Err(HttpFault::Expectation));
}

#[test]
fn targets_have_three_forms() {
    let target = |line: &str| {
        with(&format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n"), |head| {
            head.target().map(|target| {
                (target.authority.map(str::to_owned), target.path.to_owned(), target.query.map(str::to_owned))
            })
        })?
    };
    let of = |authority: Option<&str>, path: &str, query: Option<&str>| {
        Ok((authority.map(str::to_owned), path.to_owned(), query.map(str::to_owned)))
    };
    assert_eq!(target("GET /a?b=/?c"), of(None, "/a", Some("b=/?c")));
    assert_eq!(target("GET HTTP://b:1/a?"), of(Some("b:1"), "/a", Some("")));
    assert_eq!(target("GET http://b"), of(Some("b"), "/", None));
    assert_eq!(target("OPTIONS *"), of(None, "*", None));
    for line in ["GET *", "GET a", "GET http://u@b/", "GET ftp://b/", "GET /a#b", "GET http:///a"] {
        assert_eq!(target(line), Err(HttpFault::Target), "{line}");
    }
}
