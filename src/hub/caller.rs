//! Who asked an owner, and how the answer gets there. Everything that the hub answers, it answers by these functions.
//! Part of `hub`.

use crate::mesh::Staging;
use crate::model::parcel::{Answer, Asker, Parcel};

/// Who gets the answer to an ask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// A client, or the backend.
    pub(crate) asker: Asker,
    /// The asker's number for the ask.
    pub(crate) request: u32,
    /// The answer gives the ask's credit back. `false` if the credit went back before.
    pub(crate) credit: bool,
}

/// Answers an ask.
pub(crate) fn answer(out: &mut Staging<Parcel>, caller: Caller, answer: Answer) {
    let Caller { asker, request, credit } = caller;
    out.push(asker.shard().unwrap_or(out.own()), Parcel::Answer { asker, request, answer, credit });
}

/// Gives the credit of an ask back, because its answer comes later.
pub(crate) fn defer(caller: Caller, out: &mut Staging<Parcel>) -> Caller {
    if let (Some(purse), Some(shard), true) = (caller.asker.purse(), caller.asker.shard(), caller.credit) {
        out.push(shard, Parcel::Deferred { purse });
    }
    Caller { credit: false, ..caller }
}
