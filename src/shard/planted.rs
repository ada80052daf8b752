//! PLANTED panics, for the test that shows what one takes with it (`./check planted`); in no server that is built
//! without the feature `planted-panic`. A client names the place in a message; the next to come there panics.

use std::cell::Cell;

use crate::ids::ConnId;

thread_local! {
    static WRITER: Cell<Option<ConnId>> = const { Cell::new(None) };
    static LOOP: Cell<bool> = const { Cell::new(false) };
}

/// Looks for the place in a client's message, and panics if that is here.
pub fn hear(id: ConnId, message: &[u8]) {
    let says = |what: &[u8]| message.windows(what.len()).any(|window| window == what);
    if says(b"planted panic: reader") {
        panic!("planted in the reader of {id}");
    }
    if says(b"planted panic: writer") {
        WRITER.set(Some(id));
    }
    if says(b"planted panic: loop") {
        LOOP.set(true);
    }
}

/// Where a connection's writer goes on.
pub fn at_write(id: ConnId) {
    if WRITER.get() == Some(id) {
        panic!("planted in the writer of {id}");
    }
}

/// Where a shard takes a turn.
pub fn at_turn() {
    if LOOP.get() {
        panic!("planted in a shard's loop");
    }
}
