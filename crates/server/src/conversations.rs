//! Responses that can be asked for and gone on from later: in memory, bounded for each key.
//!
//! A turn holds its own input and output only; a conversation is the chain of turns, each of which
//! names the one before it. Reading a chain makes all of it recent, so that what is evicted is what
//! nobody goes on from.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use crate::error::{ApiError, ErrorCode};
use crate::openai::{Item, Message, ResponseObject};

/// The id of the key whose responses they are; empty where no key is needed.
pub(crate) type Owner = String;

/// One response and what it answered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    /// What was new in the conversation.
    pub(crate) input: Vec<Item>,
    /// The answer.
    pub(crate) response: ResponseObject,
}

/// How much is kept for each key.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Responses.
    pub(crate) n_turns: usize,
    /// Bytes of their JSON.
    pub(crate) n_bytes: usize,
    /// Since they were last used.
    pub(crate) age: Duration,
}

/// Who may see a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// All requests of its key.
    Key,
    /// One socket, while it is open.
    Socket(u64),
}

/// The responses of all keys.
#[derive(Debug, Default)]
pub(crate) struct Conversations {
    shelves: Mutex<HashMap<Owner, Shelf>>,
    n_sockets: AtomicU64,
}

/// The responses of one key.
#[derive(Debug, Default)]
struct Shelf {
    turns: HashMap<String, Kept>,
    /// Ids by the order of their last use.
    order: BTreeMap<u64, String>,
    n_bytes: usize,
    n_uses: u64,
}

#[derive(Debug)]
struct Kept {
    turn: Arc<Turn>,
    reach: Reach,
    n_bytes: usize,
    use_idx: u64,
    used: Duration,
}

impl Conversations {
    /// A reach that no other socket has.
    pub(crate) fn new_socket(&self) -> Reach {
        Reach::Socket(self.n_sockets.fetch_add(1, Ordering::Relaxed))
    }

    /// Keeps a turn, and lets go of what is over the bounds then, the least recently used first.
    /// False if the turn alone is over them.
    pub(crate) fn keep(
        &self,
        owner: &Owner,
        reach: Reach,
        turn: Turn,
        bounds: Bounds,
        now: Duration,
    ) -> bool {
        // Not under the lock: it takes its time.
        let n_bytes = serde_json::to_string(&turn).map_or(usize::MAX, |json| json.len());
        let mut shelves = self.lock();
        // A key that was revoked never comes by again itself.
        shelves.retain(|_, shelf| {
            shelf.expire(bounds.age, now);
            !shelf.turns.is_empty()
        });
        if n_bytes > bounds.n_bytes || bounds.n_turns == 0 {
            return false;
        }
        let shelf = shelves.entry(owner.clone()).or_default();
        shelf.put(reach, turn, n_bytes, now);
        while shelf.n_bytes > bounds.n_bytes || shelf.turns.len() > bounds.n_turns {
            shelf.evict();
        }
        true
    }

    /// A turn that is kept for all requests of the key.
    pub(crate) fn get(
        &self,
        owner: &Owner,
        id: &str,
        bounds: Bounds,
        now: Duration,
    ) -> Option<Arc<Turn>> {
        let mut shelves = self.lock();
        let shelf = shelves.get_mut(owner)?;
        shelf.expire(bounds.age, now);
        let kept = shelf.turns.get(id)?;
        let turn = (kept.reach == Reach::Key).then(|| Arc::clone(&kept.turn))?;
        shelf.touch(id, now);
        Some(turn)
    }

    /// Lets go of a turn; false if there is none.
    pub(crate) fn delete(&self, owner: &Owner, id: &str) -> bool {
        let mut shelves = self.lock();
        let Some(shelf) = shelves.get_mut(owner) else {
            return false;
        };
        match shelf.turns.get(id) {
            Some(kept) if kept.reach == Reach::Key => {}
            _ => return false,
        }
        shelf.remove(id);
        true
    }

    /// The messages of a conversation until a response, that one included.
    pub(crate) fn history(
        &self,
        owner: &Owner,
        reach: Reach,
        id: &str,
        bounds: Bounds,
        now: Duration,
    ) -> Result<Vec<Message>, ApiError> {
        let mut turns = Vec::new();
        {
            let mut shelves = self.lock();
            let shelf = shelves.entry(owner.clone()).or_default();
            shelf.expire(bounds.age, now);
            let mut next = Some(id.to_owned());
            // A chain has no circle: each turn names one that was there before it.
            while let Some(id) = next {
                let kept = shelf.turns.get(&id);
                let kept = kept.filter(|kept| kept.reach == Reach::Key || kept.reach == reach);
                let Some(kept) = kept else {
                    return Err(not_kept(&id));
                };
                next = kept.turn.response.previous_response_id.clone();
                turns.push(Arc::clone(&kept.turn));
            }
            for turn in turns.iter().rev() {
                shelf.touch(&turn.response.id, now);
            }
        }
        let messages = turns.iter().rev().flat_map(|turn| {
            let output = turn.response.output.iter();
            let output = output.map(|message| Item::Output(message.clone()).message());
            turn.input.iter().map(Item::message).chain(output)
        });
        Ok(messages.collect())
    }

    /// Lets go of what a socket alone could see.
    pub(crate) fn close(&self, owner: &Owner, socket: Reach) {
        let mut shelves = self.lock();
        let Some(shelf) = shelves.get_mut(owner) else {
            return;
        };
        let turns = shelf.turns.iter();
        let gone = turns.filter(|(_, kept)| kept.reach == socket);
        let gone: Vec<String> = gone.map(|(id, _)| id.clone()).collect();
        for id in gone {
            shelf.remove(&id);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, Shelf>> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    fn put(&mut self, reach: Reach, turn: Turn, n_bytes: usize, now: Duration) {
        let id = turn.response.id.clone();
        self.n_bytes += n_bytes;
        self.n_uses += 1;
        self.order.insert(self.n_uses, id.clone());
        let kept = Kept {
            turn: Arc::new(turn),
            reach,
            n_bytes,
            use_idx: self.n_uses,
            used: now,
        };
        self.turns.insert(id, kept);
    }

    fn touch(&mut self, id: &str, now: Duration) {
        let Some(kept) = self.turns.get_mut(id) else {
            return;
        };
        self.n_uses += 1;
        self.order.remove(&kept.use_idx);
        self.order.insert(self.n_uses, id.to_owned());
        kept.use_idx = self.n_uses;
        kept.used = now;
    }

    fn remove(&mut self, id: &str) {
        if let Some(kept) = self.turns.remove(id) {
            self.order.remove(&kept.use_idx);
            self.n_bytes -= kept.n_bytes;
        }
    }

    fn evict(&mut self) {
        if let Some((_, id)) = self.order.pop_first() {
            self.remove(&id);
        }
    }

    fn expire(&mut self, age: Duration, now: Duration) {
        while let Some((_, id)) = self.order.first_key_value() {
            let is_old = |kept: &Kept| now.saturating_sub(kept.used) > age;
            if !self.turns.get(id).is_some_and(is_old) {
                return;
            }
            self.evict();
        }
    }
}

fn not_kept(id: &str) -> ApiError {
    let message = format!(
        "previous_response_id: {id:?} is not there: it was not stored, was deleted, or had to go"
    );
    ApiError::new(ErrorCode::UnknownPreviousResponse, message).about("previous_response_id")
}
