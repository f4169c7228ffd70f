//! The format's table of tensor data types: id, name, block length, block bytes.
//!
//! All ids that the format defines are here, whether or not anything can compute with them, so that
//! a file can be listed in full and an error can name the type. Ids, names and sizes are those of
//! llama.cpp's `ggml.h` and `ggml-common.h` (build 11434). The Python package `gguf` 0.19.0 agrees
//! but for two: it does not know `Q2_0`, and gives blocks of `Q8_1`, which no file stores, 40 bytes.

use std::fmt;

/// One macro row per type; the enum and its table come from the rows.
macro_rules! types {
    ($($variant:ident = $id:literal, $block_len:literal, $block_bytes:literal;)*) => {
        /// The data type of a tensor's elements.
        #[allow(non_camel_case_types, reason = "the field writes these names with underscores")]
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum GgmlType {
            $(
                #[doc = concat!(
                    "`", stringify!($variant), "`: ", stringify!($block_len), " elements in ",
                    stringify!($block_bytes), " bytes."
                )]
                $variant = $id,
            )*
        }

        impl GgmlType {
            /// All types, by ascending id.
            pub const ALL: &[GgmlType] = &[$(GgmlType::$variant),*];

            /// The type with this id in a file; `None` if it is unknown or was removed.
            pub fn from_id(id: u32) -> Option<GgmlType> {
                match id {
                    $($id => Some(GgmlType::$variant),)*
                    _ => None,
                }
            }

            /// The type's name as the field writes it, for example `Q4_K`.
            pub fn name(self) -> &'static str {
                match self {
                    $(GgmlType::$variant => stringify!($variant),)*
                }
            }

            /// How many elements one block holds; 1 for plain numbers.
            pub fn block_len(self) -> usize {
                match self {
                    $(GgmlType::$variant => $block_len,)*
                }
            }

            /// How many bytes one block takes.
            pub fn block_bytes(self) -> usize {
                match self {
                    $(GgmlType::$variant => $block_bytes,)*
                }
            }
        }
    };
}

types! {
    // variant = id, block length, block bytes
    F32     =  0,   1,   4;
    F16     =  1,   1,   2;
    Q4_0    =  2,  32,  18;
    Q4_1    =  3,  32,  20;
    Q5_0    =  6,  32,  22;
    Q5_1    =  7,  32,  24;
    Q8_0    =  8,  32,  34;
    Q8_1    =  9,  32,  36;
    Q2_K    = 10, 256,  84;
    Q3_K    = 11, 256, 110;
    Q4_K    = 12, 256, 144;
    Q5_K    = 13, 256, 176;
    Q6_K    = 14, 256, 210;
    Q8_K    = 15, 256, 292;
    IQ2_XXS = 16, 256,  66;
    IQ2_XS  = 17, 256,  74;
    IQ3_XXS = 18, 256,  98;
    IQ1_S   = 19, 256,  50;
    IQ4_NL  = 20,  32,  18;
    IQ3_S   = 21, 256, 110;
    IQ2_S   = 22, 256,  82;
    IQ4_XS  = 23, 256, 136;
    I8      = 24,   1,   1;
    I16     = 25,   1,   2;
    I32     = 26,   1,   4;
    I64     = 27,   1,   8;
    F64     = 28,   1,   8;
    IQ1_M   = 29, 256,  56;
    BF16    = 30,   1,   2;
    TQ1_0   = 34, 256,  54;
    TQ2_0   = 35, 256,  66;
    MXFP4   = 39,  32,  17;
    NVFP4   = 40,  64,  36;
    Q1_0    = 41, 128,  18;
    Q2_0    = 42,  64,  18;
}

/// Ids that older files may carry and that the format has since withdrawn.
const REMOVED: [(u32, &str); 8] = [
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl GgmlType {
    /// The greatest id that the format has given out.
    pub(crate) const MAX_ID: u32 = GgmlType::Q2_0 as u32;

    /// The type's id in a file.
    pub fn id(self) -> u32 {
        self as u32
    }

    /// The name that an id had before the format removed it.
    pub fn removed_name(id: u32) -> Option<&'static str> {
        REMOVED
            .iter()
            .find(|(removed, _)| *removed == id)
            .map(|(_, name)| *name)
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_id_up_to_the_last_is_known_or_removed() {
        for id in 0..=GgmlType::MAX_ID {
            let known = GgmlType::from_id(id);
            assert!(
                known.is_some() != GgmlType::removed_name(id).is_some(),
                "id {id}"
            );
            if let Some(known) = known {
                assert_eq!(known.id(), id);
            }
        }
        assert_eq!(GgmlType::from_id(43), None);
        assert_eq!(GgmlType::removed_name(43), None);
        assert_eq!(GgmlType::ALL.len() + REMOVED.len(), 43);
        assert!(GgmlType::ALL.is_sorted());
    }

    #[test]
    fn names_are_the_field_s() {
        assert_eq!(GgmlType::Q4_K.name(), "Q4_K");
        assert_eq!(format!("{:>8}", GgmlType::IQ2_XXS), " IQ2_XXS");
    }
}
