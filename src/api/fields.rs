//! The fields of a request: a JSON object or a query goes in, and `input` takes out one value at a time by name and type.
//! An error names the field and what is expected there, in the words of docs/api.md. This file knows no endpoint.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use super::error::ApiError;

/// The value of each known field, as it was written. No endpoint knows more than eight.
type FieldValues<'a> = SmallVec<[Option<&'a RawValue>; 8]>;

/// The known fields of one JSON object; others are ignored.
#[derive(Debug)]
pub(crate) struct JsonFields<'a> {
    /// What has the fields, for errors: the body, or a line of it.
    subject: &'static str,
    /// What precedes a name in an error: nothing, or the outer field's name and a dot.
    prefix: &'static str,
    known: &'static [&'static str],
    /// The value of each known field, as it was written.
    values: FieldValues<'a>,
}

impl<'a> JsonFields<'a> {
    /// The fields of a request's body. `known` are the names that the endpoint takes.
    ///
    /// # Errors
    /// When the body is not a JSON object in UTF-8, or has a known field twice.
    pub(crate) fn of_body(body: &'a [u8], known: &'static [&'static str]) -> Result<Self, ApiError> {
        Self::of_text("body", body, known)
    }

    /// The fields of one line of a request's body. `known` are the names that a line takes.
    ///
    /// # Errors
    /// When the line is not a JSON object in UTF-8, or has a known field twice.
    pub(crate) fn of_line(line: &'a [u8], known: &'static [&'static str]) -> Result<Self, ApiError> {
        Self::of_text("line", line, known)
    }

    fn of_text(subject: &'static str, text: &'a [u8], known: &'static [&'static str]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(text).map_err(|_| ApiError::malformed(format!("the {subject} is not UTF-8")))?;
        if !starts_an_object(text) {
            let message = format!("the {subject} must be a JSON object: {{\"name\": value, …}}");
            return Err(ApiError::malformed(message));
        }
        Self::read(subject, text, "", known)
    }

    fn read(
        subject: &'static str,
        text: &'a str,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Result<Self, ApiError> {
        let mut values: FieldValues<'a> = SmallVec::from_elem(None, known.len());
        let mut repeated = None;
        let mut json = serde_json::Deserializer::from_str(text);
        let seed = Collect { known, values: &mut values, repeated: &mut repeated };
        seed.deserialize(&mut json).and_then(|()| json.end()).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            ApiError::malformed(match subject {
                "body" => format!("the body is not JSON: the error is at line {line}, column {column}"),
                _ => format!("the {subject} is not JSON: the error is at column {column}"),
            })
        })?;
        match repeated {
            Some(name) => Err(ApiError::malformed(format!("the {subject} has {prefix}{name} twice"))),
            None => Ok(Self { subject, prefix, known, values }),
        }
    }

    /// The value as it was written; `null` counts as a value.
    pub(crate) fn raw(&self, name: &str) -> Option<&'a RawValue> {
        let at = self.known.iter().position(|known| *known == name).expect("a field that the endpoint knows");
        self.values[at]
    }

    /// The value as it was written; `None` for `null` too.
    fn given(&self, name: &str) -> Option<&'a str> {
        self.raw(name).map(RawValue::get).filter(|value| *value != "null")
    }

    /// Whether there is a value other than `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.given(name).is_some()
    }

    fn wrong(&self, name: &str, expected: &str) -> ApiError {
        ApiError::malformed(format!("{}{name} must be {expected}", self.prefix))
    }

    /// The value of a field that the endpoint cannot do without.
    ///
    /// # Errors
    /// When there is no value.
    pub(crate) fn required<T>(&self, name: &str, value: Option<T>) -> Result<T, ApiError> {
        value.ok_or_else(|| ApiError::malformed(format!("{}{name} is missing", self.prefix)))
    }

    /// The value as a text; `None` if there is none.
    ///
    /// # Errors
    /// When the value is not a text.
    pub(crate) fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
        self.given(name).map(|value| self.text_of(name, value)).transpose()
    }

    fn text_of<'v>(&self, name: &str, value: &'v str) -> Result<Cow<'v, str>, ApiError> {
        if !value.starts_with('"') {
            return Err(self.wrong(name, "a text in quotes"));
        }
        if let Some(text) = plain_text(value) {
            return Ok(Cow::Borrowed(text));
        }
        serde_json::from_str(value).map(Cow::Owned).map_err(|_| {
            ApiError::malformed(format!("{}{name} has half of a surrogate pair, which is no character", self.prefix))
        })
    }

    /// The value as a list of texts; `None` if there is none.
    ///
    /// # Errors
    /// When the value is not a list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<Cow<'a, str>>>, ApiError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        let elements: Vec<&'a RawValue> =
            serde_json::from_str(value).map_err(|_| self.wrong(name, "a list of texts: [\"…\", \"…\"]"))?;
        let text = |(at, element): (usize, &'a RawValue)| match plain_text(element.get()) {
            Some(text) => Ok(Cow::Borrowed(text)),
            None => self.text_of(&format!("{name}[{at}]"), element.get()),
        };
        elements.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Some)
    }

    /// The value as a number that is written with digits only; `None` if there is none.
    ///
    /// # Errors
    /// When the value is anything else. `expected` says in the error what is expected.
    pub(crate) fn whole(&self, name: &str, expected: &str) -> Result<Option<u64>, ApiError> {
        self.given(name).map(|value| whole(value).ok_or_else(|| self.wrong(name, expected))).transpose()
    }

    /// The value as `true` or `false`; `None` if there is none.
    ///
    /// # Errors
    /// When the value is neither of the two.
    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.given(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(self.wrong(name, "true or false")),
        }
    }

    /// The value, of any type; `None` for `null` too.
    pub(crate) fn value(&self, name: &str) -> Option<serde_json::Value> {
        // Only half of a surrogate pair fails here. It becomes `null`, which no caller accepts.
        self.given(name).map(|value| serde_json::from_str(value).unwrap_or_default())
    }

    /// The fields of an object within this one; `prefix` is its name and a dot.
    ///
    /// # Errors
    /// When the value is not an object, or has a known field twice.
    pub(crate) fn object(
        &self,
        name: &str,
        prefix: &'static str,
        known: &'static [&'static str],
    ) -> Result<Option<JsonFields<'a>>, ApiError> {
        let Some(value) = self.given(name) else { return Ok(None) };
        if !starts_an_object(value) {
            return Err(self.wrong(name, &format!("an object with {}", known.join(" and "))));
        }
        Self::read(self.subject, value, prefix, known).map(Some)
    }
}

/// The text that a JSON value is between its quotes, if it is one without escapes.
fn plain_text(value: &str) -> Option<&str> {
    let text = value.strip_prefix('"')?.strip_suffix('"')?;
    memchr::memchr(b'\\', text.as_bytes()).is_none().then_some(text)
}

fn starts_an_object(text: &str) -> bool {
    text.trim_start_matches([' ', '\t', '\n', '\r']).starts_with('{')
}

/// Reads a number that is written with digits only.
fn whole(digits: &str) -> Option<u64> {
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// Reads an object and keeps the values of its known fields, undecoded.
struct Collect<'a, 'b> {
    known: &'static [&'static str],
    values: &'b mut FieldValues<'a>,
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
        while let Some(at) = map.next_key_seed(FieldPlace { known: self.known })? {
            match at {
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

/// Reads a field's name and finds its place among the known ones. `None` if it is not known.
struct FieldPlace {
    known: &'static [&'static str],
}

impl<'a> DeserializeSeed<'a> for FieldPlace {
    type Value = Option<usize>;

    fn deserialize<D: serde::Deserializer<'a>>(self, json: D) -> Result<Option<usize>, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldPlace {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.known.iter().position(|known| *known == name))
    }
}

/// The known parameters of a query; others are ignored.
#[derive(Debug)]
pub(crate) struct QueryFields<'a> {
    pairs: &'a [(String, String)],
}

impl<'a> QueryFields<'a> {
    /// The known parameters among the names and values of a query.
    ///
    /// # Errors
    /// When a known parameter is given twice.
    pub(crate) fn new(pairs: &'a [(String, String)], known: &[&str]) -> Result<Self, ApiError> {
        let count = |name: &str| pairs.iter().filter(|(other, _)| other == name).count();
        match known.iter().find(|name| count(name) > 1) {
            Some(name) => Err(ApiError::malformed(format!("the query has {name} twice"))),
            None => Ok(Self { pairs }),
        }
    }

    /// The parameter's value; `None` if it is not given.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone())
    }

    /// The value as a number that is written with digits only; `None` if there is none.
    ///
    /// # Errors
    /// When the value is anything else. `expected` says in the error what is expected.
    pub(crate) fn whole(&self, name: &str, expected: &str) -> Result<Option<u64>, ApiError> {
        let wrong = || ApiError::malformed(format!("{name} must be {expected}"));
        self.text(name).map(|value| whole(&value).ok_or_else(wrong)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["a", "b"];

    fn message(error: &ApiError) -> String {
        error.message().to_owned()
    }

    fn refused(body: &str) -> String {
        message(&JsonFields::of_body(body.as_bytes(), KNOWN).expect_err(body))
    }

    #[test]
    fn only_an_object_has_fields() {
        for body in ["", " ", "[]", "[1]", "[[\"a\",1]]", "\"a\"", "1", "null", "true", "\u{feff}{}", "x", "<a/>"] {
            assert_eq!(refused(body), "the body must be a JSON object: {\"name\": value, …}", "{body:?}");
        }
        for body in ["{", "{\"a\"}", "{\"a\":1", "{\"a\":1}}", "{\"a\":1} {}", "{a:1}", "{\"a\":01}", "{\"a\":1,}"] {
            assert!(refused(body).starts_with("the body is not JSON: the error is at line 1, column "), "{body}");
        }
        let fields = JsonFields::of_body(b" \r\n\t{\"x\":[{}],\"b\":2,\"x\":0}\n", KNOWN).expect("an object");
        assert!(!fields.has("a") && fields.has("b"));
    }

    #[test]
    fn a_known_field_is_there_once() {
        assert_eq!(refused("{\"b\":1,\"a\":1,\"b\":1}"), "the body has b twice");
        // However it is written.
        assert_eq!(refused("{\"a\":null,\"\\u0061\":null}"), "the body has a twice");
        let pairs = [("a".to_owned(), "1".to_owned()), ("a".to_owned(), "1".to_owned())];
        assert_eq!(message(&QueryFields::new(&pairs, KNOWN).expect_err("twice")), "the query has a twice");
        assert!(QueryFields::new(&pairs, &["b"]).is_ok());
    }

    #[test]
    fn each_type_is_asked_for_by_its_name() {
        let with = |value: &str| format!("{{\"a\":{value}}}");
        let all = ["1", "-1", "1.0", "1e0", "18446744073709551616", "\"x\"", "true", "[]", "{}", "[1]", "\"\\ud800\""];
        let texts = ["\"x\""];
        let wholes = ["1"];
        for value in all {
            let body = with(value);
            let fields = JsonFields::of_body(body.as_bytes(), KNOWN).expect("an object");
            assert_eq!(fields.text("a").is_ok(), texts.contains(&value), "{value} as a text");
            assert_eq!(fields.whole("a", "a number").is_ok(), wholes.contains(&value), "{value} as a number");
            assert_eq!(fields.flag("a").is_ok(), value == "true", "{value} as a flag");
            assert_eq!(fields.object("a", "a.", KNOWN).is_ok(), value == "{}", "{value} as an object");
            assert_eq!(fields.texts("a").is_ok(), value == "[]", "{value} as a list of texts");
        }
        let body = with("null");
        let fields = JsonFields::of_body(body.as_bytes(), KNOWN).expect("an object");
        assert_eq!((fields.text("a").unwrap_or_default(), fields.raw("a").is_some()), (None, true));
        let said = |body: &str, what: fn(&JsonFields<'_>) -> Option<ApiError>| {
            message(&what(&JsonFields::of_body(body.as_bytes(), KNOWN).expect(body)).expect(body))
        };
        assert_eq!(said("{\"a\":1}", |fields| fields.text("a").err()), "a must be a text in quotes");
        assert_eq!(said("{\"a\":[\"x\",1]}", |fields| fields.texts("a").err()), "a[1] must be a text in quotes");
        assert_eq!(said("{\"a\":[1]}", |f| f.object("a", "a.", KNOWN).err()), "a must be an object with a and b");
        assert_eq!(said("{\"a\":{\"b\":1,\"b\":1}}", |f| f.object("a", "a.", KNOWN).err()), "the body has a.b twice");
    }
}
