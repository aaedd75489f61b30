//! The engine on paused time: one shard, scripted peers, no network; and the ledger by itself.

mod addresses;
mod breakers;
mod deadlines;
mod each_turn;
mod ending;
mod flights;
mod forgetting;
mod gathering;
mod hedges;
mod kept;
mod last_known;
mod ledger;
mod limited;
mod meetings;
mod memory;
mod ministra;
mod observed;
mod order;
mod rebirth;
mod reference;
mod refresh;
mod revocations;
mod shadow;
mod support;
mod viewers;
mod watches;
