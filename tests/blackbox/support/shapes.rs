//! JSON held against a pattern, key by key.

use serde_json::Value;

use super::now_s;

/// Compares JSON with a pattern: the same keys and no others, the same values, and for the strings `<ms>`
/// (a time within a day of now), `<text>` (not empty), `<int>` and `<any>` whatever fits.
pub fn assert_shape(value: &Value, pattern: &Value) {
    if let Some(why) = differs(value, pattern, "") {
        panic!("{why}\n  got      {value}\n  expected {pattern}");
    }
}

fn differs(value: &Value, pattern: &Value, at: &str) -> Option<String> {
    match (value, pattern) {
        (Value::Object(found), Value::Object(wanted)) => {
            for key in found.keys() {
                if !wanted.contains_key(key) {
                    return Some(format!("{at}.{key} should not be there"));
                }
            }
            wanted.iter().find_map(|(key, pattern)| match found.get(key) {
                Some(value) => differs(value, pattern, &format!("{at}.{key}")),
                None => Some(format!("{at}.{key} is missing")),
            })
        }
        (Value::Array(found), Value::Array(wanted)) if found.len() == wanted.len() => {
            found.iter().zip(wanted).enumerate().find_map(|(n, (v, p))| differs(v, p, &format!("{at}[{n}]")))
        }
        (_, Value::String(pattern)) => {
            let fits = match pattern.as_str() {
                "<ms>" => value.as_i64().is_some_and(|ms| (ms / 1000 - now_s()).abs() < 86_400),
                "<text>" => value.as_str().is_some_and(|text| !text.is_empty()),
                "<int>" => value.is_i64() || value.is_u64(),
                "<any>" => true,
                text => value.as_str() == Some(text),
            };
            (!fits).then(|| format!("{at} is {value}"))
        }
        _ => (value != pattern).then(|| format!("{at} is {value}")),
    }
}
