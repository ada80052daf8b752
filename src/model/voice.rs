//! In which form a connection is spoken to: a *voice* is a dialect and a framing. The model knows which voices there
//! are and that something can be shared by all of them, not what they look like: `dialect` writes them.

use std::sync::OnceLock;

/// A dialect and a framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Voice {
    /// The project's own JSON protocol, one WebSocket text frame for each message.
    #[default]
    NativeText,
    /// The same JSON as server-sent events (docs/sse.md).
    EventStream,
}

impl Voice {
    /// All voices, in the order of their numbers.
    pub(crate) const ALL: [Self; 2] = [Self::NativeText, Self::EventStream];

    /// Where the voice stands in [`Voice::ALL`].
    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

/// A value that shards share, and what each voice makes of it. A shard that needs a voice's frame finds it here, or
/// makes it for the others.
#[derive(Debug)]
pub struct Voiced<T> {
    value: T,
    frames: [OnceLock<Vec<u8>>; Voice::ALL.len()],
}

impl<T> Voiced<T> {
    /// The value, as yet without frames.
    pub(crate) fn new(value: T) -> Self {
        Self { value, frames: Default::default() }
    }

    /// The value that is shared.
    pub(crate) fn value(&self) -> &T {
        &self.value
    }

    /// What the voice makes of the value. `encode` appends it to a buffer, and is not called if a shard has done so
    /// before. Shards don't wait for each other: two that need a frame at the same moment both encode it.
    pub(crate) fn frame(&self, voice: Voice, encode: impl FnOnce(&T, &mut Vec<u8>)) -> &[u8] {
        let place = &self.frames[voice.index()];
        if let Some(frame) = place.get() {
            return frame;
        }
        let mut frame = Vec::new();
        encode(&self.value, &mut frame);
        place.get_or_init(|| frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_encoded_once_for_each_voice() {
        let shared = Voiced::new(7u8);
        for voice in Voice::ALL {
            assert_eq!(shared.frame(voice, |value, out| out.push(*value)), [7]);
            assert_eq!(shared.frame(voice, |_, _| unreachable!("it has been encoded")), [7]);
        }
        assert_eq!(*shared.value(), 7);
    }

    #[test]
    fn voices_are_numbered_in_order() {
        for (index, voice) in Voice::ALL.into_iter().enumerate() {
            assert_eq!(voice.index(), index);
        }
    }
}
