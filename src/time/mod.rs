//! Time as data: what moment it is is read once at the edge of the process, and everything else takes it as an
//! argument. Deadlines are filed in a wheel of ticks.

pub mod clock;
pub mod wheel;
