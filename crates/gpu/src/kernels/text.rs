//! How the WGSL of a kernel is put together, of its file, what that includes and the snippets of its
//! types.
//!
//! In a file, `#include name` stands for another text, and the lines between `#for i 4` and `#end` stand
//! four times, with `$i` for the number: naga and the drivers do not unroll loops over local arrays.

use minerva_compute::KvType;

use super::{Answer, Elementwise, Form, Kernel, Reduction, WORKGROUP};
use crate::batch::TILE_ROWS;
use crate::dtypes::{alignment, snippet};

impl Kernel {
    /// The whole text.
    pub(crate) fn source(self, reduction: Reduction) -> String {
        let mut text = String::new();
        self.expand(self.file(), reduction, &mut text);
        let count = |name: &str| match name {
            "NR" => self.rows_per_group(),
            "NT" => self.tokens_per_group(),
            "TURNS" => self.turns(reduction),
            "ROWS" => self.attend_rows(),
            "ROW_LANES" => WORKGROUP / self.attend_rows(),
            "TM" => self.half_tile().products().0,
            "TN" => self.half_tile().products().1,
            // Pieces of the tiles for each lane: 32 elements or four numbers of w, four of x.
            "WU" => self.half_tile().rows() * self.pieces() / self.half_tile().lanes(),
            "XU" => self.half_tile().tokens() * 16 / self.half_tile().lanes(),
            number => number.parse().expect("a number of lines"),
        };
        unroll(&text, &count)
    }

    /// Writes a text out with what it includes.
    fn expand(self, text: &str, reduction: Reduction, out: &mut String) {
        for line in text.lines() {
            match line.strip_prefix("#include ") {
                Some(name) => self.expand(&self.include(name, reduction), reduction, out),
                None => {
                    out.push_str(line);
                    out.push('\n');
                }
            }
        }
    }

    fn file(self) -> &'static str {
        match self {
            Kernel::Embed(_) => include_str!("../wgsl/embed.wgsl"),
            Kernel::MulMv(..) => include_str!("../wgsl/mul_mv.wgsl"),
            Kernel::MulMm(..) => include_str!("../wgsl/mul_mm.wgsl"),
            Kernel::MulMmCoop(..) => include_str!("../wgsl/mul_mm_coop.wgsl"),
            Kernel::MulMmHalf(..) => include_str!("../wgsl/mul_mm_half.wgsl"),
            Kernel::Halves => include_str!("../wgsl/halves.wgsl"),
            Kernel::Quantize => include_str!("../wgsl/quantize.wgsl"),
            Kernel::RmsNorm(_) => include_str!("../wgsl/rms_norm.wgsl"),
            Kernel::LayerNorm(_) => include_str!("../wgsl/layer_norm.wgsl"),
            Kernel::Elementwise(_) => include_str!("../wgsl/elementwise.wgsl"),
            Kernel::Gather => include_str!("../wgsl/gather.wgsl"),
            Kernel::Route => include_str!("../wgsl/route.wgsl"),
            Kernel::Group => include_str!("../wgsl/group.wgsl"),
            Kernel::Combine => include_str!("../wgsl/combine.wgsl"),
            Kernel::Store(_) => include_str!("../wgsl/store.wgsl"),
            Kernel::Attend(..) => include_str!("../wgsl/attend.wgsl"),
            Kernel::Join(_) => include_str!("../wgsl/join.wgsl"),
        }
    }

    fn include(self, name: &str, reduction: Reduction) -> String {
        match (name, self) {
            ("product", _) => include_str!("../wgsl/product.wgsl").into(),
            ("interleave", _) => include_str!("../wgsl/interleave.wgsl").into(),
            ("bytes", _) => {
                let out = match self {
                    Kernel::MulMv(..) => "bytes_out",
                    _ => "out",
                };
                include_str!("../wgsl/bytes.wgsl").replace("$out", out)
            }
            ("store", Kernel::MulMv(_, _, answer, _)) if answer.has_bytes() => {
                include_str!("../wgsl/store_one.wgsl").into()
            }
            ("store", _) => include_str!("../wgsl/store_each.wgsl").into(),
            ("own_matrix", _) => match self.has_experts() {
                true => include_str!("../wgsl/matrix_of_expert.wgsl").into(),
                false => include_str!("../wgsl/matrix_of_all.wgsl").into(),
            },
            ("eight_lanes", _) => match reduction {
                Reduction::Subgroup(size) if size >= 8 => {
                    include_str!("../wgsl/eight_lanes_subgroup.wgsl").into()
                }
                _ => include_str!("../wgsl/eight_lanes_shared.wgsl").into(),
            },
            ("write_normed", Kernel::RmsNorm(form) | Kernel::LayerNorm(form)) => match form {
                Form::F32 => include_str!("../wgsl/write_rows.wgsl").into(),
                Form::Bytes => include_str!("../wgsl/write_bytes.wgsl").into(),
            },
            ("write_head", Kernel::Attend(_, _, form) | Kernel::Join(form)) => match form {
                Form::F32 => include_str!("../wgsl/write_head.wgsl").into(),
                Form::Bytes => include_str!("../wgsl/write_head_bytes.wgsl").into(),
            },
            ("terms", Kernel::MulMv(_, _, _, Form::Bytes)) => {
                include_str!("../wgsl/terms_of_codes.wgsl").into()
            }
            ("terms", Kernel::MulMv(dtype, ..)) => match snippet(dtype).is_plain {
                true => include_str!("../wgsl/terms_of_numbers.wgsl").into(),
                false => include_str!("../wgsl/terms_of_groups.wgsl").into(),
            },
            ("rows", Kernel::MulMmHalf(..)) => include_str!("../wgsl/rows_f16.wgsl").into(),
            ("rows", Kernel::MulMv(_, _, _, Form::Bytes)) => {
                include_str!("../wgsl/rows_bytes.wgsl").into()
            }
            ("rows", _) => include_str!("../wgsl/rows_f32.wgsl").into(),
            ("tile", Kernel::MulMmHalf(_, tile)) => {
                let (rows, tokens) = tile.products();
                format!(
                    "const LANES = {}u;\nconst TILE_ROWS = {}u;\nconst TILE_TOKENS = {}u;\n\
                     const UNIT_ROWS = {}u;\nconst UNIT_TOKENS = {}u;\n{}",
                    tile.lanes(),
                    tile.rows(),
                    tile.tokens(),
                    16 * rows,
                    16 * tokens,
                    include_str!("../wgsl/tile.wgsl")
                )
            }
            ("tile", _) => {
                "const TILE_TOKENS = 32u;\n".to_owned() + include_str!("../wgsl/tile.wgsl")
            }
            ("own_tile", _) => match self.has_experts() {
                true => include_str!("../wgsl/tile_of_expert.wgsl").into(),
                false => include_str!("../wgsl/tile_of_all.wgsl").into(),
            },
            ("pieces", _) => {
                let text = match self.reads_numbers() {
                    true => include_str!("../wgsl/pieces_of_numbers.wgsl"),
                    false => include_str!("../wgsl/pieces_of_codes.wgsl"),
                };
                format!("const PIECES = {}u;\n{text}", self.pieces())
            }
            ("activation", _) => include_str!("../wgsl/activation.wgsl").into(),
            ("answer", Kernel::MulMv(_, _, answer, _)) => match answer {
                Answer::Rows => include_str!("../wgsl/answer_rows.wgsl").into(),
                Answer::Gated => include_str!("../wgsl/answer_gated.wgsl").into(),
                Answer::RowsForNorm => include_str!("../wgsl/answer_for_norm.wgsl").into(),
                Answer::GatedBytes => include_str!("../wgsl/answer_gated_bytes.wgsl").into(),
            },
            ("gated", Kernel::MulMv(_, _, answer, _)) => match answer.is_gated() {
                true => include_str!("../wgsl/gated.wgsl").into(),
                false => String::new(),
            },
            ("block", Kernel::MulMv(_, _, answer, _)) => match answer.has_bytes() {
                true => {
                    let has_norm = answer == Answer::RowsForNorm;
                    format!("const HAS_NORM = {has_norm};\n") + include_str!("../wgsl/block.wgsl")
                }
                false => String::new(),
            },
            ("write_block", Kernel::MulMv(_, _, answer, _)) => match answer.has_bytes() {
                true => include_str!("../wgsl/write_block.wgsl").into(),
                false => String::new(),
            },
            ("functions", _) => {
                let mut text = "fn function(a: f32, b: f32) -> f32 {\n".to_owned();
                for function in Elementwise::GATED {
                    let (index, body) = (function.gated_index(), function.body());
                    text += &format!("    if p.function == {index}u {{\n    {body}\n    }}\n");
                }
                text + "    return a;\n}\n"
            }
            ("words", _) => match alignment(self.weights_dtype()) {
                16 => include_str!("../wgsl/words_of_16_bytes.wgsl").into(),
                _ => include_str!("../wgsl/words.wgsl").into(),
            },
            ("weight", _) => include_str!("../wgsl/weight.wgsl").into(),
            ("unpack", _) => {
                let dtype = self.weights_dtype();
                let snippet = snippet(dtype);
                let unpack = match snippet.is_plain {
                    true => include_str!("../dtypes/plain.wgsl"),
                    false => include_str!("../dtypes/groups.wgsl"),
                };
                format!(
                    "const BLOCK_BYTES = {}u;\nconst IS_PLAIN = {};\nconst HAS_EXPERTS = {};\n{}{unpack}",
                    dtype.block_bytes(),
                    snippet.is_plain,
                    self.has_experts(),
                    snippet.wgsl.concat()
                )
            }
            ("group_sum", _) => {
                let text = match reduction {
                    Reduction::Subgroup(_) => include_str!("../wgsl/group_sum_subgroup.wgsl"),
                    Reduction::Shared => include_str!("../wgsl/group_sum_shared.wgsl"),
                };
                format!(
                    "const LANES = {}u;\nconst GROUP = {}u;\nconst NT = {}u;\nconst TURNS = {}u;\n{text}",
                    self.mul_mv_lanes(reduction),
                    reduction.group(),
                    self.tokens_per_group(),
                    self.turns(reduction),
                )
            }
            ("block_sum", _) => {
                let text = match reduction {
                    Reduction::Subgroup(_) => include_str!("../wgsl/block_sum_subgroup.wgsl"),
                    Reduction::Shared => include_str!("../wgsl/block_sum_shared.wgsl"),
                };
                format!(
                    "const LANES = {}u;\nconst GROUP = {}u;\n{text}",
                    self.norm_lanes(),
                    reduction.group()
                )
            }
            ("turn", _) => include_str!("../wgsl/turn.wgsl").into(),
            ("function", Kernel::Elementwise(function)) => {
                let index = match function {
                    Elementwise::Gate => "0u",
                    _ => "i",
                };
                let body = function.body();
                format!("fn function(a: f32, b: f32) -> f32 {{\n    {body}\n}}\n")
                    + &format!("fn b_index(i: u32) -> u32 {{\n    return {index};\n}}\n")
            }
            ("store_k", Kernel::Store(types)) => store(types.k).replace("$kv", "k"),
            ("store_v", Kernel::Store(types)) => store(types.v).replace("$kv", "v"),
            ("tile_rows", _) => {
                let rows = self.attend_rows();
                // Few rows wait for memory, and many compute.
                let ways = if rows < TILE_ROWS as u32 { 4 } else { 1 };
                format!("const ROWS = {rows}u;\nconst WAYS = {ways}u;\n")
            }
            ("load_k", Kernel::Attend(types, ..)) => load(types.k).replace("$kv", "k"),
            ("load_v", Kernel::Attend(types, ..)) => load(types.v).replace("$kv", "v"),
            _ => unreachable!("{self} includes {name}"),
        }
    }
}

fn store(kv_type: KvType) -> String {
    let (head, scales) = match kv_type {
        KvType::F32 => (
            include_str!("../kv_types/store_f32.wgsl"),
            include_str!("../kv_types/no_scales.wgsl"),
        ),
        KvType::F16 => (
            include_str!("../kv_types/store_f16.wgsl"),
            include_str!("../kv_types/no_scales.wgsl"),
        ),
        KvType::Q8_0 => (
            include_str!("../kv_types/store_q8_0.wgsl"),
            include_str!("../kv_types/scales.wgsl"),
        ),
        KvType::Q4_0 => (
            include_str!("../kv_types/store_q4_0.wgsl"),
            include_str!("../kv_types/scales.wgsl"),
        ),
    };
    head.to_owned() + scales
}

fn load(kv_type: KvType) -> &'static str {
    match kv_type {
        KvType::F32 => include_str!("../kv_types/load_f32.wgsl"),
        KvType::F16 => include_str!("../kv_types/load_f16.wgsl"),
        KvType::Q8_0 => include_str!("../kv_types/load_q8_0.wgsl"),
        KvType::Q4_0 => include_str!("../kv_types/load_q4_0.wgsl"),
    }
}

/// Writes the lines between `#for name count` and its `#end` out for each number.
fn unroll(text: &str, count: &dyn Fn(&str) -> u32) -> String {
    let mut out = String::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(head) = line.strip_prefix("#for ") else {
            out += line;
            out.push('\n');
            continue;
        };
        let (name, number) = head.split_once(' ').expect("a name and a number");
        let (mut body, mut depth) = (String::new(), 1);
        for line in lines.by_ref() {
            match line {
                "#end" => depth -= 1,
                _ if line.starts_with("#for ") => depth += 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            body += line;
            body.push('\n');
        }
        for i in 0..count(number) {
            let body = body.replace(&format!("${name}"), &i.to_string());
            out += &unroll(&body, count);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nested_lines_are_written_out() {
        let text = "a\n#for i 2\nb$i\n#for j N\nc$i_$ju\n#end\n#end\nd\n";
        let out = unroll(text, &|number| if number == "N" { 1 } else { 2 });
        assert_eq!(out, "a\nb0\nc0_0u\nb1\nc1_0u\nd\n");
    }
}
