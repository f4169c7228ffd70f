//! The vocabulary of a GGUF file, from its `tokenizer.ggml.*` keys.

use minerva_gguf::Metadata;

use super::{SpecialIds, TokenType, Tokenizer, Vocab, VocabKind};
use crate::LoadError;

impl Tokenizer {
    /// The tokenizer that a file's metadata describes.
    pub fn from_metadata(metadata: &Metadata) -> Result<Tokenizer, LoadError> {
        Tokenizer::new(Vocab::from_metadata(metadata)?)
    }
}

impl Vocab {
    /// The vocabulary that a file's metadata describes.
    ///
    /// What the file leaves open is as llama.cpp has it, but that a byte-level vocabulary has no BOS
    /// and EOS unless the file names them. A byte-level vocabulary without the name of a
    /// pre-tokenizer uses `default`.
    pub fn from_metadata(metadata: &Metadata) -> Result<Vocab, LoadError> {
        let model = metadata.str("tokenizer.ggml.model")?;
        let kind = match model {
            "llama" => VocabKind::SentencePiece,
            "gpt2" => VocabKind::ByteLevelBpe,
            "gemma4" => VocabKind::CharBpe,
            "t5" => VocabKind::Unigram,
            _ => {
                return Err(LoadError::Tokenizer(format!(
                    "tokenizer.ggml.model: {model:?} is not supported, supported are: \
                     llama, gpt2, gemma4, t5"
                )));
            }
        };
        let tokens: Vec<Vec<u8>> = metadata
            .strings("tokenizer.ggml.tokens")?
            .iter()
            .map(<[u8]>::to_vec)
            .collect();
        let n_tokens = tokens.len();
        let mut vocab = Vocab::new(kind, tokens);

        if let Some(ids) = metadata.opt_i32s("tokenizer.ggml.token_type")? {
            vocab.token_types = ids
                .iter()
                .enumerate()
                .map(|(token, &id)| {
                    TokenType::from_id(id).ok_or_else(|| {
                        LoadError::Tokenizer(format!(
                            "tokenizer.ggml.token_type: {id} at index {token}, expected 0 to 6"
                        ))
                    })
                })
                .collect::<Result<_, _>>()?;
        }
        match kind {
            VocabKind::SentencePiece | VocabKind::Unigram => {
                vocab.scores = metadata.f32s("tokenizer.ggml.scores")?;
            }
            VocabKind::ByteLevelBpe | VocabKind::CharBpe => {
                let merges = metadata.strings("tokenizer.ggml.merges")?;
                vocab.merges = merges.iter().map(<[u8]>::to_vec).collect();
            }
        }
        if let Some(name) = metadata.opt_str("tokenizer.ggml.pre")? {
            vocab.pre_tokenizer = name.to_string();
        }

        // Begin, end, unknown, padding.
        let defaults = match kind {
            VocabKind::SentencePiece => [Some(1), Some(2), Some(0), None],
            VocabKind::Unigram => [None, Some(1), Some(2), Some(0)],
            VocabKind::ByteLevelBpe | VocabKind::CharBpe => [None; 4],
        };
        let [bos, eos, unk, pad] =
            defaults.map(|id: Option<u32>| id.filter(|&id| (id as usize) < n_tokens));
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>, LoadError> {
            let id = metadata.opt_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
            // Converters write -1 for "none".
            Ok(id.map_or(default, |id| (id != u32::MAX).then_some(id)))
        };
        vocab.special = SpecialIds {
            bos: id("bos", bos)?,
            eos: id("eos", eos)?,
            eot: id("eot", None)?,
            eom: id("eom", None)?,
            unk: id("unknown", unk)?,
            // The key is spelled so in the format.
            sep: id("seperator", None)?,
            pad: id("padding", pad)?,
            mask: id("mask", None)?,
            fim_pre: id("fim_pre", id("prefix", None)?)?,
            fim_suf: id("fim_suf", id("suffix", None)?)?,
            fim_mid: id("fim_mid", id("middle", None)?)?,
            fim_pad: id("fim_pad", None)?,
            fim_rep: id("fim_rep", None)?,
            fim_sep: id("fim_sep", None)?,
        };
        // Files of this kind say no where the models were trained with it.
        vocab.add_bos = match kind {
            VocabKind::CharBpe => Some(true),
            _ => metadata.opt_bool("tokenizer.ggml.add_bos_token")?,
        };
        vocab.add_eos = metadata
            .opt_bool("tokenizer.ggml.add_eos_token")?
            .unwrap_or(kind == VocabKind::Unigram && vocab.special.eos.is_some());
        if kind != VocabKind::ByteLevelBpe
            && let Some(add) = metadata.opt_bool("tokenizer.ggml.add_space_prefix")?
        {
            vocab.add_space_prefix = add;
        }

        if kind == VocabKind::Unigram {
            vocab.remove_extra_whitespaces = metadata
                .opt_bool("tokenizer.ggml.remove_extra_whitespaces")?
                .unwrap_or(false);
            vocab.charsmap = metadata
                .opt_bytes("tokenizer.ggml.precompiled_charsmap")?
                .unwrap_or_default();
        }

        vocab.set_strips(metadata)?;
        Ok(vocab)
    }
}
