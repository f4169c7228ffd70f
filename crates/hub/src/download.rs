//! One file over HTTP into a part file: resumed, retried, hashed on the way, checked at the end.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::config::HubConfig;
use crate::disk::{self, CHUNK_BYTES};
use crate::error::HubError;
use crate::http::{Answer, Client, Fault};
use crate::manifest::PartState;
use crate::progress::{Phase, Reporter};

/// An attempt that brings this much counts as progress and gives all attempts back. Less does
/// not, so that a server cannot keep us for as many attempts as the file has bytes.
const PROGRESS_BYTES: u64 = 1024 * 1024;
const MAX_DELAY: Duration = Duration::from_secs(8);
/// How often a pause looks whether the caller wants to stop.
pub(crate) const TICK: Duration = Duration::from_millis(100);

/// What to fetch and where to put it.
pub(crate) struct Job<'a> {
    pub(crate) url: String,
    /// For messages about the content.
    pub(crate) name: &'a str,
    pub(crate) part: &'a Path,
    pub(crate) state: &'a Path,
    /// The model folder, whose disk must have room.
    pub(crate) home: &'a Path,
    /// Size and SHA-256, where they are known beforehand.
    pub(crate) pinned: Option<(u64, &'a str)>,
}

/// Size and SHA-256 of the part, which is whole.
pub(crate) struct Fetched {
    pub(crate) size_bytes: u64,
    pub(crate) sha256: String,
}

/// Fetches the file. On success the part is complete and its checksum, where one is known, is
/// right; on a transient failure it stays for the next pull.
pub(crate) fn download(
    config: &HubConfig,
    client: &Client,
    job: &Job<'_>,
    report: &mut Reporter<'_>,
) -> Result<Fetched, HubError> {
    let result = attempts(config, client, job, report);
    if result.is_err() && std::fs::metadata(job.part).is_ok_and(|data| data.len() == 0) {
        disk::remove_file(job.part)?;
    }
    result
}

fn attempts(
    config: &HubConfig,
    client: &Client,
    job: &Job<'_>,
    report: &mut Reporter<'_>,
) -> Result<Fetched, HubError> {
    let mut part = Part::open(job, report)?;
    let mut failures = 0;
    let mut furthest = part.len;
    let mut was_answered = false;
    loop {
        let fault = match part.attempt(client, &mut was_answered, report) {
            Ok(()) => return part.finish(),
            Err(fault) => fault,
        };
        let (reason, retry_after) = match fault {
            Fault::Fatal(error) => return Err(error),
            // The first contact decides whether there is a hub at all; to wait for one that is
            // not there helps nobody.
            Fault::Unreachable { url, reason } if !was_answered => {
                return Err(HubError::Unreachable { url, reason });
            }
            Fault::Unreachable { reason, .. } => (reason, None),
            Fault::Transient {
                reason,
                retry_after,
            } => (reason, retry_after),
        };
        if part.len >= furthest + PROGRESS_BYTES {
            furthest = part.len;
            failures = 0;
        }
        failures += 1;
        if failures >= config.max_attempts {
            return Err(HubError::Transfer {
                url: job.url.clone(),
                attempts: failures,
                reason,
                kept_bytes: part.len,
            });
        }
        let doubled = config
            .retry_delay
            .saturating_mul(1 << (failures - 1).min(16));
        let delay = retry_after.unwrap_or(doubled.min(MAX_DELAY));
        pause(delay, &reason, part.len, part.size(), report)?;
    }
}

/// Waits and keeps asking the caller whether to go on.
fn pause(
    delay: Duration,
    reason: &str,
    done: u64,
    total: Option<u64>,
    report: &mut Reporter<'_>,
) -> Result<(), HubError> {
    let end = Instant::now() + delay;
    loop {
        report.tell(Phase::Retrying, done, total, Some(reason))?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(TICK));
    }
}

/// The part on disk with the hash of what it holds: `len`, the file's length and the hashed
/// bytes always agree.
struct Part<'a> {
    job: &'a Job<'a>,
    file: File,
    len: u64,
    hasher: Sha256,
    /// What the bytes belong to; `None` until a server has said.
    state: Option<PartState>,
}

impl<'a> Part<'a> {
    fn open(job: &'a Job<'a>, report: &mut Reporter<'_>) -> Result<Self, HubError> {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(job.part)
            .map_err(|e| HubError::io("open", job.part, e))?;
        let len = file
            .metadata()
            .map_err(|e| HubError::io("read", job.part, e))?
            .len();
        let state = PartState::load(job.state)
            .filter(|state| state.url == job.url && (1..=state.size_bytes).contains(&len));
        let mut part = Self {
            job,
            file,
            len,
            hasher: Sha256::new(),
            state,
        };
        if part.state.is_some() {
            part.hasher = disk::hash_file(job.part, report)?;
            part.file
                .seek(SeekFrom::Start(len))
                .map_err(|e| HubError::io("read", job.part, e))?;
        } else {
            part.restart()?;
        }
        Ok(part)
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<(), HubError> {
        self.state = None;
        disk::remove_file(self.job.state)?;
        self.file
            .set_len(0)
            .and_then(|()| self.file.rewind())
            .map_err(|e| HubError::io("write", self.job.part, e))?;
        self.len = 0;
        self.hasher = Sha256::new();
        Ok(())
    }

    fn size(&self) -> Option<u64> {
        self.state.as_ref().map(|state| state.size_bytes)
    }

    /// One request, and as much of its body as comes. `Ok` means that the part is whole.
    fn attempt(
        &mut self,
        client: &Client,
        was_answered: &mut bool,
        report: &mut Reporter<'_>,
    ) -> Result<(), Fault> {
        if self.size() == Some(self.len) {
            return Ok(());
        }
        report.tell(Phase::Connecting, self.len, self.size(), None)?;
        let if_range = self.state.as_ref().and_then(|state| state.etag.clone());
        let answer = match client.get(&self.job.url, self.len, if_range.as_deref()) {
            Err(fault @ Fault::Transient { .. }) => {
                *was_answered = true;
                return Err(fault);
            }
            other => other?,
        };
        *was_answered = true;
        let size = self.begin(&answer)?;
        disk::check_room(self.job.home, size - self.len)?;
        self.receive(answer.body, size, report)
    }

    /// Makes the part ready for the body of an answer; gives the size of the whole file.
    fn begin(&mut self, answer: &Answer) -> Result<u64, Fault> {
        let size = match answer.status {
            206 => {
                let fits = answer.content_range.filter(|range| {
                    range.first == self.len
                        && range.last + 1 == range.size
                        && self.size().is_none_or(|size| size == range.size)
                });
                match fits {
                    Some(range) if self.len > 0 && !self.has_changed(answer) => range.size,
                    _ => {
                        self.restart()?;
                        return Err(Fault::transient("the server sent another range than asked"));
                    }
                }
            }
            200 => {
                self.restart()?;
                answer
                    .content_length
                    .or(answer.hub_size)
                    .or(self.job.pinned.map(|p| p.0))
                    .ok_or(HubError::Protocol {
                        url: answer.url.clone(),
                        reason: "found no Content-Length, expected the size of the file".to_owned(),
                    })?
            }
            // 416: the part does not belong to this file any more.
            status => {
                if self.len == 0 {
                    return Err(HubError::Status {
                        url: answer.url.clone(),
                        status,
                    }
                    .into());
                }
                self.restart()?;
                return Err(Fault::transient("the server has no such range"));
            }
        };
        let name = || self.job.name.to_owned();
        if let Some((wanted, sha256)) = self.job.pinned {
            if size != wanted {
                return Err(HubError::Size {
                    name: name(),
                    found: size,
                    wanted,
                }
                .into());
            }
            if let Some(found) = answer.hub_tag.clone().filter(|tag| disk::is_sha256(tag))
                && found != sha256
            {
                let hint = "the hub has another file under this name than the catalogue knows";
                let wanted = sha256.to_owned();
                return Err(HubError::Checksum {
                    name: name(),
                    found,
                    wanted,
                    hint,
                }
                .into());
            }
        }
        if let Some(wanted) = answer.hub_size.filter(|wanted| *wanted != size) {
            self.restart()?;
            return Err(Fault::transient(format!(
                "the server announced {size} bytes, the hub {wanted}"
            )));
        }
        if self.state.is_none() {
            let state = PartState {
                url: self.job.url.clone(),
                size_bytes: size,
                hub_tag: answer.hub_tag.clone(),
                etag: answer.etag.clone(),
            };
            state.save(self.job.state)?;
            self.state = Some(state);
        }
        Ok(size)
    }

    /// Whether an answer is about another file than the bytes that are here.
    fn has_changed(&self, answer: &Answer) -> bool {
        let Some(state) = &self.state else {
            return true;
        };
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        if state.hub_tag.is_some() && state.hub_tag == answer.hub_tag {
            // The hub vouches for it; servers behind it may tag the same file differently.
            return false;
        }
        differ(&state.hub_tag, &answer.hub_tag) || differ(&state.etag, &answer.etag)
    }

    fn receive(
        &mut self,
        mut body: impl Read,
        size: u64,
        report: &mut Reporter<'_>,
    ) -> Result<(), Fault> {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            report.tell(Phase::Downloading, self.len, Some(size), None)?;
            if self.len == size {
                return Ok(());
            }
            // No more than is due is read, however much the server sends.
            let due = usize::try_from(size - self.len)
                .unwrap_or(CHUNK_BYTES)
                .min(CHUNK_BYTES);
            let len = self.len;
            let n = body.read(&mut chunk[..due]).map_err(|e| {
                Fault::transient(format!(
                    "the connection broke after {len} of {size} bytes: {e}"
                ))
            })?;
            if n == 0 {
                return Err(Fault::transient(format!(
                    "the body ended after {len} of {size} bytes"
                )));
            }
            if let Err(e) = self.file.write_all(&chunk[..n]) {
                // Part of the chunk may have been written, and it is not in the hash.
                let _ = self.file.set_len(self.len);
                return Err(HubError::io("write", self.job.part, e).into());
            }
            self.hasher.update(&chunk[..n]);
            self.len += n as u64;
        }
    }

    fn finish(self) -> Result<Fetched, HubError> {
        let found = disk::hex(self.hasher);
        let promised = self
            .state
            .and_then(|state| state.hub_tag)
            .filter(|t| disk::is_sha256(t));
        let pinned = self.job.pinned.map(|(_, sha256)| sha256.to_owned());
        if let Some(wanted) = pinned.or(promised).filter(|wanted| *wanted != found) {
            disk::remove_file(self.job.part)?;
            disk::remove_file(self.job.state)?;
            let hint = "the download was damaged on its way and has been removed: pull again";
            let name = self.job.name.to_owned();
            return Err(HubError::Checksum {
                name,
                found,
                wanted,
                hint,
            });
        }
        Ok(Fetched {
            size_bytes: self.len,
            sha256: found,
        })
    }
}
