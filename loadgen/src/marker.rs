//! Numbered payloads: what is written into each message so that its receiver can tell which one it is.
//!
//! Fixed width and plain ASCII, so that no server escapes it and checking one costs a few comparisons:
//! the place where it was found last is tried first. Pure; called by `echo` and `fanout`.

use clap::ValueEnum;
use memchr::memmem::Finder;

use crate::random::Random;

/// Bytes of a fan-out marker: a prefix of the run, the publisher in 4 hex digits, the number in 8.
pub const MARKER: usize = 20;

/// `number` in 8 hex digits.
#[inline]
pub fn hex8(number: u32) -> [u8; 8] {
    // One nibble to a byte, the highest first, then all eight to their digits at once.
    let mut x = u64::from(number);
    x = (x | x << 16) & 0x0000_ffff_0000_ffff;
    x = (x | x << 8) & 0x00ff_00ff_00ff_00ff;
    x = (x | x << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let above_nine = ((x + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (x + 0x3030_3030_3030_3030 + above_nine * 0x27).to_be_bytes()
}

/// Reads lower-case hex digits.
#[inline]
pub fn unhex(digits: &[u8]) -> Option<u32> {
    let mut number = 0;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u32::from(value);
    }
    Some(number)
}

/// `length` bytes to fill messages with.
pub fn padding(length: usize) -> Vec<u8> {
    (b'a'..=b'z').cycle().take(length).collect()
}

/// What fills a publication's text behind its marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Content {
    /// The alphabet, over and over: the same in each
    Alphabet,
    /// Invented quotes of shares, others in each: compresses about as JSON of that kind does
    Feed,
}

/// How many different feeds there are: of 1 KiB, more than the largest window of DEFLATE holds.
const FEEDS: usize = 64;

impl Content {
    /// What stands behind the markers of publications 0, 1, 2 … and then again.
    fn paddings(self, length: usize) -> Vec<Vec<u8>> {
        match self {
            Self::Alphabet => vec![padding(length)],
            Self::Feed => (0..FEEDS).map(|number| feed(number as u64, length)).collect(),
        }
    }
}

/// Without a character that JSON or HTML would escape.
fn feed(seed: u64, length: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut text = String::with_capacity(length + 100);
    while text.len() < length {
        let mut number = |most: u64| random.next() % most;
        let symbol: String = (0..4).map(|_| char::from(b'A' + number(26) as u8)).collect();
        let (cents, volume, at) = (number(50_000), number(100_000), number(1_000_000));
        let (units, part) = (cents / 100, cents % 100);
        text += &format!("[symbol:{symbol},bid:{units}.{part:02},ask:{units}.{:02},", (part + number(9)) % 100);
        text += &format!("volume:{volume},at:1795{at:06}]");
    }
    text.truncate(length);
    text.into_bytes()
}

/// Writes fan-out markers and finds them in whatever the server wraps round them.
pub struct Markers {
    prefix: [u8; 8],
    finder: Finder<'static>,
    /// Where the last one was.
    place: usize,
    /// How far the next one was from the end of the one before it in the same message.
    stride: usize,
    /// Messages were seen that hold more than one.
    several: bool,
    /// By number, in turn; all of one length.
    paddings: Vec<Vec<u8>>,
}

/// A marker that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marker {
    /// Where in the payload.
    pub place: usize,
    /// Who published it.
    pub publisher: u32,
    /// The 8 digits of its number.
    pub digits: [u8; 8],
}

impl Markers {
    /// Markers for texts of `length` bytes; `run` tells them from another run's.
    pub fn new(run: u32, length: usize, content: Content) -> Self {
        let mut prefix = *b"lg000000";
        prefix[2..].copy_from_slice(&hex8(run)[2..]);
        Self {
            prefix,
            finder: Finder::new(&prefix).into_owned(),
            place: 0,
            stride: 0,
            several: false,
            paddings: content.paddings(length.saturating_sub(MARKER)),
        }
    }

    /// Appends the whole text of a publication.
    pub fn write(&self, publisher: u32, number: u32, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prefix);
        out.extend_from_slice(&hex8(publisher)[4..]);
        out.extend_from_slice(&hex8(number));
        out.extend_from_slice(&self.paddings[number as usize % self.paddings.len()]);
    }

    /// The first marker in `payload`, if it has one.
    #[inline]
    pub fn find(&mut self, payload: &[u8]) -> Option<Marker> {
        // Where several may stand, the place of the last find must leave no room for another before it.
        if (!self.several || self.place < self.length())
            && let Some(found) = self.at(payload, self.place)
        {
            return Some(found);
        }
        self.place = self.finder.find(payload)?;
        self.at(payload, self.place)
    }

    /// Bytes of a whole text.
    #[inline]
    pub fn length(&self) -> usize {
        MARKER + self.paddings[0].len()
    }

    /// The next marker in `rest`, which begins where the publication before it in the same message ended.
    #[inline]
    pub fn find_next(&mut self, rest: &[u8]) -> Option<Marker> {
        if rest.len() < self.length() {
            return None;
        }
        // As above: a longer stride is that over another's publication, and might step over one of ours.
        if self.stride < self.length()
            && let Some(found) = self.at(rest, self.stride)
        {
            return Some(found);
        }
        let place = self.finder.find(rest)?;
        (self.stride, self.several) = (place, true);
        self.at(rest, place)
    }

    /// The marker that `text` begins with, if it is a publication's.
    pub fn read(&self, text: &[u8]) -> Option<Marker> {
        self.at(text, 0)
    }

    #[inline]
    fn at(&self, payload: &[u8], place: usize) -> Option<Marker> {
        let bytes = payload.get(place..)?.first_chunk::<MARKER>()?;
        if bytes[..8] != self.prefix {
            return None;
        }
        let mut digits = [0; 8];
        digits.copy_from_slice(&bytes[12..]);
        Some(Marker { place, publisher: unhex(&bytes[8..12])?, digits })
    }

    /// The padding behind the marker is as it was sent.
    #[inline]
    pub fn intact(&self, payload: &[u8], marker: &Marker) -> bool {
        let padding = match &self.paddings[..] {
            [only] => only,
            several => &several[unhex(&marker.digits).unwrap_or_default() as usize % several.len()],
        };
        payload.get(marker.place + MARKER..).is_some_and(|rest| rest.starts_with(padding))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_agrees_with_the_formatter() {
        for number in [0, 1, 9, 10, 15, 16, 0x1234_5678, 0x9abc_def0, u32::MAX] {
            assert_eq!(hex8(number), *format!("{number:08x}").as_bytes());
            assert_eq!(unhex(&hex8(number)), Some(number));
        }
        assert_eq!(unhex(b"0000000G"), None);
    }

    #[test]
    fn markers_are_found_where_they_move() {
        let mut markers = Markers::new(0xabcdef, 64, Content::Alphabet);
        let mut text = Vec::new();
        markers.write(7, 0xdead, &mut text);
        assert_eq!(text.len(), 64);
        for shift in [0, 5, 6, 6, 3, 100] {
            let mut payload = vec![b'{'; shift];
            payload.extend(&text);
            payload.extend(b"\"}");
            let found = markers.find(&payload).unwrap();
            assert_eq!((found.place, found.publisher, found.digits), (shift, 7, hex8(0xdead)));
            assert!(markers.intact(&payload, &found));
            payload[shift + 40] ^= 1;
            assert!(!markers.intact(&payload, &found));
        }
        assert_eq!(markers.find(b"{\"type\":\"user_online\"}"), None);
        let mut other = Markers::new(1, 64, Content::Alphabet);
        assert_eq!(other.find(&text), None, "another run's");
    }

    #[test]
    fn each_publication_of_a_feed_has_a_text_of_its_own() {
        let mut markers = Markers::new(1, 1024, Content::Feed);
        let mut texts = std::collections::BTreeSet::new();
        for number in 0..FEEDS as u32 {
            let mut text = Vec::new();
            markers.write(0, number, &mut text);
            assert_eq!(text.len(), 1024);
            assert!(!text.iter().any(|byte| b"&<>\"'\\".contains(byte) || !byte.is_ascii_graphic()));
            let found = markers.find(&text).unwrap();
            assert!(markers.intact(&text, &found));
            // Another number's marker before it.
            let other = Marker { digits: hex8(number + 1), ..found };
            assert!(!markers.intact(&text, &other));
            texts.insert(text.split_off(MARKER));
        }
        assert_eq!(texts.len(), FEEDS);
        let mut compressors = crate::deflate::Compressors::default();
        let all: Vec<u8> = texts.into_iter().next().unwrap();
        let packed = compressors.message(&all, 15).unwrap().len();
        assert!((300..600).contains(&packed), "{packed} of 1,004 bytes");
    }
}
