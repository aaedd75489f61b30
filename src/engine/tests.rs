//! The engine on paused time: one shard, scripted peers, no network; and the ledger by itself.

mod breakers;
mod deadlines;
mod flights;
mod ledger;
mod rebirth;
mod reference;
mod revocations;
mod support;
mod watches;
