//! Watches that are opened and cancelled at random: each is told its first decision and changes of it until it is cancelled or
//! ends, and nothing after that.

use std::sync::Arc;

use alta_auth::{Completed, Engine, Receiver, SubmitError};
use parking_lot::Mutex;

use super::claims::{Asked, Claims};
use super::draw::Texts;
use super::support::Random;
use super::world::{Told, user};

const PLACES: usize = 8;

#[derive(Default)]
struct Place {
    turn: usize,
    asked: Option<Asked>,
    ticket: u64,
    /// A cancel came too late: one more decision follows, the last.
    ending: bool,
}

struct State {
    places: [Mutex<Place>; PLACES],
    claims: Arc<Claims>,
}

pub(crate) struct Watchers {
    state: Arc<State>,
}

impl Receiver for State {
    fn receive(&self, batch: &mut Vec<Completed>) {
        for completed in batch.drain(..) {
            completed.hand_over(|user_data, decision| {
                let mut place = self.places[user_data % PLACES].lock();
                let Some(asked) = place.asked.filter(|_| place.turn == user_data / PLACES) else {
                    self.claims.wrong(|| format!("a watch was told after its end: {decision:?}"));
                    return;
                };
                let told = Told::parse(decision.location());
                let its_own = told.is_none_or(|told| {
                    let key = (told.session, told.ip, told.token);
                    key == (asked.session, asked.ip, asked.token) && decision.user_id() == user(asked.session)
                });
                if !its_own {
                    self.claims.wrong(|| format!("another watch's decision: {asked:?}, {decision:?}"));
                }
                if decision.last {
                    place.asked = None;
                }
            });
        }
    }
}

impl Watchers {
    pub(crate) fn new(claims: Arc<Claims>) -> Self {
        Self { state: Arc::new(State { places: std::array::from_fn(|_| Mutex::default()), claims }) }
    }

    /// Opens one where there is room, or cancels one.
    pub(crate) fn meddle(&self, random: &Random, engine: &Engine, asked: Asked) {
        let index = random.below(PLACES as u64) as usize;
        let (open, turn, ticket) = {
            let mut place = self.state.places[index].lock();
            let open = place.asked.is_some();
            if !open {
                place.turn += 1;
                place.asked = Some(asked);
                place.ending = false;
                place.ticket = 0;
            } else if place.ending {
                return;
            }
            (open, place.turn, place.ticket)
        };
        if open {
            let in_time = engine.cancel(ticket);
            let mut place = self.state.places[index].lock();
            if place.turn == turn && place.asked.is_some() {
                place.ending = !in_time;
                if in_time {
                    place.asked = None;
                }
            } else if in_time {
                self.state.claims.wrong(|| "a watch was cancelled in time, and had ended".to_owned());
            }
            return;
        }
        let asked = asked.audible();
        let texts = Texts::of(&asked);
        let receiver: Arc<dyn Receiver> = Arc::clone(&self.state) as _;
        let outcome = engine.watch(&texts.check(&asked), &receiver, turn * PLACES + index);
        let mut place = self.state.places[index].lock();
        match outcome {
            // It may have ended already.
            Ok(ticket) => place.ticket = ticket,
            Err(SubmitError::Full) => place.asked = None,
            Err(error) => self.state.claims.wrong(|| format!("not watched: {error}")),
        }
    }

    /// After the engine: each was told that it has ended.
    pub(crate) fn ended(self) -> Result<(), String> {
        let open = self.state.places.iter().filter(|place| place.lock().asked.is_some()).count();
        if open > 0 {
            return Err(format!("{open} watches were never told of their end"));
        }
        if Arc::strong_count(&self.state) > 1 {
            return Err("the engine has kept a watch".to_owned());
        }
        Ok(())
    }
}
