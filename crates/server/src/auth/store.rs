//! The database of keys and of what they used: one transactional file.
//!
//! The file is opened for each act and closed after it, since only one process can have it open:
//! so `minerva key` works beside a running server, and a server notices the change by the file's
//! time. What was used is added, never set, so that several servers can share a file and a quota.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use redb::{Builder, Database, DatabaseError, ReadableTable, StorageError, TableDefinition};
use serde::{Deserialize, Serialize};

use super::key::{KeyRecord, NewKey};

/// Key records as JSON, by id.
const KEYS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("keys");
/// Usage as JSON, by key id.
const USAGE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("usage");
/// Longest wait for another process to close the file.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to open it.
const LOCK_RETRY: Duration = Duration::from_millis(10);
/// A thousand keys are some hundred KiB; the default of a GiB is for other uses.
const CACHE_BYTES: usize = 1 << 20;

/// What a key used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// The day that `tokens_today` is of, in days since 1970.
    pub day: u64,
    /// Tokens of prompts and answers on that day.
    pub tokens_today: u64,
    /// Requests, ever.
    pub requests: u64,
    /// Tokens of prompts, ever.
    pub prompt_tokens: u64,
    /// Tokens of answers, ever.
    pub completion_tokens: u64,
    /// The last request, in seconds since 1970; 0 for none.
    pub last_used: u64,
}

impl Usage {
    /// Adds what was used since; a later day begins anew.
    pub(crate) fn add(&mut self, more: &Usage) {
        if more.day > self.day {
            self.day = more.day;
            self.tokens_today = 0;
        }
        if more.day == self.day {
            self.tokens_today = self.tokens_today.saturating_add(more.tokens_today);
        }
        self.requests = self.requests.saturating_add(more.requests);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self
            .completion_tokens
            .saturating_add(more.completion_tokens);
        self.last_used = self.last_used.max(more.last_used);
    }
}

/// Why keys cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// A field of a new key cannot be used.
    #[error("{message}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was found and what was wanted.
        message: String,
    },
    /// No key has this id or name.
    #[error("{0}: no such key, expected the id or the name of one")]
    NotFound(String),
    /// Several keys have this name.
    #[error("{name}: {n_keys} keys have this name, expected an id")]
    Ambiguous {
        /// The name.
        name: String,
        /// How many have it.
        n_keys: usize,
    },
    /// The file is in use, and stays so.
    #[error("{}: open in another program for {} s", path.display(), LOCK_TIMEOUT.as_secs())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be used.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
}

/// The database of keys.
#[derive(Debug)]
pub struct KeyStore {
    path: PathBuf,
    /// One act at a time in this process; the file's own lock is for the others.
    turn: Mutex<()>,
}

impl KeyStore {
    /// The database in a file; the file is made with the first key.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            turn: Mutex::new(()),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a key and keeps its hash; the second value is the key itself, which is nowhere else.
    pub fn create(&self, new: NewKey, now: Duration) -> Result<(KeyRecord, String), KeyError> {
        new.check()
            .map_err(|(field, message)| KeyError::Invalid { field, message })?;
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| self.file_error(&error))?;
        }
        let (record, key) = new.make(now.as_secs());
        self.put(&record)?;
        Ok((record, key))
    }

    /// Every key, revoked ones too, with what it used; the oldest first.
    pub fn list(&self) -> Result<Vec<(KeyRecord, Usage)>, KeyError> {
        let (records, mut usages) = self.add_usage(&[])?;
        let with_usage = |record: KeyRecord| {
            let usage = usages.remove(&record.id).unwrap_or_default();
            (record, usage)
        };
        Ok(records.into_iter().map(with_usage).collect())
    }

    /// Revokes the key with this id, or the only one with this name that is not revoked yet; gives
    /// it back with what it used.
    pub fn revoke(&self, id_or_name: &str, now: Duration) -> Result<(KeyRecord, Usage), KeyError> {
        let mut keys = self.list()?;
        let is_named = |(record, _): &(KeyRecord, Usage)| {
            record.name == id_or_name && record.revoked.is_none()
        };
        let by_id = keys.iter().position(|(record, _)| record.id == id_or_name);
        let Some(found) = by_id.or_else(|| keys.iter().position(is_named)) else {
            return Err(KeyError::NotFound(id_or_name.to_owned()));
        };
        let n_named = keys.iter().filter(|key| is_named(key)).count();
        if by_id.is_none() && n_named > 1 {
            return Err(KeyError::Ambiguous {
                name: id_or_name.to_owned(),
                n_keys: n_named,
            });
        }
        let (mut record, usage) = keys.swap_remove(found);
        // The first revocation is the one that counts.
        if record.revoked.is_none() {
            record.revoked = Some(now.as_secs());
            self.put(&record)?;
        }
        Ok((record, usage))
    }

    fn put(&self, record: &KeyRecord) -> Result<(), KeyError> {
        self.with(|database| {
            let write = database.begin_write()?;
            write
                .open_table(KEYS)?
                .insert(record.id.as_str(), to_json(record).as_slice())?;
            write.commit()?;
            Ok(())
        })
    }

    /// Adds to what keys used, by id; gives all keys back, the oldest first, and all usage by id.
    pub(crate) fn add_usage(
        &self,
        more: &[(String, Usage)],
    ) -> Result<(Vec<KeyRecord>, HashMap<String, Usage>), KeyError> {
        if more.is_empty() && !self.path.exists() {
            return Ok((Vec::new(), HashMap::new()));
        }
        self.with(|database| {
            let write = database.begin_write()?;
            let mut records: Vec<KeyRecord> = Vec::new();
            let mut all = HashMap::new();
            {
                let mut usages = write.open_table(USAGE)?;
                for (id, more) in more {
                    let mut usage = match usages.get(id.as_str())? {
                        Some(bytes) => from_json::<Usage>(bytes.value())?,
                        None => Usage::default(),
                    };
                    usage.add(more);
                    usages.insert(id.as_str(), to_json(&usage).as_slice())?;
                }
                for entry in usages.iter()? {
                    let (id, bytes) = entry?;
                    all.insert(id.value().to_owned(), from_json(bytes.value())?);
                }
                for entry in write.open_table(KEYS)?.iter()? {
                    records.push(from_json(entry?.1.value())?);
                }
            }
            if more.is_empty() {
                write.abort()?;
            } else {
                write.commit()?;
            }
            records.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
            Ok((records, all))
        })
    }

    /// When the file was last written to; `None` while there is none.
    pub(crate) fn modified(&self) -> Option<SystemTime> {
        std::fs::metadata(&self.path).ok()?.modified().ok()
    }

    /// Opens the file, does one thing, closes it.
    fn with<T>(
        &self,
        act: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, KeyError> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that is cut short or damaged makes the library panic. Nothing of it is used after.
        catch_quietly(|| {
            let database = self.open()?;
            act(&database).map_err(|error| self.file_error(&error))
        })
        .unwrap_or_else(|| Err(self.file_error(&"damaged, expected a whole database of keys")))
    }

    /// Waits for its turn among the processes. Blocks the thread, so that async code calls it from
    /// a thread of its own.
    fn open(&self) -> Result<Database, KeyError> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            let file = self.open_file().map_err(|error| self.file_error(&error))?;
            match Builder::new().set_cache_size(CACHE_BYTES).create_file(file) {
                Ok(database) => return Ok(database),
                Err(DatabaseError::DatabaseAlreadyOpen) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(DatabaseError::DatabaseAlreadyOpen) => {
                    let path = self.path.clone();
                    return Err(KeyError::Locked { path });
                }
                Err(DatabaseError::Storage(StorageError::Io(error)))
                    if matches!(
                        error.kind(),
                        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof
                    ) =>
                {
                    return Err(
                        self.file_error(&"found something else, expected a database of keys")
                    );
                }
                Err(error) => return Err(self.file_error(&error)),
            }
        }
    }

    fn open_file(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        // Hashes of keys are nobody else's business.
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options.open(&self.path)
    }

    fn file_error(&self, error: &dyn std::fmt::Display) -> KeyError {
        KeyError::File {
            path: self.path.clone(),
            message: error.to_string(),
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is caught, and told as an error.
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// What a function gives; `None`, and not a word on standard error, if it panics.
fn catch_quietly<T>(function: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_CAUGHT.get() {
                before(info);
            }
        }));
    });
    IS_CAUGHT.set(true);
    let done = panic::catch_unwind(AssertUnwindSafe(function));
    IS_CAUGHT.set(false);
    done.ok()
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain structs with text keys are JSON")
}

fn from_json<T: for<'a> Deserialize<'a>>(bytes: &[u8]) -> Result<T, redb::Error> {
    serde_json::from_slice(bytes).map_err(|error| redb::Error::Corrupted(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::key::{KeyLimits, Scope};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("minerva-store-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn new_key(name: &str) -> NewKey {
        NewKey {
            name: name.to_owned(),
            scopes: vec![Scope::Infer],
            models: None,
            limits: KeyLimits::default(),
        }
    }

    const NOW: Duration = Duration::from_secs(1_000_000);

    #[test]
    fn keys_are_made_listed_and_revoked() {
        let folder = Folder::new("keys");
        let store = KeyStore::new(folder.0.join("new/keys.redb"));
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(store.modified(), None);
        let (a, key) = store.create(new_key("a"), NOW).unwrap();
        assert!(a.is_key(&key));
        let (b, _) = store.create(new_key("b"), NOW + NOW).unwrap();
        // A second store is another process to the file.
        let other = KeyStore::new(store.path());
        let ids: Vec<String> = other
            .list()
            .unwrap()
            .into_iter()
            .map(|(key, _)| key.id)
            .collect();
        assert_eq!(ids, [a.id.as_str(), b.id.as_str()]);
        assert_eq!(other.revoke("a", NOW).unwrap().0.revoked, Some(1_000_000));
        assert_eq!(
            store.revoke(&a.id, NOW + NOW).unwrap().0.revoked,
            Some(1_000_000)
        );
        assert!(matches!(store.revoke("a", NOW), Err(KeyError::NotFound(_))));
        store.create(new_key("b"), NOW).unwrap();
        assert!(matches!(
            store.revoke("b", NOW),
            Err(KeyError::Ambiguous { n_keys: 2, .. })
        ));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(store.path())
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o077, 0);
        }
    }

    #[test]
    fn usage_is_added_and_a_day_begins_anew() {
        let folder = Folder::new("usage");
        let store = KeyStore::new(folder.0.join("keys.redb"));
        let (key, _) = store.create(new_key("a"), NOW).unwrap();
        let used = |day, tokens| {
            let usage = Usage {
                day,
                tokens_today: tokens,
                requests: 1,
                ..Usage::default()
            };
            let (_, usages) = store.add_usage(&[(key.id.clone(), usage)]).unwrap();
            let usage = &usages[&key.id];
            (usage.day, usage.tokens_today, usage.requests)
        };
        assert_eq!(used(10, 5), (10, 5, 1));
        assert_eq!(used(10, 6), (10, 11, 2));
        assert_eq!(used(11, 1), (11, 1, 3));
        assert_eq!(used(10, 9), (11, 1, 4), "a late word of the day before");
    }

    #[test]
    fn another_file_is_refused_and_left_alone() {
        let folder = Folder::new("other");
        let path = folder.0.join("notes.txt");
        let text = "not a database\n".repeat(1000);
        std::fs::write(&path, &text).unwrap();
        let store = KeyStore::new(&path);
        let message = store.list().unwrap_err().to_string();
        assert!(
            message.ends_with("found something else, expected a database of keys"),
            "{message}"
        );
        assert!(store.create(new_key("a"), NOW).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    #[test]
    fn a_file_that_is_cut_short_is_an_error() {
        let folder = Folder::new("short");
        let store = KeyStore::new(folder.0.join("keys.redb"));
        store.create(new_key("a"), NOW).unwrap();
        let whole = std::fs::read(store.path()).unwrap();
        for n_bytes in [1, 100, 4096, whole.len() / 2, whole.len() - 1] {
            std::fs::write(store.path(), &whole[..n_bytes]).unwrap();
            let error = store.list().unwrap_err().to_string();
            assert!(error.contains("expected a"), "{n_bytes}: {error}");
        }
        std::fs::write(store.path(), &whole).unwrap();
        assert_eq!(store.list().unwrap().len(), 1);
    }

    #[test]
    fn an_open_file_is_waited_for() {
        let folder = Folder::new("lock");
        let store = KeyStore::new(folder.0.join("keys.redb"));
        store.create(new_key("a"), NOW).unwrap();
        let other = KeyStore::new(store.path());
        std::thread::scope(|scope| {
            for name in ["b", "c", "d"] {
                let store = if name == "b" { &store } else { &other };
                scope.spawn(move || store.create(new_key(name), NOW).unwrap());
            }
        });
        assert_eq!(store.list().unwrap().len(), 4);
    }
}
