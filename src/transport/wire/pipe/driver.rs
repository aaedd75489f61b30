//! The task that writes and reads for a pipe.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::ReadBuf;
use tokio::task::spawn_local;
use tokio::time::{Instant, Sleep, sleep};

use super::super::framing::Framing;
use super::super::held::Held;
use super::super::reply::{Section, parse};
use super::super::{keep, stream};
use super::{Doubt, End, Pipe, Slot};
use crate::transport::Stage;
use crate::transport::body::{DRAIN_BYTES, DRAIN_TIME};
use crate::transport::conn::{Fault, system_heard};
use crate::transport::dial::Look;
use crate::transport::head::{Fed, HeadReader};
use crate::transport::pool::Lease;

pub(super) fn start(pipe: Rc<Pipe>, lease: Lease) {
    // Before the task, which may be dropped before it has begun.
    let mut driver = Driver::new(pipe, lease);
    spawn_local(async move {
        poll_fn(|cx| driver.turn(cx)).await;
        driver.finish();
    });
}

struct Driver {
    pipe: Rc<Pipe>,
    lease: Option<Lease>,
    /// Requests that go out in one write, and how much of them has.
    batch: Vec<u8>,
    at: usize,
    flushing: bool,
    /// So much was sent when the batch was put together.
    sound: u64,
    /// Something has come that only a read can tell, and the system has not told all yet.
    hearing: Option<Pin<Box<dyn Future<Output = ()>>>>,
    /// The peer has stopped reading.
    refused: Option<String>,
    /// The reply that is being read: its header section, where that did not come as a whole, then its body.
    reader: Option<Box<HeadReader>>,
    framing: Option<Framing>,
    /// Bytes of the body so far. While it is needed, of its content: chunks have 20 bytes around each at most, and 64 KiB of
    /// other things.
    length: usize,
    /// Another request may follow, as far as is known.
    persistent: bool,
    /// Nobody waits for the reply that is next, and no longer than this.
    patience: Option<Pin<Box<Sleep>>>,
    /// Replies that were read to their end.
    replies: u64,
    /// When it is looked whether there were more of them than these.
    stall: Option<(Pin<Box<Sleep>>, u64)>,
}

/// The pipe has ended, or there is nothing to do for now.
type Turn = Poll<()>;

impl Driver {
    fn new(pipe: Rc<Pipe>, lease: Lease) -> Self {
        Self {
            pipe,
            lease: Some(lease),
            batch: Vec::new(),
            at: 0,
            flushing: false,
            sound: 0,
            hearing: None,
            refused: None,
            reader: None,
            framing: None,
            length: 0,
            persistent: true,
            patience: None,
            replies: 0,
            stall: None,
        }
    }

    /// As long as there is something to read, that first: what is there before a request goes out is not its answer.
    fn turn(&mut self, cx: &mut Context<'_>) -> Turn {
        self.pipe.state.borrow_mut().driver = Some(cx.waker().clone());
        let mut has_read = false;
        loop {
            if self.pipe.state.borrow().ended {
                return Poll::Ready(());
            }
            if self.read(cx).is_ready() {
                has_read = true;
                continue;
            }
            if has_read && !self.pipe.state.borrow().waiting.is_empty() {
                // First those who were answered make room for others, so that these are in the next batch.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            while self.write(cx).is_ready() && !self.pipe.state.borrow().ended {}
            if self.is_quiet() {
                return Poll::Ready(());
            }
            if self.has_patience(cx) && !self.has_stalled(cx) {
                return Poll::Pending;
            }
        }
    }

    /// Nobody is on the pipe, nor will be.
    fn is_quiet(&self) -> bool {
        let mut state = self.pipe.state.borrow_mut();
        let quiet = state.seats == 0 && state.waiting.is_empty() && state.sent.is_empty();
        state.closing |= quiet;
        quiet
    }

    /// What was given up is read to be thrown away, for a while; and not at all if nobody else waits.
    fn has_patience(&mut self, cx: &mut Context<'_>) -> bool {
        let state = self.pipe.state.borrow();
        let Some(front) = state.sent.get(state.answered).filter(|front| front.judged.get()) else {
            self.patience = None;
            return true;
        };
        let abandoned = |slot: &Rc<Slot>| slot.judged.get() && !slot.taken.get();
        let alone = state.seats == 0 && state.waiting.is_empty();
        let in_vain = alone && abandoned(front) && state.sent.iter().skip(state.answered).all(abandoned);
        drop(state);
        let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(DRAIN_TIME)));
        let has = !in_vain && patience.as_mut().poll(cx).is_pending();
        if !has {
            self.end(None, Doubt::None);
        }
        has
    }

    /// A reply that does not come, within one to two times [`Limits::stall`], holds nobody else up: those behind it have time
    /// left to be asked again. It may itself be missing only because the peer has dropped what came behind another request.
    ///
    /// [`Limits::stall`]: crate::transport::pool::Limits::stall
    fn has_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        let state = self.pipe.state.borrow();
        let Some(front) = state.sent.get(state.answered) else { return false };
        let dropped = front.behind.get() && !front.received.get();
        let holds = dropped || state.sent.len() - state.answered > 1 || !state.waiting.is_empty();
        drop(state);
        if self.stall.is_none() && !holds {
            return false;
        }
        let (limit, replies) = (self.pipe.pool.limits.stall, self.replies);
        let (tick, before) = self.stall.get_or_insert_with(|| (Box::pin(sleep(limit)), replies));
        while tick.as_mut().poll(cx).is_ready() {
            tick.as_mut().reset(Instant::now() + limit);
            if std::mem::replace(before, replies) == replies && holds {
                if dropped {
                    self.end(None, Doubt::None);
                } else {
                    self.cut_behind(0);
                }
                return true;
            }
        }
        false
    }

    fn end(&mut self, fault: Option<Fault>, doubt: Doubt) {
        self.pipe.end(fault, self.refused.as_deref(), doubt);
    }

    /// Of those behind the reply that is being read nothing more is written: they are asked elsewhere.
    fn cut_behind(&mut self, announced: u64) {
        if let Some(ends) = self.pipe.cut_behind(announced) {
            let kept = usize::try_from(ends.saturating_sub(self.sound)).unwrap_or(usize::MAX);
            self.batch.truncate(kept.max(self.at));
            // Their replies may still come.
            self.persistent = false;
        }
    }

    fn lease(&mut self) -> &mut Lease {
        self.lease.as_mut().expect("taken at the end only")
    }

    /// Ready: something was done.
    fn read(&mut self, cx: &mut Context<'_>) -> Turn {
        let desk = Rc::clone(&self.lease().pool().desk);
        let room = &mut *desk.reply.borrow_mut();
        let mut buf = ReadBuf::new(room);
        let Poll::Ready(read) = Pin::new(&mut *stream(self.lease()).io).poll_read(cx, &mut buf) else {
            return Poll::Pending;
        };
        match read {
            Ok(()) if buf.filled().is_empty() => {
                let slot = self.next();
                if let (Some(slot), Some(Framing::UntilClose)) = (slot, self.framing) {
                    self.complete(&slot);
                }
                self.end(None, Doubt::None);
            }
            Ok(()) => self.feed(buf.filled()),
            Err(error) => self.end(Fault::of_tls(&error), Doubt::None),
        }
        Poll::Ready(())
    }

    /// Whose reply comes next.
    fn next(&self) -> Option<Rc<Slot>> {
        let state = self.pipe.state.borrow();
        state.sent.get(state.answered).cloned()
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.pipe.state.borrow().ended {
            let written = self.pipe.state.borrow().written;
            // Nobody asked for them, or nobody has yet.
            let Some(slot) = self.next().filter(|slot| slot.begins.get() < written) else {
                return self.end(Some(Fault::Surplus), Doubt::Shared);
            };
            let before = bytes.len();
            let all = bytes;
            if !slot.judged.get() {
                slot.progress.enter(Stage::Replying);
            }
            slot.received.set(true);
            // The last of a batch may be with the layer below, and not be sent yet.
            let sent = if self.flushing && self.at == self.batch.len() { self.sound } else { written };
            let unsent = slot.ends.get() > sent;
            slot.early.set(slot.early.get() | unsent);
            match self.framing {
                None => self.head(&slot, &mut bytes),
                Some(_) => self.body(&slot, &mut bytes),
            }
            if let Some(trace) = &slot.progress.trace {
                trace.borrow_mut().received.extend_from_slice(&all[..before - bytes.len()]);
            }
        }
    }

    fn head(&mut self, slot: &Rc<Slot>, bytes: &mut &[u8]) {
        if self.reader.is_none()
            && let Some((section, held)) = self.understand(bytes)
        {
            *bytes = &bytes[section.len..];
            return self.begin(slot, section, held);
        }
        let mut reader = self.reader.take().unwrap_or_default();
        let fed = reader.feed(bytes);
        let rule = match fed {
            Fed::Partial(status) => {
                self.says(slot, status);
                *bytes = &[];
                self.reader = Some(reader);
                return;
            }
            Fed::Complete(status) => {
                self.says(slot, Some(status));
                *bytes = &bytes[bytes.len() - reader.rest()..];
                match self.understand(reader.section()) {
                    Some((section, held)) => return self.begin(slot, section, held),
                    None => "cannot be read",
                }
            }
            Fed::Broken(rule, status) => {
                self.says(slot, status);
                rule
            }
        };
        *bytes = &[];
        self.end(Some(Fault::Rule(rule)), Doubt::None);
    }

    fn understand(&self, bytes: &[u8]) -> Option<(Section, Held)> {
        parse(bytes, |head| Held::of(head, self.pipe.pool.desk.spares.take()))
    }

    fn says(&self, slot: &Rc<Slot>, status: Option<u16>) {
        slot.status.set(status);
        self.pipe.show(slot);
    }

    /// How many the connection has given, with the one that is being read.
    fn answers(&mut self) -> u64 {
        let state = self.pipe.state.borrow();
        let awaited = (state.sent.len() - state.answered) as u64;
        drop(state);
        (self.lease().conn().uses + 1).saturating_sub(awaited)
    }

    /// A header section is complete.
    fn begin(&mut self, slot: &Rc<Slot>, section: Section, held: Held) {
        self.says(slot, Some(section.status));
        if slot.early.get() {
            return self.end(Some(Fault::EARLY), Doubt::None);
        }
        slot.outcome.replace(Some(Ok(held)));
        slot.wake();
        self.persistent &= section.persistent;
        if !(section.certain && self.persistent) {
            let announced = if section.certain { self.answers() } else { 0 };
            self.cut_behind(announced);
        }
        (self.framing, self.length) = (Some(section.framing), 0);
        if section.framing.is_complete() {
            self.complete(slot);
        }
    }

    fn body(&mut self, slot: &Rc<Slot>, bytes: &mut &[u8]) {
        let most = self.lease().pool().limits.max_body;
        let Some(framing) = &mut self.framing else { return };
        let needed = most > 0 && !slot.judged.get();
        let mut content = 0;
        let eaten = framing.eat(bytes, |data| {
            content += data.len();
            keep(&mut slot.kept.borrow_mut(), data, most);
        });
        let is_complete = framing.is_complete();
        let Ok(eaten) = eaten else {
            *bytes = &[];
            return self.end(None, Doubt::None);
        };
        *bytes = &bytes[eaten..];
        self.length += if needed { content } else { eaten };
        if is_complete {
            return self.complete(slot);
        }
        slot.wake();
        if self.length > if needed { DRAIN_BYTES.max(most) } else { DRAIN_BYTES } {
            self.end(None, Doubt::None);
        }
    }

    /// A reply has been read to its end.
    fn complete(&mut self, slot: &Rc<Slot>) {
        (self.framing, self.reader, self.patience) = (None, None, None);
        slot.body.set(End::Whole);
        self.replies += 1;
        let mut state = self.pipe.state.borrow_mut();
        state.answered += 1;
        let proof = slot.behind.get() && !state.closing;
        drop(state);
        slot.wake();
        // Otherwise it is its exchange that does, when it leaves.
        if slot.judged.get() {
            self.pipe.settle();
        }
        if proof {
            self.pipe.pool.window_holds();
        }
        if !self.persistent {
            self.end(None, Doubt::None);
        }
    }

    /// Ready: something was done.
    fn write(&mut self, cx: &mut Context<'_>) -> Turn {
        if self.refused.is_some() {
            return Poll::Pending;
        }
        if self.at == self.batch.len() && !self.flushing {
            if !self.is_due() {
                self.hearing = None;
                return Poll::Pending;
            }
            match ready!(self.look(cx)) {
                Look::Nothing | Look::Unknown => {}
                Look::Surplus => {
                    self.end(Some(Fault::Surplus), Doubt::Shared);
                    return Poll::Ready(());
                }
                Look::Closed => {
                    self.end(None, Doubt::None);
                    return Poll::Ready(());
                }
            }
            if !self.gather() {
                return Poll::Pending;
            }
        }
        if self.at < self.batch.len() {
            let Self { lease, batch, at, .. } = self;
            let lease = lease.as_mut().expect("taken at the end only");
            let polled = Pin::new(&mut *stream(lease).io).poll_write(cx, &batch[*at..]);
            match polled {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => self.stop(None, "it takes nothing"),
                Poll::Ready(Ok(more)) => {
                    self.at += more;
                    self.flushing = true;
                    self.wrote(more as u64);
                }
                Poll::Ready(Err(error)) => self.stop(Fault::of_tls(&error), &error.to_string()),
            }
            return Poll::Ready(());
        }
        let lease = self.lease.as_mut().expect("taken at the end only");
        match Pin::new(&mut *stream(lease).io).poll_flush(cx) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(())) => self.flushing = false,
            Poll::Ready(Err(error)) => self.stop(Fault::of_tls(&error), &error.to_string()),
        }
        Poll::Ready(())
    }

    /// At least half of the window is free for those who wait. Who has a seat has been called, and comes within this turn of
    /// the thread.
    fn is_due(&self) -> bool {
        let (window, state) = (self.pipe.pool.limits.pipeline, self.pipe.state.borrow());
        state.seats == 0 && !state.waiting.is_empty() && state.sent.len() - state.answered <= window / 2
    }

    /// What waits on the connection while no reply is awaited: none to what goes out next. Unknown: that was read.
    fn look(&mut self, cx: &mut Context<'_>) -> Poll<Look> {
        let state = self.pipe.state.borrow();
        // Before the first request it was looked at.
        let awaited = state.sent.len() > state.answered || state.written == 0;
        drop(state);
        let look = if awaited { Look::Nothing } else { stream(self.lease()).io.look() };
        if look == Look::Unknown {
            ready!(self.hearing.get_or_insert_with(|| Box::pin(system_heard())).as_mut().poll(cx));
        }
        self.hearing = None;
        Poll::Ready(look)
    }

    /// Puts the next requests together. Who has given up is left out.
    fn gather(&mut self) -> bool {
        self.batch.clear();
        self.at = 0;
        let lease = self.lease.as_mut().expect("taken at the end only");
        let mut state = self.pipe.state.borrow_mut();
        let begin = state.written;
        self.sound = begin;
        self.batch.reserve(state.waiting.iter().map(|slot| slot.request.borrow().len()).sum());
        while let Some(slot) = state.waiting.pop_front() {
            if slot.progress.given_up.get() {
                continue;
            }
            lease.conn().describe(&slot.progress);
            slot.reused.set(lease.conn().is_old());
            lease.ask();
            let request = slot.request.take();
            slot.begins.set(begin + self.batch.len() as u64);
            self.batch.extend_from_slice(&request);
            slot.ends.set(begin + self.batch.len() as u64);
            if let Some(trace) = &slot.progress.trace {
                trace.borrow_mut().sent.extend_from_slice(&request);
            }
            self.pipe.pool.desk.spares.put(request);
            slot.behind.set(state.sent.len() > state.answered);
            state.sent.push_back(slot);
        }
        let unanswered = state.sent.len() - state.answered;
        if unanswered > 1 && !self.batch.is_empty() {
            state.sent.iter().rev().take(unanswered).for_each(|slot| slot.shared.set(true));
        }
        !self.batch.is_empty()
    }

    fn wrote(&self, more: u64) {
        let mut state = self.pipe.state.borrow_mut();
        state.written += more;
        let begun = state.sent.iter().rev().take_while(|slot| slot.progress.stage() < Stage::Written);
        begun
            .filter(|slot| slot.begins.get() < state.written && !slot.judged.get())
            .for_each(|slot| slot.progress.enter(Stage::Written));
    }

    /// The peer takes nothing any more. It may have answered (414): what was begun is waited for.
    fn stop(&mut self, fault: Option<Fault>, why: &str) {
        self.refused = Some(why.to_owned());
        self.persistent = false;
        let state = self.pipe.state.borrow();
        let next = state.sent.get(state.answered);
        let answerable = next.is_some_and(|slot| slot.begins.get() < state.written);
        drop(state);
        if answerable {
            self.pipe.cut_unsent();
        } else {
            self.end(fault, Doubt::None);
        }
    }

    fn finish(mut self) {
        let state = self.pipe.state.borrow();
        let is_over = state.ended || state.retired || !self.persistent;
        drop(state);
        if let Some(lease) = self.lease.take() {
            self.pipe.pool.forget_pipe(&self.pipe);
            if is_over { lease.close() } else { lease.give_back() }
        }
    }
}

impl Drop for Driver {
    /// Not finished: the thread goes, or there was a defect.
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            if std::thread::panicking() {
                self.pipe.crash();
            } else {
                self.pipe.end(None, None, Doubt::None);
            }
            self.pipe.pool.forget_pipe(&self.pipe);
            lease.close();
        }
    }
}
