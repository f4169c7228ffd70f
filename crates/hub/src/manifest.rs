//! Notes beside the files: where a model came from, and what a part is a part of.
//!
//! Lines of `key = value`, so that a person can read them.

use std::fs;
use std::path::Path;

use crate::disk;
use crate::error::HubError;

/// What is known of a file that was pulled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) source: String,
    pub(crate) sha256: String,
    pub(crate) size_bytes: u64,
    /// Seconds since 1970.
    pub(crate) pulled_at: u64,
}

impl Manifest {
    pub(crate) fn save(&self, path: &Path) -> Result<(), HubError> {
        let Self {
            source,
            sha256,
            size_bytes,
            pulled_at,
        } = self;
        let text = format!(
            "source = {source}\nsha256 = {sha256}\nsize = {size_bytes}\npulled = {pulled_at}\n"
        );
        disk::write_small(path, &text)
    }

    /// `None` where there is no note or it is not one of ours.
    pub(crate) fn load(path: &Path) -> Option<Self> {
        let lines = read(path)?;
        Some(Self {
            source: get(&lines, "source")?,
            sha256: get(&lines, "sha256").filter(|sum| disk::is_sha256(sum))?,
            size_bytes: get(&lines, "size")?.parse().ok()?,
            pulled_at: get(&lines, "pulled")?.parse().ok()?,
        })
    }
}

/// What the bytes of a part belong to; a part without a fitting note is not resumed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PartState {
    pub(crate) url: String,
    pub(crate) size_bytes: u64,
    /// The hub's own tag of the file: for large files their SHA-256.
    pub(crate) hub_tag: Option<String>,
    /// The tag of the server that sent the bytes, for `If-Range`.
    pub(crate) etag: Option<String>,
}

impl PartState {
    pub(crate) fn save(&self, path: &Path) -> Result<(), HubError> {
        let mut text = format!("url = {}\nsize = {}\n", self.url, self.size_bytes);
        for (key, value) in [("hub_tag", &self.hub_tag), ("etag", &self.etag)] {
            if let Some(value) = value {
                text += &format!("{key} = {value}\n");
            }
        }
        disk::write_small(path, &text)
    }

    pub(crate) fn load(path: &Path) -> Option<Self> {
        let lines = read(path)?;
        Some(Self {
            url: get(&lines, "url")?,
            size_bytes: get(&lines, "size")?.parse().ok()?,
            hub_tag: get(&lines, "hub_tag"),
            etag: get(&lines, "etag"),
        })
    }
}

fn read(path: &Path) -> Option<Vec<(String, String)>> {
    let text = fs::read_to_string(path).ok()?;
    let pair = |line: &str| {
        line.split_once(" = ")
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
    };
    Some(text.lines().filter_map(pair).collect())
}

fn get(lines: &[(String, String)], key: &str) -> Option<String> {
    lines
        .iter()
        .find(|(k, _)| k == key)
        .map(|(_, value)| value.clone())
}
