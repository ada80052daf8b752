//! What is an API key, where they come from, and what matches them.
//! No server is started: the file is real, the rest is in memory.

use super::*;
use crate::config::Http;

const KEY: &str = "0123456789abcdef";
const OTHER: &str = "fedcba9876543210+/=~!";

fn http(keys: &[&str], keys_file: Option<PathBuf>) -> Http {
    Http { keys: keys.iter().map(|key| Secret::new(*key)).collect(), keys_file, ..Http::default() }
}

#[test]
fn only_a_whole_key_matches() {
    let keys = ApiKeys::new(&http(&[KEY, OTHER], None)).unwrap();
    assert!(keys.matches(KEY) && keys.matches(OTHER) && !keys.is_empty());
    for wrong in ["", "0", &KEY[..15], &format!("{KEY}0"), &KEY.to_uppercase(), "0123456789abcdee", "\u{0}"] {
        assert!(!keys.matches(wrong), "{wrong}");
    }
    let spaced = format!(" {KEY}");
    assert!(!keys.matches(&spaced));
}

#[test]
fn without_a_key_nothing_matches() {
    let none = ApiKeys::new(&Http::default()).unwrap();
    assert!(none.is_empty() && !none.matches("") && !none.matches(KEY));
    assert!(!ApiKeys::default().matches(""));
}

#[test]
fn keys_from_a_file_stand_beside_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("keys");
    let load = |content: &str| {
        std::fs::write(&file, content).unwrap();
        ApiKeys::new(&http(&[KEY], Some(file.clone())))
    };
    let keys = load(&format!("# of the shop\r\n\n  {OTHER} \r\n#{KEY}x\n")).unwrap();
    assert!(keys.matches(KEY) && keys.matches(OTHER));
    assert!(!keys.matches("# of the shop") && !keys.matches(&format!("{KEY}x")) && !keys.matches(""));

    let message = |content: &str| load(content).unwrap_err().to_string();
    assert!(message("").contains("keys: the file has no key"));
    assert!(message("# none\n").contains("the file has no key"));
    assert!(message("\nhush-hush\n").contains("the key in line 2 has 9 bytes and needs 16 to 512"));
    assert!(message("hush hush hush hush\n").contains("the key in line 1 has a character"));
    assert!(!message("hush-hush\n").contains("hush"));
    let missing = ApiKeys::new(&http(&[], Some(directory.path().join("none")))).unwrap_err().to_string();
    assert!(missing.contains("http.keys_file") && missing.contains("cannot read it"), "{missing}");
    let many: String = (0..Http::MAX_KEYS).map(|number| format!("{KEY}{number}\n")).collect();
    assert!(message(&many).contains("101 API keys"), "{}", message(&many));
}

#[test]
fn keys_that_never_saw_the_configuration_file_are_checked_too() {
    for (key, fault) in [("fifteen-bytes!!", "needs 16"), ("sixteen bytes !!", "ASCII"), ("ключключключключ", "ASCII")]
    {
        let message = ApiKeys::new(&http(&[KEY, key], None)).unwrap_err().to_string();
        assert!(message.contains("http.keys: key number 2 has ") && message.contains(fault), "{message}");
        assert!(!message.contains(key));
    }
}

#[test]
fn they_are_not_printed() {
    let http = http(&[KEY], None);
    let text = format!("{:?} {http:?}", ApiKeys::new(&http).unwrap());
    assert!(!text.contains(KEY), "{text}");
}
