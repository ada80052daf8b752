//! The connect workload: connections that are opened, signed in and then left alone.
//!
//! The engine does and times all of that; here only what arrives meanwhile is counted, so that a server
//! that pushes much to idle connections can be seen. Called by `engine`.

use crate::client::Outgoing;
use crate::control::Window;
use crate::engine::{Wires, Workload};
use crate::random::Random;

/// One thread's idle connections.
#[derive(Default)]
pub struct Idle {
    pushes: u64,
}

impl Workload for Idle {
    fn message(&mut self, _: usize, _: &[u8], _: u64) {
        self.pushes += 1;
    }

    fn received(&mut self, _: usize, _: &mut Outgoing, _: &mut Random, _: u64) {}

    fn start(&mut self, _: Window) {}

    fn tick(&mut self, _: Window, _: &mut Wires<'_>, _: u64) -> u64 {
        u64::MAX
    }

    fn ended(&mut self, _: usize) {}

    fn complete(&self) -> bool {
        true
    }

    fn finish(&mut self) {}

    fn counts(&self) -> (u64, u64) {
        (self.pushes, 0)
    }
}
