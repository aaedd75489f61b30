//! The protocol: check to request, reply to decision. Pure functions; no sockets here.

mod body;
mod encode;
mod fields;
mod lifetime;
mod names;
mod reply;
mod request;
mod status;
mod template;

#[cfg(test)]
mod differential;
#[cfg(test)]
mod fixture;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
#[cfg(any(test, fuzzing))]
mod parsers;
#[cfg(test)]
mod properties;

pub(crate) use body::BodyRule;
pub(crate) use lifetime::jittered;
pub(crate) use reply::{
    Answer, Basis, Judgement, REFUSING_STATUS, ReplyHead, ReplyRules, Subject, Undecided, judge, judge_body,
};
pub(crate) use request::{Outgoing, RequestPlan};
pub(crate) use status::StatusSet;
pub(crate) use template::{HeaderField, ParamField};
