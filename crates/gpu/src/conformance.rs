//! What a device must answer: programs over every data type and operation, judged by the reference
//! backend. The tests run them on the adapter that is there; `minerva selftest` runs them on a
//! user's machine.

use minerva_compute::{
    Activation, AttentionSpec, Backend, BackendError, Batch, Builder, DType, DeviceError,
    Executable, ExpertsSpec, Function, KV_BLOCK_LEN, KvType, KvTypes, Limits, Pairing, Program,
    ReferenceBackend, Rope, Sequence, Weight, WeightId,
};

/// The largest error of logits against the reference backend: squared difference over squared size.
/// Both compute in f32, in other orders of sums, so that some 1e-12 is usual.
pub const TOLERANCE: f64 = 1e-9;

/// The same where keys and values are stored in fewer bits: what was summed in another order may be
/// rounded to the next number.
pub fn tolerance(kv_types: KvTypes) -> f64 {
    let of = |kv_type| match kv_type {
        KvType::F32 => TOLERANCE,
        KvType::F16 | KvType::Q8_0 => 1e-6,
        KvType::Q4_0 => 1e-5,
    };
    of(kv_types.k).max(of(kv_types.v))
}

const VOCAB: usize = 50;

/// A program with what is run of it.
pub struct Case {
    /// What it is about.
    pub name: String,
    program: Program,
    kv_types: KvTypes,
    /// Tokens of each batch, one behind the other in one sequence.
    slices: Vec<usize>,
}

/// Why a case failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The program could not be loaded.
    #[error(transparent)]
    Load(#[from] BackendError),
    /// The device failed.
    #[error(transparent)]
    Run(#[from] DeviceError),
    /// The logits are too far from the reference's.
    #[error("error {found:.1e}, expected below {wanted:.0e}")]
    Error {
        /// What it is.
        found: f64,
        /// What it may be.
        wanted: f64,
    },
}

impl Case {
    /// Runs it on a backend and on the reference; gives the error of the logits.
    pub fn check(&self, backend: &dyn Backend) -> Result<f64, Failure> {
        let n: usize = self.slices.iter().sum();
        let n_kv_blocks = n.div_ceil(KV_BLOCK_LEN) + 3;
        let limits = Limits {
            max_tokens: n,
            max_outputs: n,
            n_kv_blocks,
            kv_types: self.kv_types,
        };
        // In no order.
        let blocks: Vec<u32> = (0..n_kv_blocks as u32).rev().collect();
        let random = &mut Random(n as u64);
        let tokens: Vec<u32> = (0..n)
            .map(|_| (random.next() % self.program.vocab_size() as u64) as u32)
            .collect();
        let mut reference = ReferenceBackend.load(self.program.clone(), limits)?;
        let want = run(&mut *reference, &tokens, &[n], &blocks)?;
        let mut model = backend.load(self.program.clone(), limits)?;
        let got = run(&mut *model, &tokens, &self.slices, &blocks)?;
        let (found, wanted) = (error(&got, &want), tolerance(self.kv_types));
        match found < wanted {
            true => Ok(found),
            false => Err(Failure::Error { found, wanted }),
        }
    }
}

/// Logits of every token.
fn run(
    model: &mut dyn Executable,
    tokens: &[u32],
    slices: &[usize],
    blocks: &[u32],
) -> Result<Vec<f32>, DeviceError> {
    let mut logits = Vec::new();
    let mut start = 0;
    for &n in slices {
        let outputs: Vec<u32> = (0..n as u32).collect();
        let sequence = Sequence {
            n_tokens: n,
            start,
            blocks,
        };
        logits.extend_from_slice(model.run(&Batch {
            tokens: &tokens[start..start + n],
            sequences: &[sequence],
            outputs: &outputs,
            input: &[],
        })?);
        start += n;
    }
    Ok(logits)
}

/// Squared difference over squared size; not a number where a logit is none.
pub fn error(got: &[f32], want: &[f32]) -> f64 {
    assert_eq!(got.len(), want.len());
    let square = |x: f64| x * x;
    let size: f64 = want.iter().map(|w| square(f64::from(*w))).sum();
    let pairs = got.iter().zip(want);
    let differences = pairs.map(|(g, w)| square(f64::from(*g) - f64::from(*w)));
    differences.sum::<f64>() / size
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let f32_cache = KvTypes::both(KvType::F32);
    let mut cases = Vec::new();
    let mut add = |name: String, program: Program, kv_types, slices: &[usize]| {
        cases.push(Case {
            name,
            program,
            kv_types,
            slices: slices.to_vec(),
        });
    };
    for &dtype in DType::ALL {
        // One token, a few, and more than one tile.
        let slices = [1, 2, 7, 41];
        add(format!("{dtype}"), one_type(dtype), f32_cache, &slices);
    }
    for &k in KvType::ALL {
        for &v in KvType::ALL {
            let slices = [5, 1, 2, 29];
            let types = KvTypes { k, v };
            add(format!("cache {k} {v}"), layer(4, 2, 96), types, &slices);
        }
    }
    for (n_heads, n_kv_heads, head_dim) in [
        (3, 3, 20),
        (12, 1, 64),
        (2, 1, 256),
        (6, 3, 36),
        (4, 2, 10),
        (2, 2, 17),
    ] {
        let name = format!("{n_heads} heads of {head_dim} over {n_kv_heads}");
        let types = KvTypes::default();
        add(
            format!("{name}, f16"),
            layer(n_heads, n_kv_heads, head_dim),
            types,
            &[18, 1],
        );
        add(
            name,
            layer(n_heads, n_kv_heads, head_dim),
            f32_cache,
            &[18, 1],
        );
    }
    // One token after many: its attention is split into spans.
    for kv_types in [f32_cache, KvTypes::default()] {
        let name = format!("long context {}", kv_types.k);
        add(name, layer(4, 2, 32), kv_types, &[700, 1, 3]);
    }
    for (window, n) in [(1, 40), (5, 40), (300, 600), (256, 600)] {
        let name = format!("every operation, window {window}");
        add(
            name,
            every_operation(window),
            f32_cache,
            &[n - 33, 9, 1, 23],
        );
    }
    for (dtype, inner, normalizes, is_plain) in [
        (DType::F32, 40, true, true),
        (DType::F32, 64, false, false),
        (DType::Q8_0, 96, true, true),
        (DType::MXFP4, 96, true, false),
    ] {
        let name = format!("experts {dtype}");
        let program = experts(dtype, inner, normalizes, is_plain);
        add(name, program, f32_cache, &[1, 30, 3]);
    }
    cases
}

/// Everything that depends on a data type: rows of a table, products of odd sizes.
fn one_type(dtype: DType) -> Program {
    let random = &mut Random(u64::from(dtype.id()) + 1);
    let mut b = Builder::new();
    // Rows of plain types may end anywhere.
    let width = match dtype.block_len() {
        1 => 75,
        len => 3 * len,
    };
    let table = b.weight(weight(random, dtype, (VOCAB, width)));
    let back = b.weight(weight(random, dtype, (width, width)));
    let output = b.weight(weight(random, dtype, (37, width)));
    let bias = vector(&mut b, random, width, 0.0);
    let x = b.embed(table);
    let x = b.matmul_add(x, back, Some(bias), x);
    let x = b.outputs(x);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

/// A layer of a decoder.
fn layer(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Program {
    let random = &mut Random(5);
    let mut b = Builder::new();
    let (dim, kv) = (64, n_kv_heads * head_dim);
    let mut matrix =
        |b: &mut Builder, rows, row_len| b.weight(weight(random, DType::F32, (rows, row_len)));
    let embd = matrix(&mut b, VOCAB, dim);
    let [wq, wk, wv, wo, output] = [
        (n_heads * head_dim, dim),
        (kv, dim),
        (kv, dim),
        (dim, n_heads * head_dim),
        (VOCAB, dim),
    ]
    .map(|(rows, row_len)| matrix(&mut b, rows, row_len));
    let inv_freq = (0..head_dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing: Pairing::Adjacent,
        inv_freq,
        magnitude: 1.0,
    });
    let x = b.embed(embd);
    let qkv = b.matmul_parts(x, [(wq, None), (wk, None), (wv, None)]);
    let a = b.attention(
        qkv,
        &AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 1.0,
            rope: Some(rope),
            soft_cap: None,
            window: None,
            sinks: None,
        },
    );
    let x = b.matmul_add(a, wo, None, x);
    let x = b.outputs(x);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

/// Numbers so low that they clamp much.
const CLAMPED_SWIGLU: Activation = Activation::ClampedSwiglu {
    alpha: 1.702,
    limit: 0.7,
};

/// Two layers of all operations but experts, with all their options.
fn every_operation(window: usize) -> Program {
    let random = &mut Random(11);
    let mut b = Builder::new();
    let (dim, inner, n_heads, n_kv_heads, head_dim) = (66, 90, 4, 2, 24);
    let kv = n_kv_heads * head_dim;
    let embd = b.weight(weight(random, DType::F32, (VOCAB, dim)));
    let inv_freq = (0..head_dim / 4).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing: Pairing::Halves,
        inv_freq,
        magnitude: 1.2,
    });
    let x = b.embed(embd);
    let mut x = b.map(x, Function::Scale(3.0));
    for window in [Some(window), None] {
        let (norm, bias) = (
            vector(&mut b, random, dim, 1.0),
            vector(&mut b, random, dim, 0.0),
        );
        let h = b.layer_norm(x, norm, bias, 1e-5);
        let projections = [n_heads * head_dim, kv, kv].map(|rows| {
            let matrix = b.weight(weight(random, DType::F32, (rows, dim)));
            (matrix, Some(vector(&mut b, random, rows, 0.0)))
        });
        let [q, k, v] = b.matmul_parts(h, projections);
        let (by_head, whole) = (
            vector(&mut b, random, head_dim, 1.0),
            vector(&mut b, random, kv, 1.0),
        );
        let q = b.rms_norm(q, by_head, 1e-5);
        let k = b.rms_norm(k, whole, 1e-5);
        let sinks = window.map(|_| vector(&mut b, random, n_heads, 1.0));
        let spec = AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.7,
            rope: Some(rope),
            soft_cap: Some(3.0),
            window,
            sinks,
        };
        let a = b.attention([q, k, v], &spec);
        let wo = b.weight(weight(random, DType::F32, (dim, n_heads * head_dim)));
        let y = b.matmul(a, wo);
        let beside = b.add(x, y);
        let [up, gate, down] = [(inner, dim), (inner, dim), (dim, inner)]
            .map(|shape| b.weight(weight(random, DType::F32, shape)));
        let wide = b.matmul(h, up);
        let wide = b.map(wide, Function::Gelu);
        let y = b.matmul_add(wide, down, None, beside);
        let (activation, bias) = match window {
            Some(_) => (CLAMPED_SWIGLU, Some(vector(&mut b, random, inner, 0.0))),
            None => (Activation::Gelu, None),
        };
        let wide = b.gated_matmul(y, (gate, bias), (up, bias), activation);
        let y = b.matmul_add(wide, down, None, y);
        let norm = vector(&mut b, random, dim, 1.0);
        x = b.rms_norm(y, norm, 1e-6);
    }
    let x = b.outputs(x);
    let output = b.weight(weight(random, DType::F32, (VOCAB, dim)));
    let logits = b.matmul(x, output);
    let logits = b.map(logits, Function::SoftCap(2.0));
    b.finish(logits)
}

/// A mixture of experts beside a gated path; the third expert's scores are the second's. The plain
/// one has one type throughout, the other an expert of f32, biases, and the clamped activation.
fn experts(dtype: DType, inner: usize, normalizes: bool, is_plain: bool) -> Program {
    let random = &mut Random(21);
    let mut b = Builder::new();
    let (dim, n_experts) = (64, 5);
    let embd = b.weight(weight(random, DType::F32, (VOCAB, dim)));
    let mut router: Vec<f32> = (0..n_experts * dim).map(|_| random.unit()).collect();
    router.copy_within(dim..2 * dim, 2 * dim);
    let router = b.weight(Weight::from_f32("router", (n_experts, dim), &router));
    let by = vector(&mut b, random, dim, 0.0);
    let shapes = [(inner, dim), (inner, dim), (dim, inner)];
    let experts: Vec<_> = (0..n_experts)
        .map(|i| {
            let is_other = i == 1 && !is_plain;
            let dtype = if is_other { DType::F32 } else { dtype };
            shapes.map(|shape| {
                let matrix = b.weight(weight(random, dtype, shape));
                let bias = (!is_plain).then(|| vector(&mut b, random, shape.0, 0.0));
                (matrix, bias)
            })
        })
        .collect();
    let output = b.weight(weight(random, DType::F32, (VOCAB, dim)));
    let activation = match is_plain {
        true => Activation::Silu,
        false => CLAMPED_SWIGLU,
    };
    let spec = ExpertsSpec {
        activation,
        n_used: 3,
        normalizes,
    };
    let x = b.embed(embd);
    let scores = b.matmul(x, router);
    let y = b.experts(x, scores, experts.clone(), &spec);
    let by = b.matmul(x, by);
    let beside = b.gate(x, by);
    let x = b.add(beside, y);
    // Again, of the wanted rows.
    let x = b.outputs(x);
    let scores = b.matmul(x, router);
    let y = b.experts(x, scores, experts, &spec);
    let x = b.add(x, y);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

fn vector(b: &mut Builder, random: &mut Random, len: usize, mean: f32) -> WeightId {
    let values: Vec<f32> = (0..len).map(|_| mean + random.unit() / 4.0).collect();
    b.weight(Weight::from_f32("vector", (1, len), &values))
}

/// A weight whose numbers are of the size that weights are: quantized blocks are random bytes, as
/// long as their numbers are not too large.
fn weight(random: &mut Random, dtype: DType, (n_rows, row_len): (usize, usize)) -> Weight {
    // Evenly spread up to this they keep the size of what they multiply.
    let limit = (3.0 / row_len as f32).sqrt();
    let n_blocks = n_rows * row_len / dtype.block_len();
    let mut bytes = Vec::new();
    let mut numbers = vec![0.0; dtype.block_len()];
    for _ in 0..n_blocks {
        let mut block = vec![0; dtype.block_bytes()];
        let x = random.unit() * limit;
        let integer = (random.next() % 3) as i8 - 1;
        match dtype {
            DType::F32 => block.copy_from_slice(&x.to_le_bytes()),
            DType::F64 => block.copy_from_slice(&f64::from(x).to_le_bytes()),
            // The upper half of an f32; for f16, of a power of two between 1/4 and 1/32 and a
            // fraction: sign, exponent 10 to 13 of 15, ten random bits.
            DType::BF16 => block.copy_from_slice(&x.to_le_bytes()[2..]),
            DType::F16 => {
                let bits = random.next() as u16;
                let exponent = 10 + (bits >> 10 & 3);
                let half = bits & 0x8000 | exponent << 10 | bits & 0x03ff;
                block.copy_from_slice(&half.to_le_bytes());
            }
            DType::I8 => block.copy_from_slice(&integer.to_le_bytes()),
            DType::I16 => block.copy_from_slice(&i16::from(integer).to_le_bytes()),
            DType::I32 => block.copy_from_slice(&i32::from(integer).to_le_bytes()),
            DType::I64 => block.copy_from_slice(&i64::from(integer).to_le_bytes()),
            _ => {
                let is_fit = (0..100).any(|_| {
                    block
                        .iter_mut()
                        .for_each(|byte| *byte = random.next() as u8);
                    dtype.dequantize_row(&block, &mut numbers);
                    numbers.iter().all(|x| x.abs() < limit)
                });
                if !is_fit {
                    block.fill(0);
                }
            }
        }
        bytes.extend(block);
    }
    Weight::new("matrix", dtype, (n_rows, row_len), bytes.into())
        .expect("as many bytes as the blocks have")
}

/// A small generator (SplitMix64), the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
