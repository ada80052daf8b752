//! Time as data: the edge of the process reads the clock, and everything else takes the moment as an argument. `wheel`
//! files deadlines by tick.

pub mod clock;
pub(crate) mod wheel;
