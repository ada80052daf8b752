//! The simulation's own modules, shared and not copied. The crate's root names them, since that is how they call each
//! other.

#[path = "../../tests/simulation/backend.rs"]
pub mod backend;
#[path = "../../tests/simulation/channels.rs"]
pub mod channels;
#[path = "../../tests/simulation/client.rs"]
pub mod client;
#[path = "../../tests/simulation/codec.rs"]
pub mod codec;
#[path = "../../tests/simulation/deflate.rs"]
pub mod deflate;
#[path = "../../tests/simulation/dice.rs"]
pub mod dice;
#[path = "../../tests/simulation/engine.rs"]
pub mod engine;
#[path = "../../tests/simulation/errands.rs"]
pub mod errands;
#[path = "../../tests/simulation/faults.rs"]
pub mod faults;
#[path = "../../tests/simulation/ledger.rs"]
pub mod ledger;
#[path = "../../tests/simulation/oracle.rs"]
pub mod oracle;
#[path = "../../tests/simulation/plan.rs"]
pub mod plan;
#[path = "../../tests/simulation/tokens.rs"]
pub mod tokens;
#[path = "../../tests/simulation/wire.rs"]
pub mod wire;
#[path = "../../tests/simulation/world.rs"]
pub mod world;
