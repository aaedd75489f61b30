//! The engine on paused time: one shard, scripted peers, no network.

mod deadlines;
mod flights;
mod support;
