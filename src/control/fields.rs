//! The fields of a request: a JSON object or a query in, one value by name and type at a time out. What is wrong is
//! said in the words of docs/api.md: the field's name and what is expected there. Knows no endpoint. Called by `input`.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fault::Fault;

/// The known fields of one JSON object; others are ignored.
#[derive(Debug)]
pub struct Fields<'a> {
    /// What stands before a name in an error: empty, or the outer field's name and a dot.
    prefix: &'static str,
    known: &'static [&'static str],
    /// The value of each known field, as it was written.
    values: Vec<Option<&'a RawValue>>,
}

impl<'a> Fields<'a> {
    /// The fields of a request's body.
    ///
    /// # Errors
    /// When it is not a JSON object in UTF-8, or a known field is there twice.
    pub fn of_body(body: &'a [u8], known: &'static [&'static str]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(body).map_err(|_| Fault::malformed("the body is not UTF-8"))?;
        if !starts_an_object(text) {
            return Err(Fault::malformed("the body must be a JSON object: {\"name\": value, …}"));
        }
        Self::read(text, "", known)
    }

    fn read(text: &'a str, prefix: &'static str, known: &'static [&'static str]) -> Result<Self, Fault> {
        let mut values = vec![None; known.len()];
        let mut repeated = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let seed = Collect { known, values: &mut values, repeated: &mut repeated };
        seed.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            Fault::malformed(format!("the body is not JSON: it can't be read from line {line}, column {column}"))
        })?;
        match repeated {
            Some(name) => Err(Fault::malformed(format!("{prefix}{name} is there twice"))),
            None => Ok(Self { prefix, known, values }),
        }
    }

    /// The value as it was written. `null` is a value here.
    pub fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let at = self.known.iter().position(|known| *known == name).expect("a field that the endpoint knows");
        self.values[at]
    }

    /// The value as it was written; `None` also for `null`.
    fn given(&self, name: &str) -> Option<&'a str> {
        self.raw(name).map(RawValue::get).filter(|value| *value != "null")
    }

    /// Whether there is a value other than `null`.
    pub fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    fn wrong(&self, name: &str, expected: &str) -> Fault {
        Fault::malformed(format!("{}{name} must be {expected}", self.prefix))
    }

    /// A value that has to be there.
    ///
    /// # Errors
    /// When it is not.
    pub fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, Fault> {
        value.ok_or_else(|| Fault::malformed(format!("{}{name} is missing", self.prefix)))
    }

    /// A text.
    ///
    /// # Errors
    /// When it is something else.
    pub fn text(&self, name: &str) -> Result<Option<String>, Fault> {
        self.given(name).map(|value| self.text_of(name, value)).transpose()
    }

    fn text_of(&self, name: &str, value: &str) -> Result<String, Fault> {
        if !value.starts_with('"') {
            return Err(self.wrong(name, "a text in quotes"));
        }
        serde_json::from_str(value)
            .map_err(|_| Fault::malformed(format!("{}{name} has an escape that stands for no character", self.prefix)))
    }

    /// A list of texts.
    ///
    /// # Errors
    /// When it is something else.
    pub fn texts(&self, name: &str) -> Result<Option<Vec<String>>, Fault> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let elements: Vec<&RawValue> =
            serde_json::from_str(value).map_err(|_| self.wrong(name, "a list of texts: [\"…\", \"…\"]"))?;
        let text = |(at, element): (usize, &&RawValue)| self.text_of(&format!("{name}[{at}]"), element.get());
        elements.iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// A number without sign, fraction and exponent.
    ///
    /// # Errors
    /// When it is something else; `expected` says what is expected.
    pub fn whole(&self, name: &str, expected: &str) -> Result<Option<u64>, Fault> {
        self.given(name).map(|value| whole(value).ok_or_else(|| self.wrong(name, expected))).transpose()
    }

    /// `true` or `false`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn flag(&self, name: &str) -> Result<Option<bool>, Fault> {
        match self.given(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// Any value that is not `null`.
    pub fn value(&self, name: &str) -> Option<serde_json::Value> {
        // An escape that stands for no character makes it no value of a kind that anybody takes.
        self.given(name).map(|value| serde_json::from_str(value).unwrap_or_default())
    }

    /// The fields of an object inside; `prefix` is its name and a dot.
    ///
    /// # Errors
    /// When it is something else, or a known field is there twice.
    pub fn object(
        &self,
        name: &str,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Result<Option<Fields<'a>>, Fault> {
        let Some(value) = self.given(name) else { return Ok(None) };
        if !starts_an_object(value) {
            return Err(self.wrong(name, &format!("an object with {}", known.join(" and "))));
        }
        Self::read(value, prefix, known).map(Some)
    }
}

fn starts_an_object(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{')
}

/// The digits of a number, as JSON and a query write it.
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Reads an object and keeps the values of the known fields.
struct Collect<'a, 'b> {
    known: &'static [&'static str],
    values: &'b mut Vec<Option<&'a RawValue>>,
    repeated: &'b mut Option<&'static str>,
}

impl<'a> DeserializeSeed<'a> for Collect<'a, '_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'a>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Collect<'a, '_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'a>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<Cow<'_, str>>()? {
            match self.known.iter().position(|known| *known == name) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(at) => {
                    if self.values[at].replace(map.next_value()?).is_some() {
                        self.repeated.get_or_insert(self.known[at]);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The known parameters of a query; others are ignored.
#[derive(Debug)]
pub struct Parameters<'a> {
    pairs: &'a [(String, String)],
}

impl<'a> Parameters<'a> {
    /// The parameters of a query that was taken apart.
    ///
    /// # Errors
    /// When a known one is there twice.
    pub fn new(pairs: &'a [(String, String)], known: &[&str]) -> Result<Self, Fault> {
        let count = |name: &str| pairs.iter().filter(|(other, _)| other == name).count();
        match known.iter().find(|name| count(name) > 1) {
            Some(name) => Err(Fault::malformed(format!("{name} is there twice"))),
            None => Ok(Self { pairs }),
        }
    }

    /// A text.
    pub fn text(&self, name: &str) -> Option<String> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    /// A number without sign, fraction and exponent.
    ///
    /// # Errors
    /// When it is something else; `expected` says what is expected.
    pub fn whole(&self, name: &str, expected: &str) -> Result<Option<u64>, Fault> {
        let wrong = || Fault::malformed(format!("{name} must be {expected}"));
        self.text(name).map(|value| whole(&value).ok_or_else(wrong)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["a", "b"];

    fn message(fault: &Fault) -> String {
        serde_json::to_value(fault.shown()).expect("JSON")["message"].as_str().expect("a text").to_owned()
    }

    fn refused(body: &str) -> String {
        message(&Fields::of_body(body.as_bytes(), KNOWN).expect_err(body))
    }

    #[test]
    fn only_an_object_has_fields() {
        for body in ["", " ", "[]", "[1]", "[[\"a\",1]]", "\"a\"", "1", "null", "true", "\u{feff}{}", "x", "<a/>"] {
            assert_eq!(refused(body), "the body must be a JSON object: {\"name\": value, …}", "{body:?}");
        }
        for body in ["{", "{\"a\"}", "{\"a\":1", "{\"a\":1}}", "{\"a\":1} {}", "{a:1}", "{\"a\":01}", "{\"a\":1,}"] {
            assert!(refused(body).starts_with("the body is not JSON: it can't be read from line 1, column "), "{body}");
        }
        let fields = Fields::of_body(b" \r\n\t{\"x\":[{}],\"b\":2,\"x\":0}\n", KNOWN).expect("an object");
        assert!(!fields.has("a") && fields.has("b"));
    }

    #[test]
    fn a_known_field_is_there_once() {
        assert_eq!(refused("{\"b\":1,\"a\":1,\"b\":1}"), "b is there twice");
        // However it is written.
        assert_eq!(refused("{\"a\":null,\"\\u0061\":null}"), "a is there twice");
        let pairs = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "1".to_owned())];
        assert_eq!(message(&Parameters::new(&pairs, KNOWN).expect_err("twice")), "a is there twice");
        assert!(Parameters::new(&pairs, &["b"]).is_ok());
    }

    #[test]
    fn each_type_is_asked_for_by_its_name() {
        let with = |value: &str| format!("{{\"a\":{value}}}");
        let all = ["1", "-1", "1.0", "1e0", "18446744073709551616", "\"x\"", "true", "[]", "{}", "[1]", "\"\\ud800\""];
        let texts = ["\"x\""];
        let wholes = ["1"];
        for value in all {
            let body = with(value);
            let fields = Fields::of_body(body.as_bytes(), KNOWN).expect("an object");
            assert_eq!(fields.text("a").is_ok(), texts.contains(&value), "{value} as a text");
            assert_eq!(fields.whole("a", "a number").is_ok(), wholes.contains(&value), "{value} as a number");
            assert_eq!(fields.flag("a").is_ok(), value == "true", "{value} as a flag");
            assert_eq!(fields.object("a", "a.", KNOWN).is_ok(), value == "{}", "{value} as an object");
            assert_eq!(fields.texts("a").is_ok(), value == "[]", "{value} as a list of texts");
        }
        let body = with("null");
        let fields = Fields::of_body(body.as_bytes(), KNOWN).expect("an object");
        assert_eq!((fields.text("a").unwrap_or_default(), fields.raw("a").is_some()), (None, true));
        let said = |body: &str, what: fn(&Fields<'_>) -> Option<Fault>| {
            message(&what(&Fields::of_body(body.as_bytes(), KNOWN).expect(body)).expect(body))
        };
        assert_eq!(said("{\"a\":1}", |fields| fields.text("a").err()), "a must be a text in quotes");
        assert_eq!(said("{\"a\":[\"x\",1]}", |fields| fields.texts("a").err()), "a[1] must be a text in quotes");
        assert_eq!(said("{\"a\":[1]}", |f| f.object("a", "a.", KNOWN).err()), "a must be an object with a and b");
        assert_eq!(said("{\"a\":{\"b\":1,\"b\":1}}", |f| f.object("a", "a.", KNOWN).err()), "a.b is there twice");
    }
}
