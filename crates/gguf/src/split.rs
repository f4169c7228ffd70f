//! Models split over several files: the names of the parts, and joining them into one [`Gguf`].
//!
//! The caller opens the files; this module only says which ones and checks that they belong
//! together. Opening a model of several parts:
//!
//! 1. parse the file given; [`Gguf::split`] says whether it is a part, and of how many;
//! 2. [`SplitName::parse`] its file name, and form the names of the others with
//!    [`SplitName::part`];
//! 3. parse those, and [`Gguf::join`] them. [`TensorInfo::part`](crate::TensorInfo::part) then
//!    says which file a tensor is in.

use std::fmt;

use crate::error::Error;
use crate::parse::Gguf;

const NO_KEY: &str = "split.no";
const COUNT_KEY: &str = "split.count";
const TENSOR_COUNT_KEY: &str = "split.tensors.count";

/// The place of a file among the parts of a split model, from its metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Which part the file is, from 0.
    pub part: u32,
    /// How many parts there are, at least 1.
    pub n_parts: u32,
}

/// The name of a part's file: `model-00002-of-00005.gguf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitName {
    /// What comes before the numbers, `model` in the example.
    pub prefix: String,
    /// Which part it is, from 0: 1 in the example.
    pub part: u32,
    /// How many parts there are.
    pub n_parts: u32,
}

impl SplitName {
    /// Takes a file name apart; `None` if it is not that of a part.
    pub fn parse(file_name: &str) -> Option<SplitName> {
        let (rest, n_parts) = strip_number(file_name.strip_suffix(".gguf")?)?;
        let (rest, number) = strip_number(rest.strip_suffix("-of-")?)?;
        let prefix = rest.strip_suffix('-')?.to_string();
        let part = number.checked_sub(1)?;
        (part < n_parts).then_some(SplitName {
            prefix,
            part,
            n_parts,
        })
    }

    /// The name of another part of the same model, counted from 0.
    pub fn part(&self, part: u32) -> SplitName {
        SplitName {
            part,
            ..self.clone()
        }
    }
}

/// Takes five digits off the end.
fn strip_number(text: &str) -> Option<(&str, u32)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(5)?)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((rest, digits.parse().ok()?))
}

impl fmt::Display for SplitName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = u64::from(self.part) + 1;
        write!(f, "{}-{number:05}-of-{:05}.gguf", self.prefix, self.n_parts)
    }
}

impl Gguf {
    /// Which part of a split model this file is; `None` if it is a model of one file.
    ///
    /// A merged model may state 0 parts, which means the same as stating nothing.
    pub fn split(&self) -> Result<Option<Split>, Error> {
        match self.metadata.opt_u32(COUNT_KEY)? {
            None | Some(0) => Ok(None),
            Some(n_parts) => Ok(Some(Split {
                part: self.metadata.u32(NO_KEY)?,
                n_parts,
            })),
        }
    }

    /// Joins the first part of a split model with the others, given in order.
    ///
    /// The result has the version, alignment and metadata of the first part, and the tensors of
    /// all. The parts must agree on their places, their number and the number of tensors, and no
    /// tensor may be in two of them.
    pub fn join(mut self, rest: Vec<Gguf>) -> Result<Gguf, Error> {
        let n_parts = 1 + rest.len();
        let n_tensors =
            self.tensors.len() + rest.iter().map(|gguf| gguf.tensors.len()).sum::<usize>();
        for (part, gguf) in std::iter::once(&self).chain(&rest).enumerate() {
            // What the parts after the first must state is their number alone.
            let is_required = part == 0;
            gguf.check_split_key(part, NO_KEY, part, true)?;
            gguf.check_split_key(part, COUNT_KEY, n_parts, is_required)?;
            gguf.check_split_key(part, TENSOR_COUNT_KEY, n_tensors, is_required)?;
        }
        for (rest_idx, gguf) in rest.into_iter().enumerate() {
            let part = 1 + rest_idx;
            for mut info in gguf.tensors.into_infos() {
                info.part = part;
                let name = info.name.clone();
                self.tensors
                    .push(info)
                    .map_err(|earlier| Error::DuplicateTensorInParts {
                        name: name.to_string(),
                        parts: [earlier, part],
                    })?;
            }
        }
        Ok(self)
    }

    fn check_split_key(
        &self,
        part: usize,
        key: &'static str,
        wanted: usize,
        is_required: bool,
    ) -> Result<(), Error> {
        let wanted = wanted as u64;
        match self.metadata.opt_u64(key)? {
            Some(found) if found != wanted => Err(Error::SplitMismatch {
                part,
                key,
                found,
                wanted,
            }),
            None if is_required => Err(Error::MissingKey {
                key: key.into(),
                wanted: "u64",
            }),
            _ => Ok(()),
        }
    }
}
