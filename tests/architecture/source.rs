//! A source file taken apart just enough to ask what it names: comments, literals and test modules gone, the rest
//! as words and signs, and every path written out, `use` trees and `super` included. No grammar: it needs none.

/// One file of `src/`.
pub struct Source {
    /// Its path below `src/`.
    pub name: String,
    /// As it is.
    pub text: String,
    tokens: Vec<String>,
    paths: Vec<String>,
}

impl Source {
    pub fn new(name: &str, text: &str) -> Self {
        let is_test = name.ends_with("/tests.rs") || name.contains("/tests/");
        let tokens = if is_test { Vec::new() } else { without_tests(tokens(text)) };
        let paths = paths(&tokens, &module_path(name));
        Self { name: name.to_owned(), text: text.to_owned(), tokens, paths }
    }

    /// The module of the crate's root to which the file belongs.
    pub fn module(&self) -> &str {
        self.name.split(['/', '.']).next().unwrap_or_default()
    }

    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().map(String::as_str)
    }

    /// Whether these words and signs stand there in a row.
    pub fn has(&self, row: &[&str]) -> bool {
        self.tokens.windows(row.len()).any(|window| window.iter().zip(row).all(|(a, b)| a == b))
    }

    /// The names of the types that the file defines, apart from those inside functions and associated types. Types in an
    /// inline module or in a macro call count.
    pub fn types(&self) -> Vec<&str> {
        let (mut types, mut blocks) = (Vec::new(), Vec::new());
        for (at, token) in self.tokens.iter().enumerate() {
            let before = |back: usize| at.checked_sub(back).map_or("", |at| &self.tokens[at]);
            match token.as_str() {
                "{" => blocks.push(before(1) == "!" || before(2) == "mod"),
                "}" => drop(blocks.pop()),
                "struct" | "enum" | "trait" | "union" | "type"
                    if blocks.iter().all(|is_transparent| *is_transparent) =>
                {
                    types.extend(self.tokens.get(at + 1).map(String::as_str).filter(|name| name.starts_with(is_word)));
                }
                _ => {}
            }
        }
        types
    }

    /// The doc comments, each as one text without its headings.
    pub fn doc_comments(&self) -> Vec<String> {
        let mut comments = vec![String::new()];
        for line in self.text.lines().map(str::trim_start) {
            match line.strip_prefix("///").or_else(|| line.strip_prefix("//!")) {
                None => comments.push(String::new()),
                Some(text) if text.trim_start().starts_with("# ") => {}
                Some(text) => {
                    if let Some(comment) = comments.last_mut() {
                        comment.push_str(text);
                    }
                }
            }
        }
        comments.retain(|comment| !comment.trim().is_empty());
        comments
    }

    /// Whether a path is named, or anything below it.
    pub fn names(&self, path: &str) -> bool {
        self.paths
            .iter()
            .any(|named| named.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(':')))
    }
}

/// The path of the file's module, from the crate's root.
fn module_path(name: &str) -> Vec<String> {
    let parts = name.trim_end_matches(".rs").split('/').filter(|part| *part != "mod");
    parts.map(str::to_owned).collect()
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Words and signs of the code; `::` is one sign, a literal is an empty string's quotes.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\n');
    let (mut tokens, mut i) = (Vec::new(), 0);
    while i < chars.len() {
        match (chars[i], at(i + 1)) {
            ('/', '/') => i += chars[i..].iter().take_while(|&&c| c != '\n').count(),
            ('/', '*') => i = block_comment(&chars, i),
            ('"', _) => i = string(&chars, i),
            ('r', '"' | '#') if raw_string(&chars, i).is_some() => i = raw_string(&chars, i).unwrap_or(i),
            ('\'', next) => i = quote(&chars, i, next),
            (':', ':') => {
                tokens.push("::".into());
                i += 2;
            }
            (c, _) if is_word(c) => {
                let word: String = chars[i..].iter().take_while(|&&c| is_word(c)).collect();
                i += word.chars().count();
                tokens.push(word);
            }
            (c, _) => {
                if !c.is_whitespace() {
                    tokens.push(c.into());
                }
                i += 1;
            }
        }
    }
    tokens
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

/// The index behind a string that begins at `start`.
fn string(chars: &[char], start: usize) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != '"' {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

/// The index behind a raw string, if there is one.
fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start + 1..].iter().take_while(|&&c| c == '#').count();
    let body = start + 1 + hashes;
    if chars.get(body) != Some(&'"') {
        return None;
    }
    let mut end = vec!['"'];
    end.resize(1 + hashes, '#');
    let length = chars[body + 1..].windows(end.len()).position(|window| window == end)?;
    Some(body + 1 + length + end.len())
}

/// The index behind a character, or behind a lifetime's name.
fn quote(chars: &[char], start: usize, next: char) -> usize {
    if next == '\\' {
        return start + 3 + chars[start + 3..].iter().take_while(|&&c| c != '\'').count() + 1;
    }
    if chars.get(start + 2) == Some(&'\'') {
        return start + 3;
    }
    start + 1 + chars[start + 1..].iter().take_while(|&&c| is_word(c)).count()
}

/// Leaves out what follows each `#[cfg(test)]`: a module, a function, a `use`.
fn without_tests(tokens: Vec<String>) -> Vec<String> {
    let marker = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        if tokens[i..].iter().zip(marker).filter(|(a, b)| a == b).count() == marker.len() {
            i = behind_item(&tokens, i + marker.len());
        } else {
            kept.push(tokens[i].clone());
            i += 1;
        }
    }
    kept
}

fn behind_item(tokens: &[String], start: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(start) {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            ";" => {}
            _ => continue,
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Every path in the code, from the crate's root where it is known.
fn paths(tokens: &[String], module: &[String]) -> Vec<String> {
    let mut all = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let starts = tokens[i].starts_with(is_word) && tokens.get(i + 1).is_some_and(|next| next == "::");
        i = if starts { tree(tokens, i, &[], &mut all) } else { i + 1 };
    }
    all.iter().map(|path| rooted(path, module).join("::")).collect()
}

/// Reads one path, or a tree of them; returns the index behind it.
fn tree<'a>(tokens: &'a [String], start: usize, prefix: &[&'a str], all: &mut Vec<Vec<&'a str>>) -> usize {
    let mut path = prefix.to_vec();
    let mut i = start;
    while let Some(token) = tokens.get(i) {
        if token == "{" && !path.is_empty() {
            i += 1;
            while tokens.get(i).is_some_and(|token| token != "}") {
                // A comma, and what `as` adds, is stepped over.
                i = if tokens[i].starts_with(is_word) { tree(tokens, i, &path, all) } else { i + 1 };
            }
            return i + 1;
        }
        if !token.starts_with(is_word) {
            break;
        }
        path.push(token);
        i += 1;
        if tokens.get(i).is_none_or(|next| next != "::") {
            break;
        }
        i += 1;
    }
    all.push(path);
    i.max(start + 1)
}

/// A path that begins with `super`, written from the crate's root.
fn rooted<'a>(path: &[&'a str], module: &'a [String]) -> Vec<&'a str> {
    let ups = path.iter().take_while(|part| **part == "super").count();
    if ups == 0 {
        return path.to_vec();
    }
    let kept = module.iter().take(module.len().saturating_sub(ups)).map(String::as_str);
    std::iter::once("crate").chain(kept).chain(path[ups..].iter().copied()).collect()
}
