//! The precompiled character map of a SentencePiece vocabulary: texts and what replaces them.
//!
//! ```text
//! n_bytes: u32 | units: [u32; n_bytes / 4] | replacements, each ended by a NUL byte
//! ```
//!
//! The units are a trie over bytes as a double array (J. Aoe, "An Efficient Digital Search Algorithm
//! by Using a Double-Array Structure", 1989), packed as Darts-clone packs it: a state is an offset,
//! and its child for byte `c` is the unit at `offset ^ c`, if that unit's label is `c`. The child's
//! own offset is its place xor the number in its upper bits. If bit 8 says that a key ends there, the
//! unit at the child's offset holds, with bit 31 set, where the replacement begins. States may share
//! their children.
//!
//! The map comes from a model file. All that can be reached is checked once, so that a look-up
//! neither fails nor takes longer than the longest key.

use std::collections::HashMap;

#[derive(Debug)]
pub(super) struct CharsMap {
    units: Vec<u32>,
    replacements: String,
}

/// SentencePiece's own rules have 45,000 units; bounds the time of the check.
const MAX_UNITS: usize = 1 << 20;
/// In bytes; SentencePiece's own rules have 12. Bounds the time per byte of a text.
const MAX_KEY: usize = 64;
/// In bytes; SentencePiece's own rules have 33. Bounds how much a text grows.
const MAX_REPLACEMENT: usize = 64;

const IS_VALUE: u32 = 1 << 31;

impl CharsMap {
    /// Checks the bytes of a map.
    pub(super) fn new(bytes: &[u8]) -> Result<CharsMap, String> {
        let (n_bytes, rest) = bytes
            .split_first_chunk()
            .ok_or_else(|| format!("{} bytes, expected at least 4", bytes.len()))?;
        let n_bytes = u32::from_le_bytes(*n_bytes) as usize;
        let (units, replacements) = rest
            .split_at_checked(n_bytes)
            .ok_or_else(|| format!("a trie of {n_bytes} bytes in {} bytes", rest.len()))?;
        if n_bytes == 0 || !n_bytes.is_multiple_of(4) || n_bytes / 4 > MAX_UNITS {
            return Err(format!(
                "a trie of {n_bytes} bytes, expected 1 to {MAX_UNITS} units of 4"
            ));
        }
        let replacements = std::str::from_utf8(replacements)
            .map_err(|error| format!("replacements are not UTF-8: {error}"))?;
        if !replacements.is_empty() && !replacements.ends_with('\0') {
            return Err("the last replacement has no end".to_string());
        }
        if let Some(long) = replacements.split('\0').find(|r| r.len() > MAX_REPLACEMENT) {
            return Err(format!(
                "a replacement of {} bytes, at most {MAX_REPLACEMENT} are allowed",
                long.len()
            ));
        }
        let (units, _) = units.as_chunks();
        let map = CharsMap {
            units: units.iter().map(|&unit| u32::from_le_bytes(unit)).collect(),
            replacements: replacements.to_string(),
        };
        map.check_keys(map.root(), 0, &mut HashMap::default())?;
        Ok(map)
    }

    /// Checks what can be reached from a state at a depth of `depth` bytes, and returns the length of
    /// the longest key from there on. `known` has the states that are done.
    fn check_keys(
        &self,
        offset: u32,
        depth: usize,
        known: &mut HashMap<u32, usize, foldhash::fast::RandomState>,
    ) -> Result<usize, String> {
        let longest = match known.get(&offset) {
            Some(&longest) => longest,
            None => {
                // A cycle of states ends here, too, before the recursion is deep.
                if depth > MAX_KEY {
                    return Err(format!("a key of more than {MAX_KEY} bytes"));
                }
                let mut longest = 0;
                for byte in 1..=u8::MAX {
                    let Some(child) = self.child(offset, byte) else {
                        continue;
                    };
                    if let Some(value) = child.value
                        && self.replacements.get(value..).is_none_or(str::is_empty)
                    {
                        return Err(format!(
                            "a replacement at byte {value} of {}",
                            self.replacements.len()
                        ));
                    }
                    longest = longest.max(1 + self.check_keys(child.offset, depth + 1, known)?);
                }
                known.insert(offset, longest);
                longest
            }
        };
        match depth + longest > MAX_KEY {
            true => Err(format!("a key of more than {MAX_KEY} bytes")),
            false => Ok(longest),
        }
    }

    /// The longest key that `text` begins with: its length in bytes, and what replaces it.
    pub(super) fn find(&self, text: &[u8]) -> Option<(usize, &str)> {
        let mut offset = self.root();
        let mut found = None;
        for (idx, &byte) in text.iter().enumerate() {
            let Some(child) = self.child(offset, byte) else {
                break;
            };
            if let Some(value) = child.value {
                found = Some((idx + 1, value));
            }
            offset = child.offset;
        }
        let (len, start) = found?;
        let (replacement, _) = self.replacements.get(start..)?.split_once('\0')?;
        Some((len, replacement))
    }

    fn root(&self) -> u32 {
        offset_of(self.units[0])
    }

    fn child(&self, offset: u32, byte: u8) -> Option<Child> {
        let place = offset ^ u32::from(byte);
        let unit = *self.units.get(place as usize)?;
        // NUL ends a key, so it is in none.
        if byte == 0 || unit & (IS_VALUE | 0xff) != u32::from(byte) {
            return None;
        }
        let offset = place ^ offset_of(unit);
        // A value that is not there fails the check, as one beyond all replacements.
        let value = (unit & 1 << 8 != 0).then(|| {
            let value = self.units.get(offset as usize).copied().unwrap_or(0);
            match value & IS_VALUE {
                0 => usize::MAX,
                _ => (value & !IS_VALUE) as usize,
            }
        });
        Some(Child { offset, value })
    }
}

struct Child {
    offset: u32,
    /// Where the replacement begins, if a key ends here.
    value: Option<usize>,
}

/// The 22 upper bits of a unit, times 256 if bit 9 is set.
fn offset_of(unit: u32) -> u32 {
    (unit >> 10) << ((unit & 1 << 9) >> 6)
}

#[cfg(test)]
pub(super) mod tests {
    use quickcheck::QuickCheck;

    use super::*;

    /// A map of `rules`, one block of 256 units for each state: no clever packing.
    pub(in super::super) fn charsmap(rules: &[(&str, &str)]) -> Vec<u8> {
        let mut units = vec![0u32; 256];
        let mut replacements = Vec::new();
        // The offset of a child is its place xor a number of 8 bits less: its block starts anew.
        let node = |place: usize, label: u8, block: usize| {
            let distance = (place ^ block) as u32;
            assert!(distance < 1 << 21);
            distance << 10 | u32::from(label)
        };
        for (key, replacement) in rules {
            let mut block = 0;
            for (idx, byte) in key.bytes().enumerate() {
                let place = block ^ usize::from(byte);
                if units[place] == 0 {
                    let next = units.len();
                    units.resize(next + 256, 0);
                    units[place] = node(place, byte, next);
                }
                block = (place as u32 ^ offset_of(units[place])) as usize;
                if idx + 1 == key.len() {
                    units[place] |= 1 << 8;
                    units[block] = IS_VALUE | replacements.len() as u32;
                }
            }
            replacements.extend_from_slice(replacement.as_bytes());
            replacements.push(0);
        }
        let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
        bytes.extend(units.iter().flat_map(|unit| unit.to_le_bytes()));
        bytes.extend(replacements);
        bytes
    }

    #[test]
    fn the_longest_key_is_replaced() {
        let map = CharsMap::new(&charsmap(&[("a", "x"), ("abc", "yz"), ("é", "")])).unwrap();
        assert_eq!(map.find(b"abd"), Some((1, "x")));
        assert_eq!(map.find(b"abcd"), Some((3, "yz")));
        assert_eq!(map.find("é".as_bytes()), Some((2, "")));
        assert_eq!(map.find(b"b"), None);
        assert_eq!(map.find(b"\0"), None);
        assert_eq!(map.find(b""), None);
    }

    #[test]
    fn damaged_maps_are_refused() {
        let error = |bytes: &[u8]| CharsMap::new(bytes).unwrap_err();
        let good = charsmap(&[("ab", "x")]);
        assert_eq!(error(b"abc"), "3 bytes, expected at least 4");
        assert_eq!(error(&good[..100]), "a trie of 3072 bytes in 96 bytes");
        assert_eq!(
            error(&[0; 8]),
            "a trie of 0 bytes, expected 1 to 1048576 units of 4"
        );
        assert_eq!(
            error(&good[..good.len() - 1]),
            "the last replacement has no end"
        );
        assert_eq!(
            error(&good[..good.len() - 2]),
            "a replacement at byte 0 of 0"
        );
        let long = "x".repeat(65);
        assert_eq!(
            error(&charsmap(&[("a", &long)])),
            "a replacement of 65 bytes, at most 64 are allowed"
        );
        assert_eq!(
            error(&charsmap(&[(&long, "a")])),
            "a key of more than 64 bytes"
        );
        // The state of "a" leads to itself: it would go on for ever.
        let mut cycle = good;
        let a = 4 + 4 * usize::from(b'a');
        cycle[a..a + 4].copy_from_slice(&(u32::from(b'a') << 10 | u32::from(b'a')).to_le_bytes());
        assert_eq!(error(&cycle), "a key of more than 64 bytes");
    }

    #[test]
    fn any_map_is_refused_or_safe() {
        let property = |units: Vec<u32>, small: bool, text: Vec<u8>| {
            let mut bytes = (units.len() as u32 * 4).to_le_bytes().to_vec();
            // Small labels and offsets make states that lead somewhere.
            let mask = if small { 0x8000_1d0f } else { u32::MAX };
            bytes.extend(units.iter().flat_map(|unit| (unit & mask).to_le_bytes()));
            bytes.extend(b"ab\0c\0\0");
            if let Ok(map) = CharsMap::new(&bytes) {
                for start in 0..text.len() {
                    map.find(&text[start..]);
                }
            }
            true
        };
        QuickCheck::new().quickcheck(property as fn(Vec<u32>, bool, Vec<u8>) -> bool);
    }
}
