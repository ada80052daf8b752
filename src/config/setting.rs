//! The types of keys, and the macro `settings!`. A [`Setting`] can be read from TOML and from plain text, and be shown as
//! TOML. The macro turns a commented list of keys into a struct with defaults, checks and a description. This file knows
//! no key by name.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use rand::RngExt;
use serde::de::value::{Error as TextError, StrDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer};
use serde::{Deserialize, Serialize};
use toml::Spanned;
use toml::de::DeValue;

/// A day in milliseconds: the longest time that most settings may name.
pub(super) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// A value that is being read into a key.
pub(super) enum Raw<'a> {
    /// A value of the file, which is valid TOML.
    Toml(Spanned<DeValue<'a>>),
    /// The text of a variable or a flag. A number is its digits, and a list has commas or is JSON.
    Text(&'a str),
}

/// Why a value cannot be read into its key.
#[derive(Debug)]
pub(super) enum SettingError {
    /// The key does not exist.
    Unknown,
    /// The value is wrong. `at` is the byte offset in the file, if it is more exact than the key's.
    Invalid { problem: String, at: Option<usize> },
}

impl SettingError {
    pub(super) fn invalid(problem: impl Into<String>) -> SettingError {
        SettingError::Invalid { problem: problem.into(), at: None }
    }
}

/// How a value is shown to the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ShownValue {
    /// The value as TOML.
    Plain(String),
    /// The key has no value.
    Unset,
    /// The value as TOML without its secret parts. It must not be read back.
    Redacted(String),
}

/// A type that a key may have.
pub(super) trait Setting: DeserializeOwned {
    /// What the operator should have written, to follow "must be".
    const WANTED: &'static str;

    /// Reads a value of the file.
    fn from_toml(value: Spanned<DeValue<'_>>) -> Result<Self, SettingError> {
        let found = value.get_ref().type_str();
        Self::deserialize(value.into_deserializer()).map_err(|error| SettingError::Invalid {
            // The library's message names unknown fields inside a list. For the rest our message is clearer.
            problem: match error.message() {
                message if message.starts_with("unknown field") => message.to_owned(),
                message if message.starts_with("missing field") => message.to_owned(),
                _ => format!("must be {}, and this is not (it is of type {found})", Self::WANTED),
            },
            at: error.span().map(|span| span.start),
        })
    }

    /// Reads the text of a variable or a flag.
    fn from_text(text: &str) -> Result<Self, SettingError> {
        let deserializer: StrDeserializer<'_, TextError> = text.into_deserializer();
        Self::deserialize(deserializer).map_err(|_| SettingError::invalid(format!("must be {}", Self::WANTED)))
    }

    /// Shows the value as TOML.
    fn show(&self) -> ShownValue;

    /// Reads a value of any source.
    fn read(raw: Raw<'_>) -> Result<Self, SettingError> {
        match raw {
            Raw::Toml(value) => Self::from_toml(value),
            Raw::Text(text) => Self::from_text(text),
        }
    }
}

/// Shows any value that serde can write, as an inline TOML value.
pub(super) fn show_plain(value: &impl Serialize) -> ShownValue {
    match toml::Value::try_from(value) {
        Ok(value) => ShownValue::Plain(value.to_string()),
        Err(_) => ShownValue::Unset,
    }
}

/// Implements `Setting` for types whose plain text is what serde reads from a string.
macro_rules! textual {
    ($($Type:ty: $wanted:literal;)*) => {$(
        impl $crate::config::setting::Setting for $Type {
            const WANTED: &'static str = $wanted;
            fn show(&self) -> $crate::config::setting::ShownValue {
                $crate::config::setting::show_plain(self)
            }
        }
    )*};
}
pub(super) use textual;

textual! {
    String: "a text";
    PathBuf: "a path";
}

/// Implements `Setting` for types whose plain text is what `FromStr` reads.
macro_rules! parsed {
    ($($Type:ty: $wanted:literal;)*) => {$(
        impl Setting for $Type {
            const WANTED: &'static str = $wanted;
            fn from_text(text: &str) -> Result<Self, SettingError> {
                text.trim().parse().map_err(|_| SettingError::invalid(concat!("must be ", $wanted)))
            }
            fn show(&self) -> ShownValue {
                show_plain(self)
            }
        }
    )*};
}

parsed! {
    u8: "a whole number from 0 to 255";
    u16: "a whole number from 0 to 65535";
    u32: "a whole number, 0 or more";
    u64: "a whole number, 0 or more";
    usize: "a whole number, 0 or more";
}

impl Setting for bool {
    const WANTED: &'static str = "true or false";

    fn from_text(text: &str) -> Result<bool, SettingError> {
        match text.trim() {
            // People write 1 and 0 into environment variables.
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            _ => Err(SettingError::invalid("must be true or false")),
        }
    }

    fn show(&self) -> ShownValue {
        show_plain(self)
    }
}

impl<T: Setting> Setting for Option<T> {
    const WANTED: &'static str = T::WANTED;

    fn from_toml(value: Spanned<DeValue<'_>>) -> Result<Self, SettingError> {
        T::from_toml(value).map(Some)
    }

    fn from_text(text: &str) -> Result<Self, SettingError> {
        T::from_text(text).map(Some)
    }

    fn show(&self) -> ShownValue {
        self.as_ref().map_or(ShownValue::Unset, Setting::show)
    }
}

/// An element of a list. In a variable such a list can be written without JSON.
pub(super) trait ListElement: DeserializeOwned {
    const WANTED_LIST: &'static str;
    fn from_word(word: &str) -> Option<Self>;
    fn show_list(list: &[Self]) -> ShownValue;
}

impl ListElement for String {
    const WANTED_LIST: &'static str = "a list of texts";

    fn from_word(word: &str) -> Option<String> {
        Some(word.to_owned())
    }

    fn show_list(list: &[String]) -> ShownValue {
        show_plain(&list)
    }
}

impl<T: ListElement> Setting for Vec<T> {
    const WANTED: &'static str = T::WANTED_LIST;

    fn from_text(text: &str) -> Result<Self, SettingError> {
        let text = text.trim();
        if text.starts_with('[') {
            // Only the position: the library's message might quote a secret.
            return serde_json::from_str(text).map_err(|error| {
                let (wanted, column) = (T::WANTED_LIST, error.column());
                SettingError::invalid(format!("must be {wanted}; the JSON is wrong at column {column}"))
            });
        }
        text.split(',')
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .map(|word| {
                T::from_word(word)
                    .ok_or_else(|| SettingError::invalid(format!("must be {}, here as JSON", T::WANTED_LIST)))
            })
            .collect()
    }

    fn show(&self) -> ShownValue {
        T::show_list(self)
    }
}

/// A secret text. Neither `Debug` nor `uringcast config` shows it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Secret {
        Secret::new(text)
    }
}

impl Secret {
    /// Keeps a secret. Line ends at its end are removed, because `echo` and editors add them.
    pub fn new(text: impl Into<String>) -> Secret {
        let mut text = text.into();
        text.truncate(text.trim_end_matches(['\r', '\n']).len());
        Secret(text)
    }

    /// Makes a secret of 256 random bits, for dev mode.
    pub(crate) fn random() -> Secret {
        use base64::Engine;
        let bytes: [u8; 32] = rand::rng().random();
        Secret(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The secret text. It must not be logged or shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"…\"")
    }
}

impl Setting for Secret {
    const WANTED: &'static str = "a text";

    fn show(&self) -> ShownValue {
        ShownValue::Redacted("\"…\"".to_owned())
    }
}

impl ListElement for Secret {
    const WANTED_LIST: &'static str = "a list of texts";

    fn from_word(word: &str) -> Option<Secret> {
        Some(Secret::new(word))
    }

    fn show_list(list: &[Secret]) -> ShownValue {
        match list {
            [] => ShownValue::Plain("[]".to_owned()),
            _ => ShownValue::Redacted(format!("[{}]", vec!["\"…\""; list.len()].join(", "))),
        }
    }
}

/// A check that a number lies within bounds.
pub(super) fn range<T>(bounds: RangeInclusive<T>) -> impl Fn(&T) -> Result<(), String>
where
    T: PartialOrd + fmt::Display,
{
    move |value| match bounds.contains(value) {
        true => Ok(()),
        false => {
            let (low, high) = (bounds.start(), bounds.end());
            Err(format!("must be from {low} to {high}, not {value}"))
        }
    }
}

/// A check of a value that may be absent.
pub(super) fn if_set<T>(check: impl Fn(&T) -> Result<(), String>) -> impl Fn(&Option<T>) -> Result<(), String> {
    move |value| value.as_ref().map_or(Ok(()), &check)
}

/// Runs a check. As a function of its own it spares the closures in the key list their type annotations.
pub(super) fn run<T>(value: &T, check: impl Fn(&T) -> Result<(), String>) -> Result<(), SettingError> {
    check(value).map_err(SettingError::invalid)
}

/// One entry of the description, in the order of the file.
#[derive(Debug)]
pub(super) enum DescribedItem {
    /// The items after this one are in the section `path`.
    Section { path: String, docs: &'static [&'static str] },
    /// One key with its description and value.
    Key { path: String, docs: &'static [&'static str], shown: ShownValue },
}

/// A section of the configuration: a struct made by `settings!`, or a map of such structs.
pub(super) trait Section {
    /// Notes that the section at `path` exists, even without keys. A map makes the entry.
    fn enter(&mut self, path: &[&str]) -> Result<(), SettingError>;
    /// Sets the key at `path`, which is relative to this section.
    fn set(&mut self, path: &[&str], raw: Raw<'_>) -> Result<(), SettingError>;
    /// Whether `path` is a section and not a key.
    fn is_section(&self, path: &[&str]) -> bool;
    /// Appends the items of this section, keys first.
    fn walk(&self, prefix: &str, out: &mut Vec<DescribedItem>);
}

/// Makes a section as a struct. Each key has its comment (which `uringcast config` prints), name, type, default and, after
/// a comma, a check. `sections` are the sections inside, with their values if those are not the type's defaults. `state`
/// are fields that are not keys.
macro_rules! settings {
    (@section $Section:ty) => { <$Section>::default() };
    (@section $Section:ty, $default:expr) => { $default };
    (
        $(#[doc = $doc:literal])*
        pub struct $Name:ident {
            $( $(#[doc = $kdoc:literal])+ $key:ident: $Type:ty = $default:expr $(, $check:expr)?; )*
        }
        $( sections { $( $(#[doc = $sdoc:literal])+ $section:ident: $Section:ty $(= $sdefault:expr)?; )* } )?
        $( state { $( $(#[doc = $vdoc:literal])+ $state:ident: $State:ty = $initial:expr; )* } )?
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $Name {
            $( $(#[doc = $kdoc])+ pub $key: $Type, )*
            $( $( $(#[doc = $sdoc])+ pub $section: $Section, )* )?
            $( $( $(#[doc = $vdoc])+ pub $state: $State, )* )?
        }

        impl Default for $Name {
            fn default() -> $Name {
                $Name {
                    $( $key: $default, )*
                    $( $( $section: settings!(@section $Section $(, $sdefault)?), )* )?
                    $( $( $state: $initial, )* )?
                }
            }
        }

        impl $crate::config::setting::Section for $Name {
            fn set(
                &mut self,
                path: &[&str],
                raw: $crate::config::setting::Raw<'_>,
            ) -> Result<(), $crate::config::setting::SettingError> {
                match path {
                    $( [name] if *name == stringify!($key) => {
                        let value = <$Type as $crate::config::setting::Setting>::read(raw)?;
                        $( $crate::config::setting::run(&value, $check)?; )?
                        self.$key = value;
                        Ok(())
                    } )*
                    $( $( [name, rest @ ..] if *name == stringify!($section) => {
                        self.$section.set(rest, raw)
                    } )* )?
                    _ => Err($crate::config::setting::SettingError::Unknown),
                }
            }

            fn enter(&mut self, path: &[&str]) -> Result<(), $crate::config::setting::SettingError> {
                match path {
                    [] => Ok(()),
                    $( $( [name, rest @ ..] if *name == stringify!($section) => {
                        self.$section.enter(rest)
                    } )* )?
                    _ => Err($crate::config::setting::SettingError::Unknown),
                }
            }

            fn is_section(&self, path: &[&str]) -> bool {
                match path {
                    [] => true,
                    $( $( [name, rest @ ..] if *name == stringify!($section) => {
                        self.$section.is_section(rest)
                    } )* )?
                    _ => false,
                }
            }

            fn walk(&self, prefix: &str, out: &mut Vec<$crate::config::setting::DescribedItem>) {
                $( out.push($crate::config::setting::DescribedItem::Key {
                    path: format!("{prefix}{}", stringify!($key)),
                    docs: &[$($kdoc),+],
                    shown: $crate::config::setting::Setting::show(&self.$key),
                }); )*
                $( $(
                    let path = format!("{prefix}{}", stringify!($section));
                    let inside = format!("{path}.");
                    out.push($crate::config::setting::DescribedItem::Section { path, docs: &[$($sdoc),+] });
                    self.$section.walk(&inside, out);
                )* )?
            }
        }
    };
}
pub(super) use settings;
