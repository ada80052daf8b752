//! The workloads: what a command does with the connections that the engine opens for it.
//!
//! Each owns one thread's share of sending and checking and knows neither sockets nor phases.
//! Made by `commands`, called by `engine`.

pub mod abuse;
pub mod api;
pub mod channels;
pub mod chat;
pub mod connect;
pub mod counted;
pub mod echo;
pub mod fanout;
pub mod layout;
pub mod newcomers;
pub mod storm;
