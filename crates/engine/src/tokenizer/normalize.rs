//! What SentencePiece does to a text before a unigram vocabulary encodes it.

use super::charsmap::CharsMap;

#[derive(Debug)]
pub(super) struct Normalizer {
    pub(super) charsmap: Option<CharsMap>,
    /// Put a space before the text.
    pub(super) add_space_prefix: bool,
    /// No spaces at the start and the end, and one where there are several.
    pub(super) remove_extra_whitespaces: bool,
}

impl Normalizer {
    /// Replaces what the character map names, then spaces by U+2581. Each byte that is part of no
    /// character becomes U+FFFD.
    pub(super) fn normalize(&self, text: &[u8]) -> String {
        let mut rest = text;
        if self.remove_extra_whitespaces {
            while let (len, " ") = self.prefix(rest) {
                rest = &rest[len..];
            }
        }
        if rest.is_empty() {
            return String::new();
        }
        let mut output = String::with_capacity(rest.len() + rest.len() / 2 + 3);
        if self.add_space_prefix {
            output.push('▁');
        }
        let mut skip_spaces = self.remove_extra_whitespaces;
        while !rest.is_empty() {
            let (len, mut piece) = self.prefix(rest);
            rest = &rest[len..];
            while skip_spaces && let Some(tail) = piece.strip_prefix(' ') {
                piece = tail;
            }
            output.extend(
                piece
                    .chars()
                    .map(|char| if char == ' ' { '▁' } else { char }),
            );
            if !piece.is_empty() {
                skip_spaces = self.remove_extra_whitespaces && piece.ends_with(' ');
            }
        }
        if self.remove_extra_whitespaces {
            output.truncate(output.trim_end_matches('▁').len());
        }
        output
    }

    /// The bytes of what `text` begins with, a key of the map or a character, and what it becomes.
    fn prefix<'s>(&'s self, text: &'s [u8]) -> (usize, &'s str) {
        if let Some((len, piece)) = self.charsmap.as_ref().and_then(|map| map.find(text)) {
            return (len, piece);
        }
        let start = &text[..text.len().min(4)];
        let valid = start.utf8_chunks().next().map_or("", |chunk| chunk.valid());
        match valid.chars().next() {
            Some(char) => (char.len_utf8(), &valid[..char.len_utf8()]),
            None if start.is_empty() => (0, ""),
            None => (1, "\u{fffd}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::charsmap::tests::charsmap, *};

    fn normalized(text: &[u8], change: fn(&mut Normalizer)) -> String {
        let map = charsmap(&[
            ("\t", " "),
            ("\u{3000}", " "),
            ("ﬁ", "fi"),
            ("\r", ""),
            ("~", " a "),
        ]);
        let mut normalizer = Normalizer {
            charsmap: Some(CharsMap::new(&map).unwrap()),
            add_space_prefix: true,
            remove_extra_whitespaces: true,
        };
        change(&mut normalizer);
        normalizer.normalize(text)
    }

    #[test]
    fn spaces_are_merged_and_stripped_after_the_map() {
        let as_it_is = |_: &mut Normalizer| {};
        assert_eq!(
            normalized(" \t a\t\u{3000}  ﬁ\r b  ".as_bytes(), as_it_is),
            "▁a▁fi▁b"
        );
        assert_eq!(normalized(b"x~~ y", as_it_is), "▁x▁a▁a▁y");
        assert_eq!(normalized(b" \t ", as_it_is), "");
        assert_eq!(normalized(b"\r", as_it_is), "");
        assert_eq!(normalized(b"", as_it_is), "");
    }

    #[test]
    fn spaces_are_kept_where_the_vocabulary_says_so() {
        let keeps = |n: &mut Normalizer| n.remove_extra_whitespaces = false;
        assert_eq!(normalized(b" \ta  b ", keeps), "▁▁▁a▁▁b▁");
        assert_eq!(normalized(b" a", |n| n.add_space_prefix = false), "a");
    }

    #[test]
    fn broken_bytes_are_marked() {
        assert_eq!(
            normalized(b"a\xe4\xb8b\xff", |_| {}),
            "▁a\u{fffd}\u{fffd}b\u{fffd}"
        );
    }
}
