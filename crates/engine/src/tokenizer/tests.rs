//! Tests of the tokenizer with tiny vocabularies made by hand.

use std::sync::LazyLock;

use minerva_gguf::Array;
use quickcheck::QuickCheck;

use super::*;

const PLAIN: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};
const PARSED: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: true,
};
const FULL: EncodeOptions = EncodeOptions {
    add_special: true,
    parse_special: true,
};

static BYTE_LEVEL: LazyLock<Tokenizer> = LazyLock::new(byte_level);
static SENTENCE_PIECE: LazyLock<Tokenizer> = LazyLock::new(sentence_piece);

static UNIGRAM: LazyLock<Tokenizer> =
    LazyLock::new(|| Tokenizer::new(unigram_vocab(true)).unwrap());

fn all() -> [&'static Tokenizer; 3] {
    [&BYTE_LEVEL, &SENTENCE_PIECE, &UNIGRAM]
}

/// GPT-2's alphabet in the order of the bytes.
fn byte_chars() -> Vec<String> {
    let mut others = '\u{100}'..;
    (0..=255u8)
        .map(|byte| match byte {
            0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff => (byte as char).to_string(),
            _ => others.next().unwrap().to_string(),
        })
        .collect()
}

/// All bytes, so that a byte is its own id, then what `merges` make, then `extra`.
fn byte_level_vocab(merges: &[&str], extra: &[(&str, TokenType)]) -> Vocab {
    let mut tokens = byte_chars();
    tokens.extend(merges.iter().map(|pair| pair.replace(' ', "")));
    tokens.extend(extra.iter().map(|(text, _)| text.to_string()));
    let tokens = tokens
        .into_iter()
        .map(String::into_bytes)
        .collect::<Vec<_>>();
    let mut vocab = Vocab::new(VocabKind::ByteLevelBpe, tokens);
    vocab.pre_tokenizer = "gpt-2".to_string();
    vocab.token_types = vec![TokenType::Normal; vocab.tokens.len() - extra.len()];
    vocab
        .token_types
        .extend(extra.iter().map(|&(_, token_type)| token_type));
    vocab.merges = merges.iter().map(|pair| pair.as_bytes().to_vec()).collect();
    vocab
}

/// Ids: he 256, ll 257, hell 258, " hell" 259, then `<s>` 260, `</s>` 261, `<u>` 262.
fn byte_level() -> Tokenizer {
    let mut vocab = byte_level_vocab(
        &["h e", "l l", "he ll", "Ġ hell"],
        &[
            ("<s>", TokenType::Control),
            ("</s>", TokenType::Control),
            ("<u>", TokenType::UserDefined),
        ],
    );
    vocab.special.bos = Some(260);
    vocab.special.eos = Some(261);
    vocab.add_bos = Some(true);
    vocab.add_eos = true;
    Tokenizer::new(vocab).unwrap()
}

/// Ids: `<unk>` 0, `<s>` 1, `</s>` 2, byte b at 3 + b, and from 259 on the texts below.
fn sentence_piece_vocab() -> Vocab {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    tokens.extend(["▁", "a", "b", "ab", "▁a", "▁ab", "é", "<u>", "▁▁"].map(String::from));
    let n_tokens = tokens.len();
    let tokens = tokens.into_iter().map(String::into_bytes).collect();
    let mut vocab = Vocab::new(VocabKind::SentencePiece, tokens);
    vocab.token_types = vec![TokenType::Normal; n_tokens];
    vocab.token_types[0] = TokenType::Unknown;
    vocab.token_types[1..3].fill(TokenType::Control);
    vocab.token_types[3..259].fill(TokenType::Byte);
    vocab.token_types[266] = TokenType::UserDefined;
    vocab.scores = vec![0.0; n_tokens];
    // "ab" before "▁a", then "▁ab".
    vocab.scores[259..].copy_from_slice(&[-9.0, -9.0, -9.0, -1.0, -2.0, -3.0, -9.0, 0.0, -4.0]);
    vocab.special.bos = Some(1);
    vocab.special.eos = Some(2);
    vocab.special.unk = Some(0);
    vocab
}

fn sentence_piece() -> Tokenizer {
    Tokenizer::new(sentence_piece_vocab()).unwrap()
}

/// Ids: `<pad>` 0, `</s>` 1, `<unk>` 2, the pieces below from 3 on, and with `bytes` byte b at 14 + b.
fn unigram_vocab(bytes: bool) -> Vocab {
    let pieces = [
        ("▁", -2.0),
        ("a", -3.0),
        ("b", -3.5),
        ("ab", -4.0),
        ("▁ab", -6.5),
        ("▁a", -4.5),
        ("bab", -5.0),
        ("fi", -3.0),
        ("abab", -9.0),
        ("é", -4.0),
        ("x", -1.0),
    ];
    let mut tokens: Vec<String> = ["<pad>", "</s>", "<unk>"].map(String::from).to_vec();
    tokens.extend(pieces.iter().map(|(text, _)| text.to_string()));
    if bytes {
        tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    }
    let n_tokens = tokens.len();
    let tokens = tokens.into_iter().map(String::into_bytes).collect();
    let mut vocab = Vocab::new(VocabKind::Unigram, tokens);
    vocab.token_types = vec![TokenType::Normal; n_tokens];
    vocab.token_types[..2].fill(TokenType::Control);
    vocab.token_types[2] = TokenType::Unknown;
    vocab.token_types[13] = TokenType::Unused;
    vocab.token_types[14..].fill(TokenType::Byte);
    vocab.scores = vec![0.0; n_tokens];
    for (score, (_, piece)) in vocab.scores[3..].iter_mut().zip(pieces) {
        *score = piece;
    }
    vocab.special.eos = Some(1);
    vocab.special.unk = Some(2);
    vocab.add_space_prefix = true;
    vocab.remove_extra_whitespaces = true;
    vocab.charsmap = charsmap::tests::charsmap(&[("\t", " "), ("ﬁ", "fi"), ("\r", "")]);
    vocab
}

fn error(vocab: Vocab) -> String {
    Tokenizer::new(vocab).unwrap_err().to_string()
}

#[test]
fn byte_level_words_are_merged_by_rank() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.encode("hell hell", PLAIN), [258, 259]);
    assert_eq!(
        tokenizer.encode("hell<u>o", FULL),
        [260, 258, 262, b'o' as u32, 261]
    );
    assert_eq!(tokenizer.encode("", FULL), [260, 261]);
    assert_eq!(tokenizer.encode("", PLAIN), [0u32; 0]);
    assert_eq!(tokenizer.token_bytes(259), Some(&b" hell"[..]));
    assert_eq!(tokenizer.token_bytes(263), None);
}

#[test]
fn control_tokens_are_parsed_only_when_asked_for() {
    let tokenizer = byte_level();
    assert_eq!(tokenizer.encode("<s><u>", PARSED), [260, 262]);
    let plain: Vec<u32> = b"<s>".map(u32::from).into_iter().chain([262]).collect();
    assert_eq!(tokenizer.encode("<s><u>", PLAIN), plain);
}

#[test]
fn sentence_piece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = sentence_piece();
    assert_eq!(tokenizer.encode("ab", PLAIN), [264]);
    assert_eq!(tokenizer.encode("aab", PLAIN), [263, 262]);
    assert_eq!(tokenizer.encode("a  ab", FULL), [1, 263, 259, 264]);
    assert_eq!(
        tokenizer.encode("é🦙\n", PLAIN),
        [259, 265, 243, 162, 169, 156, 13]
    );
    assert_eq!(tokenizer.encode(b"a\xffb\xc3", PLAIN), [263, 258, 261, 198]);
    assert_eq!(tokenizer.encode("", FULL), [1]);
    // A space goes before the text after a special token, too.
    assert_eq!(
        tokenizer.encode("a<u>b</s>", PARSED),
        [263, 266, 259, 261, 2]
    );
}

/// The tokens are those of the package `sentencepiece` 0.2.3, given this vocabulary.
#[test]
fn unigram_takes_the_pieces_that_score_best() {
    let without_bytes = Tokenizer::new(unigram_vocab(false)).unwrap();
    let with_bytes = Tokenizer::new(unigram_vocab(true)).unwrap();
    for (text, tokens, decoded) in [
        ("ab", &[3, 6][..], "ab"),
        ("abab", &[8, 9], "abab"),
        ("aabab b", &[8, 4, 9, 3, 5], "aabab b"),
        ("  ab\t\r b ", &[3, 6, 3, 5], "ab b"),
        ("ﬁ", &[3, 10], "fi"),
        ("babab", &[3, 9, 6], "babab"),
        ("", &[], ""),
        ("  ", &[], ""),
    ] {
        for tokenizer in [&without_bytes, &with_bytes] {
            assert_eq!(tokenizer.encode(text, PLAIN), tokens, "{text:?}");
            assert_eq!(tokenizer.decode(tokens, true), decoded);
        }
    }
    // A run of unknown characters is one unknown token, or its bytes. "x" is an unused token.
    let broken = b"a\xe4\xb8b";
    assert_eq!(without_bytes.encode("éx漢字a", PLAIN), [3, 12, 2, 4]);
    assert_eq!(without_bytes.encode("xxaxx", PLAIN), [3, 2, 4, 2]);
    assert_eq!(without_bytes.encode(broken, PLAIN), [8, 2, 5]);
    assert_eq!(
        with_bytes.encode("éx漢字a", PLAIN),
        [3, 12, 134, 244, 202, 176, 243, 187, 165, 4]
    );
    assert_eq!(
        with_bytes.encode(broken, PLAIN),
        [8, 253, 205, 203, 253, 205, 203, 5]
    );
    assert_eq!(without_bytes.encode("a </s> b", PARSED), [8, 1, 3, 5]);
}

#[test]
fn user_defined_tokens_of_a_unigram_vocabulary_are_kept_whole() {
    let mut vocab = unigram_vocab(false);
    for text in ["ba", "bfi"] {
        vocab.tokens.push(text.as_bytes().to_vec());
        vocab.token_types.push(TokenType::UserDefined);
        vocab.scores.push(-1000.0);
    }
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(tokenizer.encode("abab", PLAIN), [8, 14, 3, 5]);
    // Normalization brings it forth.
    assert_eq!(tokenizer.encode("abﬁ", PLAIN), [8, 15]);
}

/// In one sum of f32 over all of the text, the 0.01 between the two ways to take " ab" would be lost.
#[test]
fn unigram_scores_count_in_long_texts() {
    let mut vocab = unigram_vocab(false);
    vocab.scores[7] = -6.01;
    let tokenizer = Tokenizer::new(vocab).unwrap();
    let n = 60_000;
    let tokens = tokenizer.encode(" ab".repeat(n), PLAIN);
    assert!(tokens == [3, 6].repeat(n));
}

#[test]
fn unigram_vocabularies_without_what_they_need_are_refused() {
    let with = |change: fn(&mut Vocab)| {
        let mut vocab = unigram_vocab(false);
        change(&mut vocab);
        error(vocab)
    };
    assert_eq!(
        with(|v| v.scores.clear()),
        "tokenizer: a unigram vocabulary without scores"
    );
    assert_eq!(
        with(|v| v.scores[4] = f32::NEG_INFINITY),
        "tokenizer: the score of token 4: -inf, expected a finite one"
    );
    assert_eq!(
        with(|v| v.special.unk = None),
        "tokenizer: the vocabulary has neither an unknown token nor tokens of all bytes"
    );
    assert_eq!(
        with(|v| v.charsmap.truncate(10)),
        "tokenizer: tokenizer.ggml.precompiled_charsmap: a trie of 6144 bytes in 6 bytes"
    );
}

#[test]
fn text_like_a_control_or_byte_token_is_never_merged_into_it() {
    let mut vocab = sentence_piece_vocab();
    for text in [
        "<", "s", ">", "<s", "0", "x", "A", "<0", "<0x", "<0x0", "<0x0A",
    ] {
        vocab.tokens.push(text.as_bytes().to_vec());
        vocab.scores.push(0.0);
        vocab.token_types.push(TokenType::Normal);
    }
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(
        tokenizer.decode(&tokenizer.encode("<s><0x0A>", PLAIN), true),
        "<s><0x0A>"
    );
}

#[test]
fn decoding_leaves_out_the_first_space_and_control_tokens() {
    let tokenizer = sentence_piece();
    assert_eq!(tokenizer.decode(&[1, 264, 264, 2], true), "ab ab");
    assert_eq!(tokenizer.decode(&[1, 264, 264, 2], false), "<s> ab ab</s>");
    assert_eq!(tokenizer.decode(&[9999, 263], true), "a");
    let mut goes_on = Detokenizer::continuing(&tokenizer, true);
    assert_eq!(goes_on.push(264), " ab");
}

#[test]
fn the_detokenizer_holds_back_incomplete_characters() {
    let tokenizer = std::sync::Arc::new(byte_level());
    let mut detokenizer = Detokenizer::new(tokenizer, true);
    let pieces: Vec<_> = b"a\xf0\x9f\xa6\x99\xe4\xb8x"
        .iter()
        .map(|&b| detokenizer.push(b.into()))
        .collect();
    assert_eq!(pieces, ["a", "", "", "", "🦙", "", "", "\u{fffd}x"]);
    detokenizer.push(0xe4);
    assert_eq!(detokenizer.finish(), "\u{fffd}");
}

#[test]
fn special_tokens_can_swallow_white_space() {
    let mut vocab = sentence_piece_vocab();
    vocab.strip_right = vec![2];
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(tokenizer.encode("</s>\n  ab</s> ", PARSED), [2, 264, 2]);

    let mut vocab = sentence_piece_vocab();
    vocab.strip_left = vec![2];
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(
        tokenizer.encode(" \n</s> ab\x0b\t</s>", PARSED),
        [2, 259, 264, 2]
    );
}

#[test]
fn the_file_says_which_tokens_swallow_white_space() {
    let strips = |key, value: &str, token_type| {
        let mut metadata = minerva_gguf::Metadata::new();
        metadata.insert(key, value);
        let texts = ["<s>", "<mask>", "[MASK]", "</s>", "x"];
        let mut vocab = Vocab::new(
            VocabKind::ByteLevelBpe,
            texts.map(|text| text.as_bytes().to_vec()).to_vec(),
        );
        vocab.token_types = vec![token_type; texts.len()];
        vocab.set_strips(&metadata).unwrap();
        (vocab.strip_left, vocab.strip_right)
    };
    let (text, control) = (TokenType::Normal, TokenType::Control);
    let none: Vec<u32> = Vec::new();
    for (key, value, token_type, expected) in [
        ("tokenizer.ggml.pre", "jina-v2-de", text, (vec![1], vec![])),
        (
            "general.architecture",
            "nomic-bert-moe",
            control,
            (vec![1], vec![]),
        ),
        (
            "general.name",
            "Modern-BERT base",
            control,
            (vec![2], vec![]),
        ),
        (
            "general.name",
            "Phi-3 mini",
            control,
            (vec![], vec![1, 2, 3, 4]),
        ),
        ("general.name", "Phi-3 mini", text, (vec![], vec![3])),
        ("general.name", "Llama", control, (none.clone(), none)),
    ] {
        assert_eq!(strips(key, value, token_type), expected, "{key} {value}");
    }
}

#[test]
fn ends_of_generation_are_known_by_their_text() {
    let vocab = byte_level_vocab(
        &[],
        &[
            ("<|im_end|>", TokenType::Normal),
            ("<|x|>", TokenType::Control),
        ],
    );
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(tokenizer.eog_ids().collect::<Vec<_>>(), [256]);
    assert_eq!(tokenizer.special().eot, Some(256));
    assert!(tokenizer.is_eog(256) && tokenizer.is_control(256) && !tokenizer.is_eog(257));
    assert!(!tokenizer.encode("<|im_end|>", PLAIN).contains(&256));
}

#[test]
fn a_char_bpe_vocabulary_writes_spaces_as_symbols() {
    let mut vocab = sentence_piece_vocab();
    vocab.kind = VocabKind::CharBpe;
    vocab.scores.clear();
    vocab.add_space_prefix = false;
    vocab.merges = ["a b", "▁ ab", "▁ ▁"]
        .map(|pair| pair.as_bytes().to_vec())
        .to_vec();
    vocab.tokens.push(b"\n\n".to_vec());
    vocab.token_types.push(TokenType::Normal);
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(
        tokenizer.encode("ab ab\n\n  ab\n", PLAIN),
        [262, 264, 268, 259, 264, 13]
    );
}

#[test]
fn damaged_vocabularies_are_refused() {
    let with = |change: fn(&mut Vocab)| {
        let mut vocab = sentence_piece_vocab();
        change(&mut vocab);
        error(vocab)
    };
    assert_eq!(
        with(|v| v.special.bos = Some(268)),
        "tokenizer: bos token id: 268, but there are 268 tokens"
    );
    assert_eq!(
        with(|v| v.scores.truncate(5)),
        "tokenizer: 5 scores for 268 tokens"
    );
    assert_eq!(
        with(|v| v.token_types.truncate(5)),
        "tokenizer: 5 token types for 268 tokens"
    );
    assert_eq!(
        with(|v| v.scores[7] = f32::NAN),
        "tokenizer: the score of token 7 is not a number"
    );
    assert_eq!(
        with(|v| v.tokens.clear()),
        "tokenizer: 0 tokens, expected 1 to 16777216"
    );
    assert_eq!(
        with(|v| v.tokens[9] = vec![b'a'; 1025]),
        "tokenizer: token 9 has 1025 bytes, at most 1024 are allowed"
    );
    let bos = |v: &mut Vocab| {
        v.special.bos = None;
        v.add_bos = Some(true);
    };
    assert_eq!(
        with(bos),
        "tokenizer: texts are to have a BOS token, but the vocabulary names none"
    );

    let mut vocab = byte_level_vocab(&["h e"], &[]);
    vocab.merges.push(b"nospace".to_vec());
    assert_eq!(
        error(vocab),
        "tokenizer: merge 1 is not a pair: \"nospace\""
    );
    let mut vocab = byte_level_vocab(&[], &[]);
    vocab.pre_tokenizer = "elvish".to_string();
    let message = error(vocab);
    assert!(message.starts_with(
        "tokenizer: pre-tokenizer \"elvish\" is not known, known are: default, gpt-2"
    ));
}

#[test]
fn odd_vocabularies_still_work() {
    // Equal and empty tokens, merges of texts that are no tokens, and no bytes at all.
    let tokens = ["a", "a", "", "b", "abab"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
    let mut vocab = Vocab::new(VocabKind::ByteLevelBpe, tokens);
    vocab.merges = ["a b", "ab ab"]
        .map(|pair| pair.as_bytes().to_vec())
        .to_vec();
    let tokenizer = Tokenizer::new(vocab).unwrap();
    assert_eq!(tokenizer.encode("ababab c", PLAIN), [4, 0, 3]);

    // Without byte tokens, a character that is in no token is the unknown token.
    let tokens = ["<unk>", "a", "▁"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec();
    let mut vocab = Vocab::new(VocabKind::SentencePiece, tokens);
    vocab.special.unk = Some(0);
    assert_eq!(
        Tokenizer::new(vocab).unwrap().encode("aéa", PLAIN),
        [2, 1, 0, 1]
    );
}

#[test]
fn any_bytes_come_back() {
    let property = |text: Vec<u8>| {
        BYTE_LEVEL.decode_bytes(&BYTE_LEVEL.encode(&text, PLAIN), false) == text
            && BYTE_LEVEL.decode_bytes(&BYTE_LEVEL.encode(&text, FULL), true) == text
    };
    QuickCheck::new().quickcheck(property as fn(Vec<u8>) -> bool);
}

#[test]
fn sentence_piece_text_comes_back() {
    let property = |text: Vec<u8>| {
        // A leading space is one with the space that is put before the text.
        SENTENCE_PIECE.decode_bytes(&SENTENCE_PIECE.encode(&text, PLAIN), false) == text
    };
    QuickCheck::new().quickcheck(property as fn(Vec<u8>) -> bool);
}

#[test]
fn pieces_of_the_detokenizer_are_the_whole_text() {
    let property = |ids: Vec<u16>, skip_special: bool| {
        all().into_iter().all(|tokenizer| {
            let n_tokens = tokenizer.n_tokens() as u32 + 2;
            let tokens: Vec<u32> = ids.iter().map(|&id| u32::from(id) % n_tokens).collect();
            let mut detokenizer = Detokenizer::new(tokenizer, skip_special);
            let mut text: String = tokens.iter().map(|&id| detokenizer.push(id)).collect();
            text += &detokenizer.finish();
            text == tokenizer.decode(&tokens, skip_special)
        })
    };
    QuickCheck::new().quickcheck(property as fn(Vec<u16>, bool) -> bool);
}

#[test]
fn segments_are_as_the_whole_text() {
    let property = |choices: Vec<u8>, cuts: Vec<usize>| {
        let words = ["<s>", "</s>", "<u>", "hell", " ", "ab", "é", "<", "s>"];
        let text: String = choices
            .iter()
            .map(|&c| words[c as usize % words.len()])
            .collect();
        let text = text.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        all().into_iter().all(|tokenizer| {
            [false, true].into_iter().all(|parse_special| {
                let segments: Vec<_> = cuts
                    .windows(2)
                    .map(|pair| Segment {
                        text: &text[pair[0]..pair[1]],
                        parse_special,
                    })
                    .collect();
                let options = EncodeOptions {
                    add_special: true,
                    parse_special,
                };
                tokenizer.encode_segments(&segments, true) == tokenizer.encode(text, options)
            })
        })
    };
    QuickCheck::new().quickcheck(property as fn(Vec<u8>, Vec<usize>) -> bool);
}

#[test]
fn messages_cannot_forge_control_tokens() {
    let tokenizer = byte_level();
    let segment = |text: &'static str, parse_special| Segment {
        text: text.as_bytes(),
        parse_special,
    };
    let tokens = tokenizer.encode_segments(
        &[
            segment("<s>h", true),
            segment("ell</s", false),
            segment("><u></", true),
            segment("s>", false),
        ],
        false,
    );
    let mut expected = vec![260, 258];
    expected.extend(b"</s>".map(u32::from));
    expected.push(262);
    expected.extend(b"</s>".map(u32::from));
    assert_eq!(tokens, expected);
}

#[test]
fn a_batch_is_as_its_texts() {
    let tokenizer = byte_level();
    let texts: Vec<String> = (0..100).map(|n| "hell ".repeat(n)).collect();
    let one_by_one: Vec<_> = texts
        .iter()
        .map(|text| tokenizer.encode(text, FULL))
        .collect();
    assert_eq!(tokenizer.encode_batch(&texts, FULL), one_by_one);
    assert_eq!(tokenizer.encode_batch(&[""; 0], FULL), [[0u32; 0]; 0]);
}

#[test]
fn long_texts_take_near_linear_time() {
    for tokenizer in all() {
        for unit in ["a", " ", "ab", "\n", "é", "<s", "hell", "<u> "] {
            let text = unit.repeat(200_000 / unit.len());
            let tokens = tokenizer.encode(&text, PARSED);
            // A space stands after each special token, and unigram vocabularies remove spaces.
            if unit != "<u> " && (unit != " " || tokenizer.unigram.is_none()) {
                assert_eq!(tokenizer.decode(&tokens, false), text);
            }
        }
    }
}

#[test]
fn metadata_gives_the_vocabulary() {
    let mut metadata = minerva_gguf::Metadata::new();
    let message = |metadata: &_| Tokenizer::from_metadata(metadata).unwrap_err().to_string();
    assert!(message(&metadata).contains("tokenizer.ggml.model"));
    metadata.insert("tokenizer.ggml.model", "rwkv");
    assert_eq!(
        message(&metadata),
        "tokenizer: tokenizer.ggml.model: \"rwkv\" is not supported, supported are: \
         llama, gpt2, gemma4, t5"
    );
    metadata.insert("tokenizer.ggml.model", "llama");
    assert!(message(&metadata).contains("tokenizer.ggml.tokens"));
}

#[test]
fn metadata_gives_a_unigram_vocabulary() {
    let vocab = unigram_vocab(false);
    let mut strings = minerva_gguf::StringArray::default();
    vocab.tokens.iter().for_each(|text| strings.push(text));
    let types = [3, 3, 2].into_iter().chain([1; 10]).chain([5]).collect();
    let mut metadata = minerva_gguf::Metadata::new();
    metadata.insert("tokenizer.ggml.model", "t5");
    metadata.insert("tokenizer.ggml.tokens", Array::String(strings));
    metadata.insert("tokenizer.ggml.scores", Array::F32(vocab.scores));
    metadata.insert("tokenizer.ggml.token_type", Array::I32(types));
    metadata.insert("tokenizer.ggml.add_space_prefix", true);
    metadata.insert("tokenizer.ggml.remove_extra_whitespaces", true);
    let charsmap = vocab.charsmap.iter().map(|&byte| byte as i8).collect();
    metadata.insert("tokenizer.ggml.precompiled_charsmap", Array::I8(charsmap));
    let tokenizer = Tokenizer::from_metadata(&metadata).unwrap();
    // The roles that the file leaves open are those of T5.
    let special = tokenizer.special();
    assert_eq!(
        (special.bos, special.eos, special.unk, special.pad),
        (None, Some(1), Some(2), Some(0))
    );
    assert_eq!(tokenizer.encode(" ab\t b ", FULL), [3, 6, 3, 5, 1]);
    assert_eq!(tokenizer.encode("ﬁ", FULL), [3, 10, 1]);
}
