//! What a backend must answer: programs over every data type and operation, judged by the reference
//! backend. The tests of every backend run them; `minerva selftest` runs the cases of devices on a
//! user's machine.

use crate::backend::{
    Backend, BackendError, Batch, DeviceError, Executable, KV_BLOCK_LEN, Limits, Sequence,
};
use crate::dtype::DType;
use crate::kv::{KvType, KvTypes};
use crate::program::{
    Activation, AttentionSpec, Builder, ExpertsSpec, Function, Pairing, Program, Rope, WeightId,
};
use crate::reference::ReferenceBackend;
use crate::weight::{Bytes, Weight};

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

/// Tokens of the programs' vocabularies.
pub const VOCAB: usize = 50;

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
#[derive(Debug)]
pub enum Failure {
    /// The program could not be loaded.
    Load(BackendError),
    /// The device failed.
    Run(DeviceError),
    /// The logits are too far from the reference's.
    Error {
        /// What it is.
        found: f64,
        /// What it may be.
        wanted: f64,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Load(error) => error.fmt(f),
            Failure::Run(error) => error.fmt(f),
            Failure::Error { found, wanted } => {
                write!(f, "error {found:.1e}, expected below {wanted:.0e}")
            }
        }
    }
}

impl std::error::Error for Failure {}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Failure {
        Failure::Load(error)
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Failure {
        Failure::Run(error)
    }
}

impl Case {
    /// Runs it on a backend and on the reference; gives the error of the logits.
    pub fn check(&self, backend: &dyn Backend) -> Result<f64, Failure> {
        let n: usize = self.slices.iter().sum();
        let n_kv_blocks = n.div_ceil(KV_BLOCK_LEN) + 3;
        let limits = Limits {
            max_tokens: n,
            max_outputs: n,
            max_between: 0,
            n_kv_blocks,
            kv_types: self.kv_types,
        };
        // In no order.
        let blocks: Vec<u32> = (0..n_kv_blocks as u32).rev().collect();
        let random = &mut Random(n as u64);
        let mut token = || (random.number() % self.program.vocab_size() as u64) as u32;
        let tokens: Vec<u32> = (0..n).map(|_| token()).collect();
        let mut reference = ReferenceBackend.load(self.program.clone(), limits)?;
        let want = run(&mut *reference, &tokens, &[n], &blocks)?;
        let mut model = backend.load(self.program.clone(), limits)?;
        let got = run(&mut *model, &tokens, &self.slices, &blocks)?;
        let found = error(&got, &want);
        let wanted = tolerance(self.kv_types).max(backend.tolerance());
        match found < wanted {
            true => Ok(found),
            false => Err(Failure::Error { found, wanted }),
        }
    }
}

/// Logits of every token of one sequence, run in slices of these lengths.
pub fn run(
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

/// Everything that depends on a data type, for one token, a few, and more than one tile of them.
pub fn products(dtype: DType) -> Case {
    Case {
        name: dtype.to_string(),
        program: one_type(dtype),
        kv_types: KvTypes::both(KvType::F32),
        slices: vec![1, 2, 7, 41],
    }
}

/// The data types that the matrices of models have: those whose elements share blocks, and numbers of two bytes.
fn of_matrices() -> impl Iterator<Item = DType> {
    let all = DType::ALL.iter().copied();
    all.filter(|dtype| dtype.block_len() > 1 || matches!(dtype, DType::F16 | DType::BF16))
}

/// Every case of a device that computes with activations of f32.
pub fn cases() -> Vec<Case> {
    let f32_cache = KvTypes::both(KvType::F32);
    let mut cases: Vec<Case> = DType::ALL.iter().map(|&dtype| products(dtype)).collect();
    let mut add = |name: String, program: Program, kv_types, slices: &[usize]| {
        cases.push(Case {
            name,
            program,
            kv_types,
            slices: slices.to_vec(),
        });
    };
    for &k in KvType::ALL {
        for &v in KvType::ALL {
            let slices = [5, 1, 2, 29];
            let types = KvTypes { k, v };
            let program = heads(4, 2, 96);
            add(format!("cache {k} {v}"), program, types, &slices);
        }
    }
    // Heads that one Hadamard matrix spreads in whole; more query heads than a tile of the GPU has.
    for (n_heads, n_kv_heads, head_dim) in [(12, 1, 64), (3, 1, 256)] {
        let types = KvTypes {
            k: KvType::Q4_0,
            v: KvType::Q8_0,
        };
        let program = heads(n_heads, n_kv_heads, head_dim);
        let name = format!("heads of {head_dim}, cache {} {}", types.k, types.v);
        add(name, program, types, &[18, 1]);
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
            heads(n_heads, n_kv_heads, head_dim),
            types,
            &[18, 1],
        );
        add(
            name,
            heads(n_heads, n_kv_heads, head_dim),
            f32_cache,
            &[18, 1],
        );
    }
    // One token after many: its attention is split into spans.
    let bytes = KvTypes::both(KvType::Q8_0);
    for kv_types in [f32_cache, KvTypes::default(), bytes] {
        let name = format!("long context {}", kv_types.k);
        add(name, heads(4, 2, 32), kv_types, &[700, 1, 3]);
    }
    // Many rows, and rows of many groups.
    let wide = Shape {
        dim: 64,
        ffn: 6208,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
    };
    let wide_blocks = Shape {
        dim: 256,
        ffn: 6144,
        head_dim: 64,
        ..wide
    };
    for (dtype, shape) in [
        (DType::Q8_0, &wide),
        (DType::Q4_0, &wide),
        (DType::F16, &wide),
        (DType::Q4K, &wide_blocks),
    ] {
        let program = decoder(dtype, shape, Pairing::Halves);
        let name = format!("wide rows of {dtype}");
        add(name, program, f32_cache, &[1, 3, 7, 9, 140]);
    }
    // Products whose answers are what other products read.
    let layer = Shape {
        dim: 256,
        ffn: 512,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 64,
    };
    for dtype in of_matrices() {
        let program = decoder(dtype, &layer, Pairing::Halves);
        add(
            format!("a layer of {dtype}"),
            program,
            f32_cache,
            &[1, 7, 9],
        );
    }
    for dtype in [DType::F32, DType::Q8_0] {
        for (window, n) in [(1, 40), (5, 40), (300, 600), (256, 600)] {
            let name = format!("every operation, {dtype}, window {window}");
            let program = every_operation(dtype, window);
            add(name, program, f32_cache, &[n - 33, 9, 1, 23]);
        }
    }
    for (dtype, inner, normalizes, is_plain) in [
        (DType::F32, 40, true, true),
        (DType::F32, 64, false, false),
        (DType::Q8_0, 96, true, true),
        (DType::MXFP4, 96, true, false),
    ] {
        let name = format!("experts {dtype}");
        let program = experts(dtype, inner, normalizes, is_plain);
        // Few and many rows for each expert, also more than one tile of them.
        add(name, program, f32_cache, &[1, 70, 3, 7]);
    }
    for dtype in of_matrices() {
        let name = format!("experts of {dtype}");
        let inner = 96usize.next_multiple_of(dtype.block_len());
        add(name, experts(dtype, inner, true, true), f32_cache, &[1, 20]);
    }
    add("mixed types".into(), mixed_types(), f32_cache, &[1, 5, 20]);
    for (name, program) in [
        ("Q4_0", one_type(DType::Q4_0)),
        ("Q4_K", one_type(DType::Q4K)),
        ("Q5_K", one_type(DType::Q5K)),
        ("every operation", every_operation(DType::Q8_0, 5)),
        ("experts", experts(DType::Q8_0, 96, true, true)),
        ("other experts", experts(DType::F32, 64, false, false)),
        ("mixed types", mixed_types()),
    ] {
        let name = format!("{name}, in one file");
        add(name, in_one_file(program), f32_cache, &[1, 70, 3, 7]);
    }
    cases
}

/// Bytes that begin at a known place in a page of memory: with it, as a mapped file's do, or behind its
/// begin. (Those of a vector may begin anywhere, with a page too.)
pub struct Paged {
    bytes: Vec<u8>,
    first: usize,
    len: usize,
}

impl Paged {
    /// The largest page of the processors that devices share memory with.
    const PAGE_BYTES: usize = 16384;

    /// A copy of these that begins with a page.
    pub fn new(bytes: &[u8]) -> Paged {
        Paged::shifted(bytes, 0)
    }

    /// A copy of these, so many bytes behind the begin of a page.
    pub fn shifted(bytes: &[u8], shift: usize) -> Paged {
        let used = shift + bytes.len();
        let mut paged = vec![0; used.next_multiple_of(Self::PAGE_BYTES) + Self::PAGE_BYTES];
        let first = paged.as_ptr().align_offset(Self::PAGE_BYTES) + shift;
        paged[first..first + bytes.len()].copy_from_slice(bytes);
        Paged {
            bytes: paged,
            first,
            len: bytes.len(),
        }
    }
}

impl AsRef<[u8]> for Paged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[self.first..][..self.len]
    }
}

/// The program with its weights in the pages of one file. They are in another order than that of their
/// use; those of three matrices for each expert are together by matrix, as in files.
pub fn in_one_file(program: Program) -> Program {
    in_bytes(program, Paged::new)
}

/// The program with its weights in memory that no file's pages are: it does not begin with a page.
pub fn in_memory(program: Program) -> Program {
    in_bytes(program, |bytes| Paged::shifted(bytes, 32))
}

fn in_bytes(mut program: Program, paged: impl Fn(&[u8]) -> Paged) -> Program {
    const ALIGNMENT: usize = 32;
    let mut order: Vec<usize> = (0..program.weights.len()).collect();
    order.sort_by_key(|i| i % 3);
    let mut bytes = vec![0; 5 * ALIGNMENT];
    let mut places = vec![0; order.len()];
    for i in order {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        places[i] = bytes.len();
        bytes.extend_from_slice(program.weights[i].bytes());
    }
    // So that there is something behind the last one.
    bytes.resize(bytes.len() + 1000, 0);
    let file = std::sync::Arc::new(paged(&bytes));
    for (weight, at) in program.weights.iter_mut().zip(places) {
        let range = at..at + weight.bytes().len();
        let bytes = Bytes::new(file.clone(), range).expect("within the file");
        let shape = (weight.n_rows(), weight.row_len());
        let moved = Weight::new(weight.name(), weight.dtype(), shape, bytes);
        *weight = moved.expect("as many bytes as before");
    }
    program
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

/// A layer of a decoder with these heads, in f32.
fn heads(n_heads: usize, n_kv_heads: usize, head_dim: usize) -> Program {
    let shape = Shape {
        dim: 64,
        ffn: 64,
        n_heads,
        n_kv_heads,
        head_dim,
    };
    decoder(DType::F32, &shape, Pairing::Adjacent)
}

/// The sizes of a decoder.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Elements of the stream.
    pub dim: usize,
    /// Elements within feed-forward.
    pub ffn: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// A decoder of one layer, with all matrices but the embeddings of one type.
pub fn decoder(dtype: DType, shape: &Shape, pairing: Pairing) -> Program {
    let random = &mut Random(u64::from(dtype.id()) + 1);
    let mut b = Builder::new();
    let Shape {
        dim,
        ffn,
        n_heads,
        n_kv_heads,
        head_dim,
    } = *shape;
    let mut matrix =
        |b: &mut Builder, rows, row_len| b.weight(weight(random, dtype, (rows, row_len)));
    let embd = {
        let mut random = Random(7);
        let values: Vec<f32> = (0..VOCAB * dim).map(|_| random.unit()).collect();
        b.weight(Weight::from_f32("embd", (VOCAB, dim), &values))
    };
    let wq = matrix(&mut b, n_heads * head_dim, dim);
    let wk = matrix(&mut b, n_kv_heads * head_dim, dim);
    let wv = matrix(&mut b, n_kv_heads * head_dim, dim);
    let wo = matrix(&mut b, dim, n_heads * head_dim);
    let gate = matrix(&mut b, ffn, dim);
    let up = matrix(&mut b, ffn, dim);
    let down = matrix(&mut b, dim, ffn);
    let output = matrix(&mut b, VOCAB, dim);
    let norm: Vec<f32> = (0..dim).map(|i| 1.0 + 0.0625 * (i % 9) as f32).collect();
    let norm = b.weight(Weight::from_f32("norm", (1, dim), &norm));
    let bias = b.weight(Weight::from_f32("bias", (1, dim), &vec![0.125; dim]));
    let inv_freq = (0..head_dim / 2).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing,
        inv_freq,
        magnitude: 1.0,
    });

    let x = b.embed(embd);
    let h = b.rms_norm(x, norm, 1e-5);
    let qkv = b.matmul_parts(h, [(wq, None), (wk, None), (wv, None)]);
    let scale = 1.0 / (head_dim as f32).sqrt();
    let spec = AttentionSpec {
        n_heads,
        n_kv_heads,
        head_dim,
        scale,
        rope: Some(rope),
        soft_cap: None,
        window: None,
        sinks: None,
    };
    let a = b.attention(qkv, &spec);
    let x = b.matmul_add(a, wo, Some(bias), x);
    let h = b.rms_norm(x, norm, 0.25);
    let h = b.gated_matmul(h, (gate, None), (up, None), Activation::Silu);
    let x = b.matmul_add(h, down, None, x);
    let x = b.outputs(x);
    let x = b.rms_norm(x, norm, 1e-5);
    let logits = b.matmul(x, output);
    b.finish(logits)
}

/// Numbers so low that they clamp much.
const CLAMPED_SWIGLU: Activation = Activation::ClampedSwiglu {
    alpha: 1.702,
    limit: 0.7,
};

/// Two layers of all operations but experts, with all their options; of odd sizes, where the type's
/// rows may have them.
pub fn every_operation(dtype: DType, window: usize) -> Program {
    let random = &mut Random(11);
    let mut b = Builder::new();
    let (n_heads, n_kv_heads, head_dim) = (4, 2, 24);
    let (dim, ffn) = match dtype.block_len() {
        1 => (66, 90),
        _ => (64, 96),
    };
    let mut vector = |b: &mut Builder, len, mean| vector(b, random, len, mean);
    let weights = &mut Random(12);
    let mut matrix =
        |b: &mut Builder, rows, row_len| b.weight(weight(weights, dtype, (rows, row_len)));
    let embd = {
        let values: Vec<f32> = (0..VOCAB * dim).map(|i| (i as f32 * 0.7).sin()).collect();
        b.weight(Weight::from_f32("embd", (VOCAB, dim), &values))
    };
    let inv_freq = (0..head_dim / 4).map(|i| 0.5f32.powi(i as i32)).collect();
    let rope = b.rope(Rope {
        pairing: Pairing::Halves,
        inv_freq,
        magnitude: 1.2,
    });
    let x = b.embed(embd);
    let mut x = b.map(x, Function::Scale(3.0));
    for window in [Some(window), None] {
        let (norm, bias) = (vector(&mut b, dim, 1.0), vector(&mut b, dim, 0.0));
        let h = b.layer_norm(x, norm, bias, 1e-5);
        let kv = n_kv_heads * head_dim;
        let projections = [n_heads * head_dim, kv, kv].map(|rows| {
            let weight = matrix(&mut b, rows, dim);
            (weight, Some(vector(&mut b, rows, 0.0)))
        });
        let [q, k, v] = b.matmul_parts(h, projections);
        let (by_head, whole) = (vector(&mut b, head_dim, 1.0), vector(&mut b, kv, 1.0));
        let q = b.rms_norm(q, by_head, 1e-5);
        let k = b.rms_norm(k, whole, 1e-5);
        let spec = AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale: 0.7,
            rope: Some(rope),
            soft_cap: Some(3.0),
            window,
            sinks: window.map(|_| vector(&mut b, n_heads, 1.0)),
        };
        let a = b.attention([q, k, v], &spec);
        let output = matrix(&mut b, dim, n_heads * head_dim);
        let y = b.matmul(a, output);
        let x_beside = b.add(x, y);
        let [up, gate, down] =
            [(ffn, dim), (ffn, dim), (dim, ffn)].map(|(n, m)| matrix(&mut b, n, m));
        let inner = b.matmul(h, up);
        let inner = b.map(inner, Function::Gelu);
        let y = b.matmul_add(inner, down, None, x_beside);
        let (activation, bias) = match window {
            Some(_) => (CLAMPED_SWIGLU, Some(vector(&mut b, ffn, 0.0))),
            None => (Activation::Gelu, None),
        };
        let inner = b.gated_matmul(y, (gate, bias), (up, bias), activation);
        x = b.matmul_add(inner, down, None, y);
    }
    let x = b.outputs(x);
    let output = matrix(&mut b, VOCAB, dim);
    let logits = b.matmul(x, output);
    let logits = b.map(logits, Function::SoftCap(2.0));
    b.finish(logits)
}

/// Matrices of several types where a device may take them together: queries, keys and values, gate
/// and up, and these of experts.
fn mixed_types() -> Program {
    let random = &mut Random(31);
    let mut b = Builder::new();
    let dim = 64;
    let mut matrix = |b: &mut Builder, dtype, shape| {
        let weight = weight(random, dtype, shape);
        b.weight(weight)
    };
    let embd = matrix(&mut b, DType::F32, (VOCAB, dim));
    let x = b.embed(embd);
    let projections = [DType::Q8_0, DType::Q8_0, DType::F16].map(|dtype| {
        let weight = matrix(&mut b, dtype, (dim, dim));
        (weight, None)
    });
    let spec = AttentionSpec {
        n_heads: 4,
        n_kv_heads: 4,
        head_dim: 16,
        scale: 0.25,
        rope: None,
        soft_cap: None,
        window: None,
        sinks: None,
    };
    let qkv = b.matmul_parts(x, projections);
    let y = b.attention(qkv, &spec);
    let x = b.add(x, y);
    let gate = matrix(&mut b, DType::Q8_0, (96, dim));
    let up = matrix(&mut b, DType::F16, (96, dim));
    let down = matrix(&mut b, DType::Q8_0, (dim, 96));
    let y = b.gated_matmul(x, (gate, None), (up, None), Activation::Silu);
    let x = b.matmul_add(y, down, None, x);
    let n_experts = 3;
    let router = matrix(&mut b, DType::F32, (n_experts, dim));
    let scores = b.matmul(x, router);
    let experts = (0..n_experts).map(|_| {
        [
            matrix(&mut b, DType::F16, (96, dim)),
            matrix(&mut b, DType::Q8_0, (96, dim)),
            matrix(&mut b, DType::Q8_0, (dim, 96)),
        ]
        .map(|weight| (weight, None))
    });
    let experts: Vec<_> = experts.collect();
    let spec = ExpertsSpec {
        activation: Activation::Gelu,
        n_used: 2,
        normalizes: true,
    };
    let y = b.experts(x, scores, experts, &spec);
    let x = b.add(x, y);
    let x = b.outputs(x);
    let logits = b.matmul(x, embd);
    b.finish(logits)
}

/// A mixture of experts beside a gated path; the third expert's scores are the second's. The plain
/// one has one type throughout, the other an expert of f32, biases, and the clamped activation.
pub fn experts(dtype: DType, inner: usize, normalizes: bool, is_plain: bool) -> Program {
    let random = &mut Random(21);
    let mut b = Builder::new();
    let (dim, n_experts) = (64usize.next_multiple_of(dtype.block_len()), 5);
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
pub fn weight(random: &mut Random, dtype: DType, (n_rows, row_len): (usize, usize)) -> Weight {
    // Evenly spread up to this they keep the size of what they multiply.
    let limit = (3.0 / row_len as f32).sqrt();
    let n_blocks = n_rows * row_len / dtype.block_len();
    let mut bytes = Vec::new();
    let mut numbers = vec![0.0; dtype.block_len()];
    for _ in 0..n_blocks {
        let mut block = vec![0; dtype.block_bytes()];
        let x = random.unit() * limit;
        let integer = (random.number() % 3) as i8 - 1;
        match dtype {
            DType::F32 => block.copy_from_slice(&x.to_le_bytes()),
            DType::F64 => block.copy_from_slice(&f64::from(x).to_le_bytes()),
            // The upper half of an f32; for f16, of a power of two between 1/4 and 1/32 and a
            // fraction: sign, exponent 10 to 13 of 15, ten random bits.
            DType::BF16 => block.copy_from_slice(&x.to_le_bytes()[2..]),
            DType::F16 => {
                let bits = random.number() as u16;
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
                        .for_each(|byte| *byte = random.number() as u8);
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
pub struct Random(pub u64);

impl Random {
    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from -1 to 1.
    pub fn unit(&mut self) -> f32 {
        (self.number() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
