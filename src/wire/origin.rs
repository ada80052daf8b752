//! Which web pages may connect: the entries of `origins`, read once at start, and the Origin header (RFC 6454) held
//! against them. Pure. An entry that no page's origin can match is refused with the way to write it. Called by
//! `handshake`, by the HTTP API for CORS, and by the configuration to check its entries.

use core::net::{Ipv4Addr, Ipv6Addr};

/// Which Origins may upgrade. A request without one passes: it doesn't come from a browser's page.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// The Origin's host and port must be those of the Host header.
    #[default]
    SameHost,
    /// The Origin must match one of these.
    List(Vec<OriginPattern>),
}

impl Origins {
    /// The list of these entries.
    ///
    /// # Errors
    /// The first entry that can never match, with the reason and the way to write it.
    pub(crate) fn list(entries: &[String]) -> Result<Origins, String> {
        entries.iter().map(|entry| OriginPattern::parse(entry)).collect::<Result<_, _>>().map(Origins::List)
    }

    /// Whether a page of this origin may, at a server that is called `host`.
    pub(crate) fn allow(&self, origin: &str, host: &str) -> bool {
        match self {
            Self::SameHost => same_host(origin, host),
            Self::List(_) => self.lists(origin),
        }
    }

    /// Whether the list names the origin.
    pub(crate) fn lists(&self, origin: &str) -> bool {
        let Self::List(list) = self else { return false };
        list.iter().any(|pattern| pattern.matches(origin))
    }
}

/// One entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(Pattern);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// `*`: every origin.
    Any,
    /// `null`: what a page without an origin of its own sends, as one in a sandboxed frame.
    Null,
    /// `file://`: a page that was opened as a file. Browsers send `null` for it, some embedded ones `file://`.
    File,
    Page {
        scheme: String,
        host: HostPattern,
        port: PortPattern,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    /// This host and no other.
    Name(String),
    /// This address, however it is written.
    Address(Ipv6Addr),
    /// Every host below this one, and not itself.
    Below(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PortPattern {
    Any,
    /// `None` is the scheme's own, written or not.
    One(Option<u16>),
}

impl OriginPattern {
    /// Reads an entry of `origins`.
    ///
    /// # Errors
    /// The entry can never match: the reason, and the way to write it.
    pub(crate) fn parse(entry: &str) -> Result<OriginPattern, String> {
        let pattern = match entry {
            "*" => Ok(Pattern::Any),
            _ if entry.eq_ignore_ascii_case("null") => Ok(Pattern::Null),
            _ if entry.eq_ignore_ascii_case("file://") => Ok(Pattern::File),
            _ => parse_page(entry),
        };
        pattern.map(OriginPattern).map_err(|reason| format!("{entry:?} matches no page: {reason}"))
    }

    fn matches(&self, origin: &str) -> bool {
        match &self.0 {
            Pattern::Any => true,
            Pattern::Null => origin == "null",
            Pattern::File => matches!(origin, "null" | "file://"),
            Pattern::Page { scheme, host, port } => {
                let Some((origin_scheme, authority)) = origin.split_once("://") else { return false };
                let Some((origin_host, origin_port)) = split_port(authority) else { return false };
                let Some(origin_port) = port_number(origin_scheme, origin_port) else { return false };
                scheme.eq_ignore_ascii_case(origin_scheme)
                    && host.matches(origin_host)
                    && (*port == PortPattern::Any || *port == PortPattern::One(origin_port))
            }
        }
    }
}

impl HostPattern {
    fn matches(&self, host: &str) -> bool {
        match self {
            HostPattern::Name(name) => name.eq_ignore_ascii_case(host),
            HostPattern::Address(address) => in_brackets(host).and_then(|host| host.parse().ok()) == Some(*address),
            HostPattern::Below(parent) => {
                let end = host.len().checked_sub(parent.len() + 1).filter(|&end| end > 0);
                end.and_then(|end| host.get(end..))
                    .and_then(|end| end.strip_prefix('.'))
                    .is_some_and(|end| end.eq_ignore_ascii_case(parent))
            }
        }
    }
}

fn parse_page(entry: &str) -> Result<Pattern, String> {
    if entry.is_empty() {
        return Err("it is empty; an empty list allows the pages of this server's own host".to_owned());
    }
    if entry.contains([',', ';']) || entry.trim().contains(char::is_whitespace) {
        return Err("each origin is an entry of its own".to_owned());
    }
    if entry.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>".contains(c)) {
        let bare = entry.trim_matches(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>".contains(c));
        return Err(format!("write it without spaces and quotes, as {bare}"));
    }
    let (scheme, rest) = parse_scheme(entry)?;
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    if !path.is_empty() && !authority.is_empty() {
        return Err(format!("an origin ends behind the host and its port; write {scheme}://{authority}"));
    }
    if let Some((_, host)) = authority.rsplit_once('@') {
        return Err(format!("an origin names no user; write {scheme}://{host}"));
    }
    let (host, port) = parse_port(&scheme, authority)?;
    let host = parse_host(&scheme, host)?;
    Ok(Pattern::Page { scheme, host, port })
}

/// The scheme in lower case, and what follows `://`.
fn parse_scheme(entry: &str) -> Result<(String, &str), String> {
    let Some((scheme, rest)) = entry.split_once("://") else {
        let bare = entry.trim_start_matches('/');
        return Err(match entry.split_once(':') {
            Some(("data" | "blob" | "about" | "javascript", _)) => NO_ORIGIN.to_owned(),
            _ if bare.is_empty() => "it has no host; write https://example.com".to_owned(),
            _ if bare.starts_with("localhost") || bare.starts_with("127.") || bare.starts_with('[') => {
                format!("it has no scheme; write http://{bare}")
            }
            _ => format!("it has no scheme; write https://{bare}"),
        });
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "*" => Err(format!("a scheme can't be left open; write https://{rest}, and http://{rest} if need be")),
        "ws" | "wss" => {
            let page = if scheme == "ws" { "http" } else { "https" };
            Err(format!("the scheme is that of the page, not of the connection; write {page}://{rest}"))
        }
        "data" | "blob" | "about" | "javascript" => Err(NO_ORIGIN.to_owned()),
        "file" => Err("all files have one origin; write file://".to_owned()),
        _ if scheme.starts_with("blob:") => Err(format!("it has the origin of what made it; write {}", &entry[5..])),
        _ if !is_scheme(&scheme) => Err(format!("{scheme:?} is no scheme; write https://{rest}")),
        _ => Ok((scheme, rest)),
    }
}

const NO_ORIGIN: &str = "such a page has no origin of its own; write null";

/// Whether `scheme` is one by RFC 3986 §3.1.
fn is_scheme(scheme: &str) -> bool {
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
}

/// Takes the port off the authority.
fn parse_port<'a>(scheme: &str, authority: &'a str) -> Result<(&'a str, PortPattern), String> {
    let host_end = match authority.starts_with('[') {
        true => authority.find(']').map_or(authority.len(), |at| at + 1),
        false if authority.matches(':').count() > 1 => {
            return Err(format!(
                "an IPv6 address stands in brackets, as in {scheme}://[::1] and {scheme}://[::1]:8080"
            ));
        }
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let pattern = match port.strip_prefix(':') {
        None if port.is_empty() => PortPattern::One(None),
        Some("*") => PortPattern::Any,
        Some("") => PortPattern::One(None),
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => match digits.parse::<u16>() {
            Ok(0) => return Err("no server has port 0".to_owned()),
            Ok(port) => PortPattern::One(Some(port).filter(|port| default_port(scheme) != Some(*port))),
            Err(_) => return Err("a port is at most 65535".to_owned()),
        },
        _ => {
            let port = port.trim_start_matches(':');
            return Err(format!("{port:?} is no port; write a number, or * for any: {scheme}://{host}:*"));
        }
    };
    Ok((host, pattern))
}

fn parse_host(scheme: &str, host: &str) -> Result<HostPattern, String> {
    if host.is_empty() {
        return Err(format!("it has no host; write {scheme}://example.com"));
    }
    let (is_below, name) = match host.strip_prefix("*.") {
        Some(parent) => (true, parent),
        None => (false, host),
    };
    if name.contains('*') || name.is_empty() {
        return Err(format!(
            "a * stands for the port ({scheme}://example.com:*) or for all that comes before a domain \
             ({scheme}://*.example.com); every page of every host is the entry \"*\""
        ));
    }
    if !name.is_ascii() {
        let (below, ascii) = (if is_below { "*." } else { "" }, punycode_host(name));
        return Err(format!(
            "browsers send a name in ASCII; write {scheme}://{below}{ascii} (`location.origin` on the page shows it)"
        ));
    }
    let is_address = name.starts_with('[') || ends_in_a_number(name);
    if is_below && is_address {
        return Err(format!("an address has no subdomains; write {scheme}://{name}"));
    }
    if let Some(address) = name.strip_prefix('[') {
        let parsed = address.strip_suffix(']').and_then(|address| address.parse().ok()).ok_or_else(|| {
            format!("{name} is no IPv6 address, which is written as in {scheme}://[2001:db8::1], without a zone")
        })?;
        return Ok(HostPattern::Address(parsed));
    }
    if is_address && name.parse::<Ipv4Addr>().is_err() {
        return Err(format!(
            "{name} ends like an IPv4 address and is none, which is written as in {scheme}://192.0.2.1"
        ));
    }
    let wrong = |c: &char| !c.is_ascii_alphanumeric() && !"-._~".contains(*c);
    if let Some(wrong) = name.chars().find(wrong) {
        return Err(format!("a host has no {wrong:?}; write it as in {scheme}://example.com"));
    }
    let mut labels = name.strip_suffix('.').unwrap_or(name).split('.');
    let of_the_web = default_port(scheme).is_some();
    if of_the_web && (name.len() > 253 || labels.any(|label| label.is_empty() || label.len() > 63)) {
        return Err("no host has such a name: 1 to 63 characters between two dots, 253 in all".to_owned());
    }
    let name = name.to_ascii_lowercase();
    Ok(if is_below { HostPattern::Below(name) } else { HostPattern::Name(name) })
}

/// The URL standard takes such a host for an IPv4 address, and for nothing if it is none.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.strip_suffix('.').unwrap_or(host).rsplit('.').next().unwrap_or_default();
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit()))
        || hexadecimal.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn in_brackets(host: &str) -> Option<&str> {
    host.strip_prefix('[')?.strip_suffix(']')
}

/// Splits `host[:port]` (RFC 9110 §7.2) at the port; `None` for what is no host.
pub(crate) fn split_port(authority: &str) -> Option<(&str, Option<&str>)> {
    let host_end = match authority.strip_prefix('[') {
        Some(address) => address.find(']')? + 2,
        None => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(host_end);
    let well_formed = match host.strip_prefix('[') {
        Some(address) => address.bytes().all(|byte| byte.is_ascii_hexdigit() || b":.]".contains(&byte)),
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%".contains(&byte)),
    };
    if host.is_empty() || !well_formed {
        return None;
    }
    if port.is_empty() {
        return Some((host, None));
    }
    let digits = port.strip_prefix(':')?;
    let is_port = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    // The grammar lets the port be empty, which means the same as none.
    is_port.then_some((host, Some(digits).filter(|digits| !digits.is_empty())))
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Some(80),
        _ if scheme.eq_ignore_ascii_case("https") => Some(443),
        _ => None,
    }
}

/// A port as a number, `Some(None)` for the scheme's own; `None` for what is no port.
fn port_number(scheme: &str, port: Option<&str>) -> Option<Option<u16>> {
    let Some(port) = port else { return Some(None) };
    let port = port.parse().ok()?;
    Some(Some(port).filter(|port| default_port(scheme) != Some(*port)))
}

/// Whether `origin` (`scheme://host[:port]`) names `host`; a port left out is the scheme's own. The schemes
/// themselves can't be compared: behind a proxy that ends TLS, Host doesn't tell.
fn same_host(origin: &str, host: &str) -> bool {
    let Some((scheme, authority)) = origin.split_once("://") else { return false };
    if default_port(scheme).is_none() {
        return false;
    }
    let (Some((origin_host, origin_port)), Some((host, port))) = (split_port(authority), split_port(host)) else {
        return false;
    };
    let origin_port = port_number(scheme, origin_port);
    origin_host.eq_ignore_ascii_case(host) && origin_port.is_some() && origin_port == port_number(scheme, port)
}

/// How browsers most probably write a name (RFC 3492 for each label in lower case, without the mappings of IDNA): it is
/// only shown.
fn punycode_host(name: &str) -> String {
    let lower = name.to_lowercase().replace('。', ".");
    let labels = lower.split('.').map(|label| match label.is_ascii() {
        true => label.to_owned(),
        false => punycode_label(label).map_or_else(|| label.to_owned(), |ascii| format!("xn--{ascii}")),
    });
    labels.collect::<Vec<_>>().join(".")
}

/// RFC 3492 §6.3; `None` on overflow.
fn punycode_label(label: &str) -> Option<String> {
    let mut out: String = label.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let total = u32::try_from(label.chars().count()).ok()?;
    let (mut n, mut delta, mut bias, mut handled) = (128_u32, 0_u32, 72_u32, basic);
    while handled < total {
        let next = label.chars().map(u32::from).filter(|&c| c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(handled + 1)?)?;
        n = next;
        for c in label.chars().map(u32::from) {
            if c < n {
                delta = delta.checked_add(1)?;
            }
            if c != n {
                continue;
            }
            let (mut q, mut k) = (delta, 36);
            loop {
                let t = k.clamp(bias + 1, bias + 26) - bias;
                if q < t {
                    break;
                }
                out.push(digit(t + (q - t) % (36 - t)));
                q = (q - t) / (36 - t);
                k += 36;
            }
            out.push(digit(q));
            bias = adapt(delta, handled + 1, handled == basic);
            (delta, handled) = (0, handled + 1);
        }
        (delta, n) = (delta.checked_add(1)?, n + 1);
    }
    Some(out)
}

fn digit(value: u32) -> char {
    char::from(b"abcdefghijklmnopqrstuvwxyz0123456789"[value as usize % 36])
}

/// The adaptation of the bias (RFC 3492 §6.1).
fn adapt(delta: u32, points: u32, is_first: bool) -> u32 {
    let mut delta = if is_first { delta / 700 } else { delta / 2 };
    delta += delta / points;
    let mut k = 0;
    while delta > 455 {
        delta /= 35;
        k += 36;
    }
    k + 36 * delta / (delta + 38)
}

#[cfg(test)]
mod tests;
