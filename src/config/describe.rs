//! Prints a configuration as commented TOML: the output of `uringcast config`, and the content of docs/configuration.md.
//! Except for secrets, reading it back gives the same configuration. This file knows no key by name.

use std::fmt::Write;

use super::load::settable_variable;
use super::schema::Config;
use super::setting::{DescribedItem, Section, ShownValue};

/// Describes every key with its meaning, its value and, if that differs, its default.
pub fn describe(config: &Config) -> String {
    let (mut items, mut defaults) = (Vec::new(), Vec::new());
    config.walk("", &mut items);
    config.defaults().walk("", &mut defaults);

    let mut out = String::from(
        "# Configuration of uringcast: flags override the environment, the environment overrides the\n\
         # file (--config FILE), the file overrides the defaults. Each key is also an environment variable,\n\
         # named beside it; lists are written there with commas or as JSON.\n",
    );
    for item in &items {
        match item {
            DescribedItem::Section { path, docs } => {
                out.push('\n');
                comment(&mut out, docs);
                line(&mut out, format_args!("[{path}]"));
            }
            DescribedItem::Key { path, docs, shown } => {
                let default = defaults.iter().find_map(|item| match item {
                    DescribedItem::Key { path: other, shown, .. } if other == path => Some(shown),
                    _ => None,
                });
                out.push('\n');
                comment(&mut out, docs);
                key(&mut out, path, shown, default);
            }
        }
    }
    out
}

fn key(out: &mut String, path: &str, shown: &ShownValue, default: Option<&ShownValue>) {
    let name = path.rsplit('.').next().unwrap_or(path);
    let variable = settable_variable(path)
        .unwrap_or_else(|| "(no variable can set it, because names from variables are lower-cased)".to_owned());
    match default {
        Some(default) if default != shown => {
            line(out, format_args!("# {variable}; default: {}", text(default)));
        }
        _ => line(out, format_args!("# {variable}")),
    }
    match shown {
        ShownValue::Plain(value) => line(out, format_args!("{name} = {value}")),
        // Commented out: TOML has no null, and a redacted secret must not be read as the secret.
        ShownValue::Unset | ShownValue::Redacted(_) => line(out, format_args!("# {name} = {}", text(shown))),
    }
}

fn text(shown: &ShownValue) -> &str {
    match shown {
        ShownValue::Plain(value) | ShownValue::Redacted(value) => value,
        ShownValue::Unset => "(not set)",
    }
}

fn comment(out: &mut String, docs: &[&str]) {
    for doc in docs {
        line(out, format_args!("#{doc}"));
    }
}

fn line(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{arguments}");
}
