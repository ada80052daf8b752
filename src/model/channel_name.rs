//! Names of channels: `name` or `namespace:name` (docs/protocol.md, "Channels"). Knows
//! their syntax, not which namespaces there are nor who may do what in them.

/// Longest name of a channel, its namespace included, in bytes.
pub(crate) const MAX_CHANNEL_BYTES: usize = 200;

/// Whether `name` is one that a channel can have. The first colon ends the namespace; later ones belong to the name.
pub(crate) fn is_channel_name(name: &str) -> bool {
    let parts_are_there = match name.split_once(':') {
        Some((namespace, rest)) => !namespace.is_empty() && !rest.is_empty(),
        None => !name.is_empty(),
    };
    parts_are_there && name.len() <= MAX_CHANNEL_BYTES && name.bytes().all(is_channel_byte)
}

fn is_channel_byte(byte: u8) -> bool {
    const ALLOWED: [bool; 256] = {
        let mut allowed = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            allowed[byte] = may_be_in_name(byte as u8);
            byte += 1;
        }
        allowed
    };
    ALLOWED[usize::from(byte)]
}

const fn may_be_in_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'=' | b'@' | b'.' | b':' | b'/' | b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_the_contract_says() {
        let longest = "x".repeat(MAX_CHANNEL_BYTES);
        for name in ["lobby", "a", "chat:room1", "a:b:c", "a::", "A-Z_9=@./#:x", &longest] {
            assert!(is_channel_name(name), "{name}");
        }
        let too_long = "x".repeat(MAX_CHANNEL_BYTES + 1);
        for name in ["", ":", ":a", "a:", "a b", "a\n", "a\0", "é", "a*", "a,b", "a\"", "a?", "a+b", "$a", &too_long] {
            assert!(!is_channel_name(name), "{name}");
        }
        let allowed = (0..=255u8).filter(|&byte| is_channel_byte(byte)).count();
        assert_eq!(allowed, 26 + 26 + 10 + r"_-=@.:/#".len());
    }
}
