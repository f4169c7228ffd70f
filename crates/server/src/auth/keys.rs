//! The keys of a running server: looked up for each request, kept in step with the database.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use super::bucket::{Bucket, Level};
use super::caller::TokensUsed;
use super::key::{self, KeyRecord, NewKey};
use super::store::{KeyError, KeyStore, Usage};
use crate::error::{ApiError, ErrorCode};

/// A day, in seconds.
const DAY: u64 = 24 * 60 * 60;
/// After a refusal for concurrency: nobody knows when a request ends.
const CONCURRENCY_RETRY: Duration = Duration::from_secs(1);

/// One key of a running server.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) record: KeyRecord,
    /// Cancelled when the key is revoked.
    pub(crate) revoked: CancellationToken,
    live: Mutex<Live>,
}

/// What changes with each request.
#[derive(Debug)]
struct Live {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
    n_running: u64,
    /// Tokens that running requests may still use.
    reserved: u64,
    /// As the database has it.
    stored: Usage,
    /// On its way to the database.
    sending: Usage,
    /// Not on its way yet.
    pending: Usage,
}

impl Live {
    fn tokens_on(&self, day: u64) -> u64 {
        [&self.stored, &self.sending, &self.pending]
            .iter()
            .filter(|usage| usage.day == day)
            .fold(self.reserved, |sum, usage| {
                sum.saturating_add(usage.tokens_today)
            })
    }
}

/// The limits of a key as the headers tell them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Levels {
    pub(crate) requests: Option<Level>,
    pub(crate) tokens: Option<Level>,
}

impl Key {
    fn new(record: KeyRecord, stored: Usage, now: Duration) -> Self {
        let revoked = CancellationToken::new();
        if record.revoked.is_some() {
            revoked.cancel();
        }
        let limits = &record.limits;
        let live = Live {
            requests: limits.requests_per_minute.map(|n| Bucket::new(n, now)),
            tokens: limits.tokens_per_minute.map(|n| Bucket::new(n, now)),
            n_running: 0,
            reserved: 0,
            stored,
            sending: Usage::default(),
            pending: Usage::default(),
        };
        Self {
            record,
            revoked,
            live: Mutex::new(live),
        }
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a request from the limits; [`end`](Self::end) gives its place back.
    pub(crate) fn begin(&self, now: Duration) -> Result<(), ApiError> {
        let mut live = self.live();
        if let Some(limit) = self.record.limits.concurrency
            && live.n_running >= limit
        {
            let message =
                format!("requests at the same time: {limit} of {limit} run, wait for one to end");
            return Err(
                ApiError::new(ErrorCode::ConcurrencyLimit, message).after(CONCURRENCY_RETRY)
            );
        }
        if let Some(bucket) = &mut live.requests {
            bucket.take(1, now).map_err(|wait| {
                let limit = bucket.level(now).limit;
                let wait_text = duration(wait);
                let message =
                    format!("requests per minute: all {limit} are used, try again in {wait_text}");
                ApiError::new(ErrorCode::RequestLimit, message).after(wait)
            })?;
        }
        live.n_running += 1;
        live.pending.requests += 1;
        live.pending.last_used = now.as_secs();
        Ok(())
    }

    /// A request ended.
    pub(crate) fn end(&self) {
        self.live().n_running -= 1;
    }

    /// Takes tokens from the limits before they are used; [`settle`](Self::settle) follows.
    pub(crate) fn reserve(&self, n_tokens: u64, now: Duration) -> Result<(), ApiError> {
        let mut live = self.live();
        let limits = &self.record.limits;
        if let Some(quota) = limits.tokens_per_day {
            let used = live.tokens_on(now.as_secs() / DAY);
            if used.saturating_add(n_tokens) > quota {
                let wait = Duration::from_secs(DAY - now.as_secs() % DAY);
                let message = format!(
                    "tokens per day: {used} of {quota} are used and this request may use {n_tokens}; \
                     the quota is new in {}",
                    duration(wait)
                );
                return Err(ApiError::new(ErrorCode::QuotaExceeded, message).after(wait));
            }
        }
        if let Some(limit) = limits.tokens_per_minute.filter(|&limit| n_tokens > limit) {
            let message =
                format!("tokens per minute: {limit}, and this request alone may use {n_tokens}");
            return Err(ApiError::new(ErrorCode::RequestOverTokenLimit, message));
        }
        if let Some(bucket) = &mut live.tokens {
            bucket.take(n_tokens, now).map_err(|wait| {
                let level = bucket.level(now);
                let message = format!(
                    "tokens per minute: {} of {} are left and this request may use {n_tokens}, try again in {}",
                    level.remaining,
                    level.limit,
                    duration(wait)
                );
                ApiError::new(ErrorCode::TokenLimit, message).after(wait)
            })?;
        }
        live.reserved = live.reserved.saturating_add(n_tokens);
        Ok(())
    }

    /// Puts what was used in the place of what was reserved.
    pub(crate) fn settle(&self, reserved: u64, tokens: TokensUsed, now: Duration) {
        let used = tokens.prompt.saturating_add(tokens.completion);
        let mut live = self.live();
        if let Some(bucket) = &mut live.tokens {
            match used.checked_sub(reserved) {
                Some(more) => bucket.take_more(more),
                None => bucket.give(reserved - used),
            }
        }
        live.reserved = live.reserved.saturating_sub(reserved);
        live.pending.add(&Usage {
            day: now.as_secs() / DAY,
            tokens_today: used,
            prompt_tokens: tokens.prompt,
            completion_tokens: tokens.completion,
            ..Usage::default()
        });
    }

    pub(crate) fn levels(&self, now: Duration) -> Levels {
        let mut live = self.live();
        Levels {
            requests: live.requests.as_mut().map(|bucket| bucket.level(now)),
            tokens: live.tokens.as_mut().map(|bucket| bucket.level(now)),
        }
    }
}

/// A time as OpenAI's headers write it: `17ms`, `1.5s`, `6m0s`, `23h59m0s`.
pub(crate) fn duration(time: Duration) -> String {
    let ms = time.as_millis();
    if ms < 1000 {
        return format!("{ms}ms");
    }
    let (minutes, ms) = (ms / 60_000, ms % 60_000);
    let mut seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
    seconds.truncate(seconds.trim_end_matches('0').trim_end_matches('.').len());
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// All keys of a running server: those of its database, and those of a file that it shares.
#[derive(Debug)]
pub struct Keys {
    store: Option<KeyStore>,
    shared: Option<PathBuf>,
    by_id: RwLock<HashMap<String, Arc<Key>>>,
    was_any_made: AtomicBool,
    /// One exchange with the files at a time.
    synced: Mutex<Synced>,
}

/// What the last exchange with the files came to.
#[derive(Debug, Default)]
struct Synced {
    /// When database and shared file were written to.
    modified: [Option<SystemTime>; 2],
    /// All keys, the oldest first.
    keys: Vec<(KeyRecord, Usage)>,
}

impl Keys {
    /// The keys of a database and of a shared file, which are read.
    pub(crate) fn open(
        store: Option<KeyStore>,
        shared: Option<PathBuf>,
        now: Duration,
    ) -> Result<Self, KeyError> {
        let keys = Self {
            store,
            shared,
            by_id: RwLock::default(),
            was_any_made: AtomicBool::new(false),
            synced: Mutex::default(),
        };
        keys.sync(now)?;
        Ok(keys)
    }

    /// The key that this is.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Key>, ApiError> {
        // OpenAI's words: LiteLLM knows by them, and not by the status, that it is the key.
        let wrong = |why| {
            ApiError::new(
                ErrorCode::InvalidKey,
                format!("Incorrect API key provided: {why}"),
            )
        };
        let id = key::id_of(text)
            .ok_or_else(|| wrong("it has not the form of one that this server makes"))?;
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        match by_id.get(id) {
            Some(key) if key.record.is_key(text) => match key.revoked.is_cancelled() {
                true => Err(wrong("it is revoked")),
                false => Ok(Arc::clone(key)),
            },
            _ => Err(wrong("it is not one of this server's")),
        }
    }

    /// Whether a key was ever made, revoked or not, or keys are expected from a shared file. It
    /// stays so while the process runs: files that are lost do not open the door.
    pub fn is_any_made(&self) -> bool {
        self.shared.is_some() || self.was_any_made.load(Ordering::Relaxed)
    }

    /// Whether a key can be used.
    pub fn is_any_valid(&self) -> bool {
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        by_id.values().any(|key| !key.revoked.is_cancelled())
    }

    /// Whether the database changed since it was read, or has to be told what was used.
    pub(crate) fn changes(&self) -> Changes {
        // An exchange that runs now sees them, or the next look does.
        if let Ok(synced) = self.synced.try_lock()
            && synced.modified != self.modified()
        {
            return Changes::File;
        }
        let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        let is_used = |key: &Arc<Key>| key.live().pending != Usage::default();
        match self.store.is_some() && by_id.values().any(is_used) {
            true => Changes::Usage,
            false => Changes::None,
        }
    }

    fn modified(&self) -> [Option<SystemTime>; 2] {
        let shared = self.shared.as_ref();
        [
            self.store.as_ref().and_then(KeyStore::modified),
            shared.and_then(|path| std::fs::metadata(path).ok()?.modified().ok()),
        ]
    }

    /// Writes down what was used and takes over what changed: new keys, revoked ones, and what
    /// other servers used. Blocks on the files.
    pub(crate) fn sync(&self, now: Duration) -> Result<(), KeyError> {
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        // Read first: where it cannot be, nothing is to be undone.
        let shared = match &self.shared {
            Some(path) => read_shared(path)?,
            None => Vec::new(),
        };
        let known: Vec<Arc<Key>> = {
            let by_id = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
            by_id.values().map(Arc::clone).collect()
        };
        let mut more = Vec::new();
        if self.store.is_some() {
            for key in &known {
                let mut live = key.live();
                if live.pending != Usage::default() {
                    live.sending = std::mem::take(&mut live.pending);
                    more.push((key.record.id.clone(), live.sending.clone()));
                }
            }
        }
        let stored = match &self.store {
            Some(store) => store.add_usage(&more),
            None => Ok((Vec::new(), HashMap::new())),
        };
        let (mut records, usages) = match stored {
            Ok(stored) => stored,
            Err(error) => {
                for key in &known {
                    let mut live = key.live();
                    let mut unsent = std::mem::take(&mut live.sending);
                    unsent.add(&live.pending);
                    live.pending = unsent;
                }
                return Err(error);
            }
        };
        // The database's word counts: a shared key may be revoked there.
        for record in shared {
            if !records.iter().any(|known| known.id == record.id) {
                records.push(record);
            }
        }
        records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
        let mut by_id = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let mut gone = std::mem::take(&mut *by_id);
        synced.keys.clear();
        if !records.is_empty() {
            self.was_any_made.store(true, Ordering::Relaxed);
        }
        for record in records {
            let usage = usages.get(&record.id).cloned().unwrap_or_default();
            synced.keys.push((record.clone(), usage.clone()));
            let known = gone.remove(&record.id);
            by_id.insert(record.id.clone(), renew(known, record, usage, now));
        }
        // What no file has any more is revoked.
        for key in gone.into_values() {
            key.revoked.cancel();
        }
        synced.modified = self.modified();
        Ok(())
    }

    /// Makes a key. Blocks on the file.
    pub(crate) fn create(
        &self,
        new: NewKey,
        now: Duration,
    ) -> Result<(KeyRecord, String), KeyError> {
        let made = self.store()?.create(new, now)?;
        self.sync(now)?;
        Ok(made)
    }

    /// Revokes a key by its id or name. Blocks on the file.
    pub(crate) fn revoke(
        &self,
        id_or_name: &str,
        now: Duration,
    ) -> Result<(KeyRecord, Usage), KeyError> {
        // What was used until now is in the answer.
        self.sync(now)?;
        let revoked = self.store()?.revoke(id_or_name, now)?;
        self.sync(now)?;
        Ok(revoked)
    }

    /// All keys with what they used until now. Blocks on the file.
    pub(crate) fn list(&self, now: Duration) -> Result<Vec<(KeyRecord, Usage)>, KeyError> {
        self.sync(now)?;
        let synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(synced.keys.clone())
    }

    fn store(&self) -> Result<&KeyStore, KeyError> {
        self.store.as_ref().ok_or_else(|| KeyError::Invalid {
            field: "auth.keys_file",
            message: "auth.keys_file: not set, expected a file to keep keys in".to_owned(),
        })
    }
}

/// A key as the files have it now; its running requests go on unless it is revoked.
fn renew(known: Option<Arc<Key>>, record: KeyRecord, usage: Usage, now: Duration) -> Arc<Key> {
    let Some(known) = known else {
        return Arc::new(Key::new(record, usage, now));
    };
    if record.revoked.is_some() {
        known.revoked.cancel();
    }
    let is_same = KeyRecord {
        revoked: known.record.revoked,
        ..record.clone()
    } == known.record;
    let mut live = known.live();
    live.sending = Usage::default();
    if is_same {
        live.stored = usage;
        drop(live);
        return known;
    }
    // Other limits begin anew.
    let mut new = Key::new(record, usage, now);
    new.live().pending = std::mem::take(&mut live.pending);
    new.revoked = known.revoked.clone();
    Arc::new(new)
}

/// The keys of a file as `minerva key export` writes it.
fn read_shared(path: &Path) -> Result<Vec<KeyRecord>, KeyError> {
    let wrong = |message: String| KeyError::File {
        path: path.to_owned(),
        message,
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let records: Vec<KeyRecord> =
        serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    for record in &records {
        record
            .check()
            .map_err(|message| wrong(format!("key {:?}: {message}", record.id)))?;
    }
    Ok(records)
}

/// What [`Keys::sync`] would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Changes {
    /// Nothing.
    None,
    /// Write down what was used.
    Usage,
    /// Read what somebody else wrote.
    File,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{KeyLimits, Scope};

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const fn tokens(prompt: u64, completion: u64) -> TokensUsed {
        TokensUsed { prompt, completion }
    }

    fn key(limits: KeyLimits) -> Key {
        let new = NewKey {
            name: "a".to_owned(),
            scopes: vec![Scope::Infer],
            models: None,
            limits,
        };
        Key::new(new.make(0).0, Usage::default(), at(0))
    }

    #[test]
    fn times_are_written_as_openai_writes_them() {
        for (ms, text) in [
            (0, "0ms"),
            (17, "17ms"),
            (1000, "1s"),
            (1500, "1.5s"),
            (7660, "7.66s"),
            (360_000, "6m0s"),
            (86_399_001, "23h59m59.001s"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn running_requests_hold_their_part_of_the_quota() {
        let key = key(KeyLimits {
            tokens_per_day: Some(100),
            ..KeyLimits::default()
        });
        key.reserve(60, at(0)).unwrap();
        let error = key.reserve(41, at(DAY - 10)).unwrap_err();
        assert_eq!(error.code, ErrorCode::QuotaExceeded);
        assert_eq!(error.retry_after, Some(at(10)));
        key.settle(60, tokens(20, 5), at(0));
        key.reserve(75, at(0)).unwrap();
        assert!(key.reserve(1, at(0)).is_err());
        key.settle(75, tokens(0, 0), at(0));
        key.settle(0, tokens(100, 0), at(1));
        assert!(key.reserve(1, at(DAY - 1)).is_err());
        key.reserve(100, at(DAY)).unwrap();
    }

    #[test]
    fn tokens_that_were_not_used_come_back() {
        let key = key(KeyLimits {
            tokens_per_minute: Some(600),
            ..KeyLimits::default()
        });
        let left = || key.levels(at(0)).tokens.unwrap().remaining;
        key.reserve(600, at(0)).unwrap();
        let error = key.reserve(10, at(0)).unwrap_err();
        assert_eq!(
            (error.code, error.retry_after),
            (ErrorCode::TokenLimit, Some(at(1)))
        );
        key.settle(600, tokens(50, 50), at(0));
        assert_eq!(left(), 500);
        let error = key.reserve(601, at(0)).unwrap_err();
        assert_eq!(
            (error.code, error.retry_after),
            (ErrorCode::RequestOverTokenLimit, None)
        );
    }
}
