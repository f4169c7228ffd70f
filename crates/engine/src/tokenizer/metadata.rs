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
            _ => {
                return Err(LoadError::Tokenizer(format!(
                    "tokenizer.ggml.model: {model:?} is not supported, supported are: \
                     llama, gpt2, gemma4"
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
            VocabKind::SentencePiece => {
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

        let default =
            |id: u32| (kind == VocabKind::SentencePiece && (id as usize) < n_tokens).then_some(id);
        let id = |name: &str, default: Option<u32>| -> Result<Option<u32>, LoadError> {
            let id = metadata.opt_u32(&format!("tokenizer.ggml.{name}_token_id"))?;
            // Converters write -1 for "none".
            Ok(id.map_or(default, |id| (id != u32::MAX).then_some(id)))
        };
        vocab.special = SpecialIds {
            bos: id("bos", default(1))?,
            eos: id("eos", default(2))?,
            eot: id("eot", None)?,
            eom: id("eom", None)?,
            unk: id("unknown", default(0))?,
            // The key is spelled so in the format.
            sep: id("seperator", None)?,
            pad: id("padding", None)?,
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
            .unwrap_or(false);
        if kind != VocabKind::ByteLevelBpe
            && let Some(add) = metadata.opt_bool("tokenizer.ggml.add_space_prefix")?
        {
            vocab.add_space_prefix = add;
        }

        // Phi-3's special tokens swallow white space, which its files do not say.
        let name = metadata
            .opt_str("general.name")?
            .unwrap_or_default()
            .to_lowercase();
        if name.contains("phi-3") || name.contains("phi3") {
            const KEEP: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
            vocab.strip_right = (0..)
                .zip(vocab.tokens.iter().zip(&vocab.token_types))
                .filter(|(_, (text, token_type))| {
                    let is_special = matches!(
                        token_type,
                        TokenType::Control | TokenType::Unknown | TokenType::UserDefined
                    );
                    let text = text.as_slice();
                    (is_special || text == b"</s>") && !KEEP.contains(&text)
                })
                .map(|(id, _)| id)
                .collect();
        }
        Ok(vocab)
    }
}
