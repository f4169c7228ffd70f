//! Pulls from a hub that misbehaves, and what the model folder looks like afterwards.

mod folder;
mod package;
mod processes;
mod server;
mod transfer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use minerva_hub::{HubConfig, HubError, Pulled};
use sha2::{Digest, Sha256};

/// The model most tests pull.
const MODEL: &str = "hf:owner/repo/m.gguf";

/// A model folder that goes away with the test.
struct Home(PathBuf);

impl Home {
    fn new() -> Self {
        static N_HOMES: AtomicUsize = AtomicUsize::new(0);
        let idx = N_HOMES.fetch_add(1, Ordering::SeqCst);
        let name = format!("minerva-hub-{}-{idx}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn config(&self, endpoint: &str) -> HubConfig {
        let mut config = HubConfig::new(&self.0);
        config.hf_endpoint = endpoint.to_owned();
        config.retry_delay = Duration::from_millis(1);
        config
    }

    /// The paths of all files, less the locks.
    fn files(&self) -> Vec<String> {
        fn walk(folder: &Path, home: &Path, files: &mut Vec<String>) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    walk(&path, home, files);
                } else if path.extension().is_none_or(|extension| extension != "lock") {
                    files.push(
                        path.strip_prefix(home)
                            .unwrap()
                            .to_str()
                            .unwrap()
                            .to_owned(),
                    );
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.0, &self.0, &mut files);
        files.sort();
        files
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn pull(config: &HubConfig, model: &str) -> Result<Pulled, HubError> {
    minerva_hub::pull(config, model, &mut |_| ControlFlow::Continue(()))
}

/// Bytes that begin as a model does and repeat nowhere soon.
fn content(len: usize, seed: u32) -> Vec<u8> {
    let mut state = seed;
    let noise = std::iter::repeat_with(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    });
    b"GGUF".iter().copied().chain(noise).take(len).collect()
}

fn sha256(content: &[u8]) -> String {
    Sha256::digest(content)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
