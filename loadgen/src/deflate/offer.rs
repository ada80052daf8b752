//! The negotiation (RFC 7692, sections 5 and 7.1): one offer, and the answer held against it.
//!
//! Pure. Quoted values, which section 5.2 allows, are read like plain ones.

/// One offer of permessage-deflate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    text: String,
    server_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// Offered: with a value, or with none.
    client_max_window_bits: Option<Option<u8>>,
}

/// What client and server agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Agreed {
    /// The server begins each message afresh.
    pub server_no_context_takeover: bool,
    /// The client has to, too. This one always does.
    pub client_no_context_takeover: bool,
    /// The server's window, as a base-2 logarithm; none means 15.
    pub server_max_window_bits: Option<u8>,
    /// The client's; none means 15.
    pub client_max_window_bits: Option<u8>,
}

/// The parameters of an extension, each name once.
struct Parameters<'a>(Vec<(&'a str, Option<&'a str>)>);

impl<'a> Parameters<'a> {
    /// Reads `permessage-deflate; name; name=value`.
    fn read(text: &'a str) -> Result<Self, String> {
        if text.contains(',') {
            return Err(format!("more than one extension: {text}"));
        }
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        if !name.eq_ignore_ascii_case("permessage-deflate") {
            return Err(format!("the extension {name:?}, which is not permessage-deflate"));
        }
        let mut all: Vec<(&str, Option<&str>)> = Vec::new();
        for part in parts {
            let (name, value) = match part.split_once('=') {
                Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
                None => (part, None),
            };
            let value = value.map(|value| value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value));
            if all.iter().any(|(other, _)| *other == name) {
                return Err(format!("the parameter {name} twice"));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    fn take(&mut self, name: &str) -> Option<Option<&'a str>> {
        let at = self.0.iter().position(|(other, _)| *other == name)?;
        Some(self.0.swap_remove(at).1)
    }

    fn flag(&mut self, name: &str) -> Result<bool, String> {
        match self.take(name) {
            None => Ok(false),
            Some(None) => Ok(true),
            Some(Some(value)) => Err(format!("{name} with the value {value:?}, but it has none")),
        }
    }

    fn bits(&mut self, name: &str) -> Result<Option<Option<u8>>, String> {
        self.take(name).map(|value| value.map(|value| window_bits(name, value)).transpose()).transpose()
    }

    /// Nothing else was there.
    fn end(self) -> Result<(), String> {
        self.0.first().map_or(Ok(()), |(name, _)| Err(format!("the unknown parameter {name:?}")))
    }
}

/// 8 to 15 without leading zeros (section 7.1.2).
fn window_bits(name: &str, value: &str) -> Result<u8, String> {
    let bits = value.parse().ok().filter(|bits| (8..=15).contains(bits) && !value.starts_with(['0', '+']));
    bits.ok_or_else(|| format!("{name}={value}, but it is from 8 to 15"))
}

impl Offer {
    /// Reads what is to be offered.
    ///
    /// # Errors
    /// What no client may offer.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parameters = Parameters::read(text)?;
        let server_max_window_bits = match parameters.bits("server_max_window_bits")? {
            Some(None) => return Err("server_max_window_bits needs a value".to_owned()),
            other => other.flatten(),
        };
        let offer = Self {
            text: text.to_owned(),
            server_no_context_takeover: parameters.flag("server_no_context_takeover")?,
            server_max_window_bits,
            client_max_window_bits: parameters.bits("client_max_window_bits")?,
        };
        // It promises what this client does anyway.
        parameters.flag("client_no_context_takeover")?;
        parameters.end()?;
        Ok(offer)
    }

    /// As it stands in the request.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Holds the server's `Sec-WebSocket-Extensions` against the offer.
    ///
    /// # Errors
    /// What a server may not answer to it (section 7.1), for people.
    pub fn agree(&self, answer: &str) -> Result<Agreed, String> {
        let mut parameters = Parameters::read(answer)?;
        let agreed = Agreed {
            server_no_context_takeover: parameters.flag("server_no_context_takeover")?,
            client_no_context_takeover: parameters.flag("client_no_context_takeover")?,
            server_max_window_bits: valued("server_max_window_bits", &mut parameters)?,
            client_max_window_bits: valued("client_max_window_bits", &mut parameters)?,
        };
        parameters.end()?;
        if self.server_no_context_takeover && !agreed.server_no_context_takeover {
            return Err("no server_no_context_takeover, though it was asked for".to_owned());
        }
        if let Some(asked) = self.server_max_window_bits
            && agreed.server_max_window_bits.is_none_or(|bits| bits > asked)
        {
            return Err(format!("no server_max_window_bits of {asked} or less, though it was asked for"));
        }
        match (self.client_max_window_bits, agreed.client_max_window_bits) {
            (None, Some(_)) => return Err("client_max_window_bits, which was not offered".to_owned()),
            (Some(Some(most)), Some(bits)) if bits > most => {
                return Err(format!("client_max_window_bits={bits}, more than the {most} that were offered"));
            }
            // Allowed; but the library that compresses here has no such window.
            (_, Some(8)) => return Err("client_max_window_bits=8, for which this client has no compressor".to_owned()),
            _ => {}
        }
        Ok(agreed)
    }
}

/// A window that an answer may tell of, with a value.
fn valued(name: &str, parameters: &mut Parameters<'_>) -> Result<Option<u8>, String> {
    match parameters.bits(name)? {
        Some(None) => Err(format!("{name} without a value")),
        other => Ok(other.flatten()),
    }
}

impl std::fmt::Display for Agreed {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("permessage-deflate")?;
        let flags = [
            ("server_no_context_takeover", self.server_no_context_takeover),
            ("client_no_context_takeover", self.client_no_context_takeover),
        ];
        for (name, _) in flags.iter().filter(|(_, is_set)| *is_set) {
            write!(out, "; {name}")?;
        }
        let windows = [
            ("server_max_window_bits", self.server_max_window_bits),
            ("client_max_window_bits", self.client_max_window_bits),
        ];
        for (name, bits) in windows {
            bits.map_or(Ok(()), |bits| write!(out, "; {name}={bits}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_are_read_or_refused() {
        for good in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;server_no_context_takeover ; server_max_window_bits=9",
            "permessage-deflate; client_max_window_bits=12; client_no_context_takeover; server_max_window_bits=\"15\"",
        ] {
            assert!(Offer::parse(good).is_ok_and(|offer| offer.text() == good), "{good}");
        }
        for bad in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate, permessage-deflate",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; server_max_window_bits=09",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; level=1",
        ] {
            assert!(Offer::parse(bad).is_err(), "{bad}");
        }
    }

    fn answered(offer: &str, answer: &str) -> Result<String, String> {
        let answer = format!("permessage-deflate{answer}");
        let offer = Offer::parse(&format!("permessage-deflate{offer}")).unwrap();
        offer.agree(&answer).map(|agreed| agreed.to_string().replace("permessage-deflate", ""))
    }

    #[test]
    fn answers_are_held_against_the_offer() {
        for (offer, answer) in [
            ("", ""),
            // Both may be there unasked (7.1.1.1, 7.1.1.2), and so may the server's window (7.1.2.1).
            ("", "; server_no_context_takeover; client_no_context_takeover"),
            ("", "; server_max_window_bits=8"),
            ("; server_no_context_takeover", "; server_no_context_takeover"),
            ("; server_max_window_bits=12", "; server_max_window_bits=10"),
            ("; client_max_window_bits", ""),
            ("; client_max_window_bits", "; client_max_window_bits=15"),
            ("; client_max_window_bits=11", "; client_max_window_bits=9"),
        ] {
            assert_eq!(answered(offer, answer).as_deref(), Ok(answer), "{offer}");
        }
        for (offer, answer, why) in [
            ("", "; client_max_window_bits=15", "not offered"),
            ("; client_max_window_bits", "; client_max_window_bits", "without a value"),
            ("; client_max_window_bits=11", "; client_max_window_bits=12", "more than the 11"),
            ("; client_max_window_bits", "; client_max_window_bits=8", "no compressor"),
            ("; server_max_window_bits=12", "; server_max_window_bits=13", "of 12 or less"),
            ("; server_max_window_bits=12", "", "of 12 or less"),
            ("; server_no_context_takeover", "", "though it was asked for"),
            ("", "; server_no_context_takeover=1", "it has none"),
            ("", "; server_no_context_takeover; server_no_context_takeover", "twice"),
            ("", "; server_max_window_bits=16", "from 8 to 15"),
            ("", "; unknown", "unknown parameter"),
            ("", ", permessage-deflate", "more than one extension"),
        ] {
            let told = answered(offer, answer).unwrap_err();
            assert!(told.contains(why), "{offer} answered {answer}: {told}");
        }
        let offer = Offer::parse("permessage-deflate").unwrap();
        assert!(offer.agree("permessage-bzip2").unwrap_err().contains("not permessage-deflate"));
    }
}
