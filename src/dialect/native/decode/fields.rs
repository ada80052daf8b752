//! Reads the members of JSON objects on simd-json's tape, and their values by type. It knows no command.
//! If a key comes twice, the last one counts, as in JavaScript.

use simd_json::{Node, StaticNode};

use crate::model::channel_name::is_channel_name;
use crate::model::text::Text;

/// The members of one object that have not been read yet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TapeFields<'t, 'a> {
    tape: &'t [Node<'a>],
    /// The place of the next member's key on the tape.
    at: usize,
    len: usize,
    left: usize,
}

/// One member of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TapeMember<'a> {
    pub(crate) key: &'a str,
    /// The first node of the value.
    pub(crate) node: Node<'a>,
    /// The place of that node on the tape.
    pub(crate) at: usize,
    /// The number of members before it in its object.
    pub(crate) ordinal: usize,
}

impl<'t, 'a> TapeFields<'t, 'a> {
    /// The members of the object at this place of the tape; `None` if there is no object.
    pub(crate) fn of(tape: &'t [Node<'a>], at: usize) -> Option<Self> {
        match tape.get(at) {
            Some(&Node::Object { len, .. }) => Some(Self { tape, at: at + 1, len, left: len }),
            _ => None,
        }
    }

    /// The last member with this key, which is the one that counts.
    pub(crate) fn find(self, name: &str) -> Option<TapeMember<'a>> {
        self.filter(|member| member.key == name).last()
    }

    /// The last member with this key, unless its value is `null`.
    fn given(self, name: &str) -> Option<TapeMember<'a>> {
        self.find(name).filter(|member| member.node != NULL)
    }

    pub(crate) fn optional_str(self, name: &str) -> Result<Option<&'a str>, Text> {
        match self.given(name).map(|member| member.node) {
            None => Ok(None),
            Some(Node::String(text)) => Ok(Some(text)),
            Some(_) => Err(Text::Malformed),
        }
    }

    pub(crate) fn optional_str_within(
        self,
        name: &str,
        bytes: std::ops::RangeInclusive<usize>,
    ) -> Result<Option<&'a str>, Text> {
        match self.optional_str(name)? {
            Some(text) if !bytes.contains(&text.len()) => Err(Text::Malformed),
            text => Ok(text),
        }
    }

    pub(crate) fn optional_channel(self, name: &str) -> Result<Option<&'a str>, Text> {
        match self.optional_str(name)? {
            Some(channel) if !is_channel_name(channel) => Err(Text::BadChannel),
            channel => Ok(channel),
        }
    }

    pub(crate) fn optional_bool(self, name: &str) -> Result<Option<bool>, Text> {
        match self.given(name).map(|member| member.node) {
            None => Ok(None),
            Some(Node::Static(StaticNode::Bool(flag))) => Ok(Some(flag)),
            Some(_) => Err(Text::Malformed),
        }
    }

    /// A whole number from 0 up.
    pub(crate) fn optional_u64(self, name: &str) -> Result<Option<u64>, Text> {
        match self.given(name).map(|member| member.node) {
            None => Ok(None),
            Some(Node::Static(StaticNode::U64(number))) => Ok(Some(number)),
            Some(Node::Static(StaticNode::I64(number))) => u64::try_from(number).map(Some).map_err(|_| Text::Malformed),
            Some(_) => Err(Text::Malformed),
        }
    }

    /// A whole number from 1 up. A larger number than a `u32` holds becomes the largest `u32`.
    pub(crate) fn optional_count(self, name: &str) -> Result<Option<u32>, Text> {
        match self.optional_u64(name)? {
            None => Ok(None),
            Some(0) => Err(Text::Malformed),
            Some(number) => Ok(Some(u32::try_from(number).unwrap_or(u32::MAX))),
        }
    }

    pub(crate) fn optional_object(self, name: &str) -> Result<Option<Self>, Text> {
        match self.given(name) {
            None => Ok(None),
            Some(member) => Self::of(self.tape, member.at).map(Some).ok_or(Text::Malformed),
        }
    }

    /// A list of objects, each read by `read`. A missing list is empty. A list of more than `most` objects is malformed.
    pub(crate) fn objects<T>(
        self,
        name: &str,
        most: usize,
        read: impl Fn(Self) -> Result<T, Text>,
    ) -> Result<Vec<T>, Text> {
        let Some(member) = self.given(name) else { return Ok(Vec::new()) };
        let Node::Array { len, .. } = member.node else { return Err(Text::Malformed) };
        if len > most {
            return Err(Text::Malformed);
        }
        let mut items = Vec::with_capacity(len);
        let mut at = member.at + 1;
        for _ in 0..len {
            let item = Self::of(self.tape, at).ok_or(Text::Malformed)?;
            items.push(read(item)?);
            at += self.tape.get(at).map_or(1, width);
        }
        Ok(items)
    }
}

const NULL: Node<'static> = Node::Static(StaticNode::Null);

impl<'a> Iterator for TapeFields<'_, 'a> {
    type Item = TapeMember<'a>;

    fn next(&mut self) -> Option<TapeMember<'a>> {
        let ordinal = self.len - self.left;
        self.left = self.left.checked_sub(1)?;
        let at = self.at + 1;
        let (&Node::String(key), &node) = (self.tape.get(self.at)?, self.tape.get(at)?) else { return None };
        self.at = at + width(&node);
        Some(TapeMember { key, node, at, ordinal })
    }
}

/// The number of nodes of the value that begins with this node.
pub(crate) fn width(node: &Node<'_>) -> usize {
    match node {
        Node::Object { count, .. } | Node::Array { count, .. } => count + 1,
        Node::String(_) | Node::Static(_) => 1,
    }
}
