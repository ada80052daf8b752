//! What each entry of `origins` matches, by hand and against an oracle that compares parts and reads no text; which
//! entries are refused, and with what advice.

use proptest::prelude::*;

use super::*;

fn list(entry: &str) -> Origins {
    Origins::list(&[entry.to_owned()]).unwrap_or_else(|fault| panic!("{fault}"))
}

#[test]
fn without_a_list_the_page_must_be_of_this_host() {
    for (origin, host, same) in [
        ("http://a.com", "a.com", true),
        ("https://A.com", "a.COM", true),
        ("https://a.com", "a.com:443", true),
        ("http://a.com:80", "a.com", true),
        ("http://a.com:80", "a.com:", true),
        ("http://[::1]:2345", "[::1]:2345", true),
        ("http://a.com:2345", "a.com:2345", true),
        ("http://a.com", "a.com:2345", false),
        ("http://a.com:81", "a.com", false),
        ("https://a.com", "a.com:80", false),
        ("http://a.com:99999", "a.com:99999", false),
        ("http://a.com.evil.com", "a.com", false),
        ("http://evil.com/a.com", "a.com", false),
        ("http://evil.com@a.com", "a.com", false),
        ("ftp://a.com", "a.com", false),
        ("a.com", "a.com", false),
        ("null", "null", false),
        ("", "a.com", false),
    ] {
        assert_eq!(Origins::SameHost.allow(origin, host), same, "{origin} at {host}");
    }
}

#[test]
fn entries_match_what_they_say() {
    for (entry, origin, allowed) in [
        ("https://*.a.com", "https://x.a.com", true),
        ("https://*.a.com", "https://x.y.A.com", true),
        ("https://*.a.com", "https://x.a.com:443", true),
        ("https://*.a.com", "https://a.com", false),
        ("https://*.a.com", "https://.a.com", false),
        ("https://*.a.com", "https://xa.com", false),
        ("https://*.a.com", "https://x.a.com.evil.org", false),
        ("https://*.a.com", "https://evil.org/.a.com", false),
        ("https://*.a.com", "http://x.a.com", false),
        ("https://*.a.com", "https://x.a.com:8443", false),
        ("https://*.a.com:8443", "https://x.a.com:8443", true),
        ("https://*.a.com:*", "https://x.a.com:8443", true),
        ("https://*.a.com", "null", false),
        ("https://a.com:443", "https://a.com", true),
        ("https://a.com:0443", "https://a.com", true),
        ("https://a.com:", "https://a.com", true),
        ("HTTPS://A.Com", "https://a.com", true),
        ("https://a.com", "https://x.a.com", false),
        ("https://a.com", "https://a.com@evil.org", false),
        ("https://a.com", "https://a.com:65979", false),
        ("http://localhost:*", "http://localhost", true),
        ("http://localhost:*", "http://localhost:5173", true),
        ("http://localhost:*", "http://localhost:65536", false),
        ("http://localhost:*", "https://localhost:5173", false),
        ("http://localhost:*", "http://localhost.evil.org:5173", false),
        ("http://localhost", "http://localhost:5173", false),
        ("http://[::1]:3000", "http://[::1]:3000", true),
        ("http://[0:0::1]:3000", "http://[::1]:3000", true),
        ("http://[::FFFF:1.2.3.4]", "http://[::ffff:102:304]", true),
        ("http://[::1]:*", "http://[::2]:3000", false),
        ("http://10.0.0.1:8080", "http://10.0.0.1:8080", true),
        ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example", true),
        ("https://a.com.", "https://a.com.", true),
        ("https://my_host", "https://my_host", true),
        ("capacitor://localhost", "capacitor://localhost", true),
        ("tauri://localhost", "tauri://localhost", true),
        ("tauri://localhost:*", "tauri://localhost:1420", true),
        ("ionic://localhost", "capacitor://localhost", false),
        ("app://.", "app://.", true),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop", true),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnoq", false),
        ("moz-extension://1b2a-3c", "moz-extension://1b2a-3c", true),
        ("null", "null", true),
        ("null", "file://", false),
        ("null", "https://a.com", false),
        ("file://", "null", true),
        ("file://", "file://", true),
        ("file://", "https://a.com", false),
        ("*", "null", true),
        ("*", "https://any.org", true),
    ] {
        assert_eq!(list(entry).allow(origin, "b.com"), allowed, "{origin} by {entry}");
    }
    assert!(!Origins::SameHost.allow("null", "a.com"), "a sandboxed frame is nobody's page");
    let two = Origins::list(&["https://a.com".to_owned(), "null".to_owned()]).expect("good");
    assert!(two.allow("https://a.com", "b.com") && two.allow("null", "b.com"));
    assert!(!two.allow("http://a.com", "a.com") && !two.allow("https://a.com:444", "a.com"));
    assert!(!Origins::List(vec![]).allow("https://a.com", "a.com"));
}

#[test]
fn what_can_never_match_is_refused_with_the_way_to_write_it() {
    for (entry, advice) in [
        ("", "is empty"),
        (" ", "without spaces"),
        (" https://a.com", "as https://a.com"),
        ("https://a.com ", "as https://a.com"),
        ("\"https://a.com\"", "as https://a.com"),
        ("https://a.com https://b.com", "an entry of its own"),
        ("https://a.com,https://b.com", "an entry of its own"),
        ("a.com", "write https://a.com"),
        ("//a.com", "write https://a.com"),
        ("localhost:3000", "write http://localhost:3000"),
        ("*.a.com", "write https://*.a.com"),
        ("https:a.com", "has no scheme"),
        ("://a.com", "write https://a.com"),
        ("1x://a.com", "write https://a.com"),
        ("*://a.com", "write https://a.com"),
        ("ws://a.com", "write http://a.com"),
        ("WSS://a.com:1", "write https://a.com:1"),
        ("data:text/html,x", "an entry of its own"),
        ("about:blank", "write null"),
        ("blob:https://a.com", "write https://a.com"),
        ("file:///", "write file://"),
        ("file:///home/me/index.html", "write file://"),
        ("https://a.com/", "write https://a.com"),
        ("https://a.com:8443/app", "write https://a.com:8443"),
        ("https://a.com?x", "write https://a.com"),
        ("https://a.com#x", "write https://a.com"),
        ("https://a.com\\", "write https://a.com"),
        ("https://me@a.com", "write https://a.com"),
        ("https://me:secret@a.com:1", "write https://a.com:1"),
        ("https://", "has no host"),
        ("https:///", "has no host"),
        ("https://:8080", "has no host"),
        ("https://a.com:65536", "at most 65535"),
        ("https://a.com:99999999999", "at most 65535"),
        ("https://a.com:0", "port 0"),
        ("https://a.com:http", "is no port"),
        ("https://a.com:80*", "is no port"),
        ("https://a.com:-1", "is no port"),
        ("https://*", "https://*.example.com"),
        ("https://*:8080", "https://*.example.com"),
        ("https://*.", "https://*.example.com"),
        ("https://*a.com", "https://*.example.com"),
        ("https://a.*", "https://*.example.com"),
        ("https://a.*.com", "https://*.example.com"),
        ("https://*.*.com", "https://*.example.com"),
        ("https://**.a.com", "https://*.example.com"),
        ("https://bücher.example", "write https://xn--bcher-kva.example"),
        ("https://*.BÜCHER.example:*", "write https://*.xn--bcher-kva.example"),
        ("https://пример.рф", "write https://xn--e1afmkfd.xn--p1ai"),
        ("https://例え。テスト", "write https://xn--r8jz45g.xn--zckzah"),
        ("http://::1", "[::1]"),
        ("http://::1:8080", "[::1]:8080"),
        ("http://[::1", "[2001:db8::1]"),
        ("http://[::1]x", "is no port"),
        ("http://[fe80::1%eth0]", "without a zone"),
        ("http://[a.com]", "[2001:db8::1]"),
        ("http://*.10.0.0.1", "write http://10.0.0.1"),
        ("http://*.[::1]", "[::1]"),
        ("http://127.1", "192.0.2.1"),
        ("http://256.0.0.1", "192.0.2.1"),
        ("http://10.0.0.01", "192.0.2.1"),
        ("http://0x7f000001", "192.0.2.1"),
        ("http://10.0.0.1.", "192.0.2.1"),
        ("https://a%2ecom", "has no '%'"),
        ("https://a+b.com", "has no '+'"),
        ("https://a..com", "between two dots"),
        ("https://.a.com", "between two dots"),
        (&format!("https://{}.com", "a".repeat(64)), "between two dots"),
        (&format!("https://{}com", "a.".repeat(126)), "253 in all"),
    ] {
        let fault = OriginPattern::parse(entry).expect_err(entry);
        assert!(fault.contains(advice), "{fault}: {advice}");
        assert!(fault.starts_with(&format!("{entry:?} matches no page: ")), "{fault}");
    }
}

/// What the advice says works: whoever follows it is not refused again.
#[test]
fn the_advice_is_taken() {
    for entry in ["a.com", "localhost:3000", "https://a.com/x", "wss://u@a.com", "https://bücher.example/", "*://a.com"]
    {
        let mut entry = entry.to_owned();
        for _ in 0..4 {
            let Err(fault) = OriginPattern::parse(&entry) else { break };
            let (_, advice) = fault.rsplit_once("write ").expect("advice");
            entry = advice.split([' ', ',']).next().expect("a word").to_owned();
        }
        assert!(OriginPattern::parse(&entry).is_ok(), "{entry}");
    }
}

/// A page and an entry, each in parts, so that the oracle compares parts and reads nothing.
#[derive(Debug, Clone)]
struct Parts {
    scheme: &'static str,
    labels: Vec<&'static str>,
    /// `None`: left out.
    port: Option<u16>,
    any_port: bool,
    below: bool,
}

impl Parts {
    fn port(&self) -> u16 {
        self.port.unwrap_or(match self.scheme {
            "http" => 80,
            "https" => 443,
            _ => 0,
        })
    }

    fn written(&self) -> String {
        let below = if self.below { "*." } else { "" };
        let port = match self.port {
            _ if self.any_port => ":*".to_owned(),
            Some(port) => format!(":{port}"),
            None => String::new(),
        };
        format!("{}://{below}{}{port}", self.scheme, self.labels.join("."))
    }

    /// The oracle.
    fn means(&self, page: &Parts) -> bool {
        let host_fits = match self.below {
            true => page.labels.len() > self.labels.len() && page.labels.ends_with(&self.labels),
            false => page.labels == self.labels,
        };
        self.scheme == page.scheme && host_fits && (self.any_port || self.port() == page.port())
    }
}

fn parts() -> impl Strategy<Value = Parts> {
    let scheme = prop::sample::select(vec!["http", "https", "capacitor"]);
    let labels = prop::collection::vec(prop::sample::select(vec!["a", "b", "ab", "com"]), 1..4);
    let port = prop::sample::select(vec![None, Some(80), Some(443), Some(8080), Some(65535)]);
    (scheme, labels, port, any::<bool>(), any::<bool>()).prop_map(|(scheme, labels, port, any_port, below)| Parts {
        scheme,
        labels,
        port,
        any_port,
        below,
    })
}

proptest! {
    #[test]
    fn entries_mean_what_the_oracle_says(entry in parts(), page in parts(), upper in any::<bool>()) {
        let page = Parts { any_port: false, below: false, ..page };
        let case = |text: String| if upper { text.to_uppercase() } else { text };
        let pattern = list(&case(entry.written()));
        prop_assert_eq!(pattern.lists(&page.written()), entry.means(&page), "{} by {}", page.written(), entry.written());
    }

    /// What is taken does match: the entry itself, with something for its wildcards.
    #[test]
    fn what_is_taken_matches_something(entry in "(https?|app|file)?(://)?(\\*\\.|u@)?[a-zA-Z0-9.\\[\\]:_ü*-]{0,12}(:[0-9*]{0,6})?/?") {
        if OriginPattern::parse(&entry).is_ok() {
            let witness = match entry.as_str() {
                "*" => "https://a.com".to_owned(),
                _ => entry.replace("://*.", "://x.").replace(":*", ":81"),
            };
            prop_assert!(list(&entry).lists(&witness), "{witness} by {entry}");
        }
    }

    #[test]
    fn nothing_panics(entry in "\\PC{0,30}", origin in "\\PC{0,30}") {
        if let Ok(pattern) = OriginPattern::parse(&entry) {
            let _ = pattern.matches(&origin);
        }
        let _ = Origins::SameHost.allow(&origin, &entry);
    }
}
