//! A model's forward pass as data: a list of operations over named buffers and weights.
//!
//! An architecture writes its forward pass once, when a model is loaded, as calls on a
//! [`Builder`]; what comes out is a [`Program`] that any [`Backend`](crate::Backend) can run, for
//! any batch. Shapes are checked here, while the program is built, so that running it cannot meet
//! a shape that does not fit. A buffer has a fixed width and one row per token of the batch (or
//! per token whose logits are wanted); batch, KV cache and devices do not appear.

use std::ops::Range;

use crate::weight::Weight;

/// A buffer of a program, `[n_rows, width]` of f32, written by exactly one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufId(pub(crate) u32);

/// A weight of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub(crate) u32);

impl BufId {
    /// Where it stands among the program's buffers.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl WeightId {
    /// Where it stands among the program's weights.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A matrix of a program, and what is added to each row of its product.
pub type Biased = (WeightId, Option<WeightId>);

/// A rotary embedding of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RopeId(pub(crate) u32);

impl RopeId {
    /// Where it stands among the program's rotary embeddings.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// What the rows of a buffer stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One row for each token of the batch.
    Tokens,
    /// One row for each token whose logits are wanted.
    Outputs,
}

/// The shape of a buffer.
#[derive(Clone, Copy, Debug)]
pub struct BufShape {
    /// What the rows stand for.
    pub rows: Rows,
    /// Elements in a row.
    pub width: usize,
}

/// Which two elements of a head a rotation mixes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// Elements 2i and 2i+1, as in the original LLaMA.
    Adjacent,
    /// Elements i and i + n/2, as in GPT-NeoX.
    Halves,
}

/// Rotary position embedding (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): pair i of the
/// token at position p is turned by the angle `p * inv_freq[i]`, and scaled by `magnitude`.
#[derive(Clone, Debug)]
pub struct Rope {
    /// Which elements form a pair.
    pub pairing: Pairing,
    /// The angle per position of each pair, in radians; twice its length of each head is turned,
    /// the rest passes through.
    pub inv_freq: Vec<f32>,
    /// Factor on the turned elements (1 but for YaRN and longrope).
    pub magnitude: f32,
}

/// How the two halves of a gated feed-forward block become one: of gate g and up u,
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Activation {
    /// g / (1 + exp(-g)) * u.
    Silu,
    /// gelu(g) * u, as [`Function::Gelu`].
    Gelu,
    /// g' / (1 + exp(-alpha g')) * (u' + 1), where g' is g, but at most the limit, and u' is u,
    /// but at most the limit in size (<https://arxiv.org/abs/2508.10925>).
    ClampedSwiglu {
        /// Factor within the sigmoid.
        alpha: f32,
        /// Above 0.
        limit: f32,
    },
}

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Function {
    /// The factor times x.
    Scale(f32),
    /// x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))
    /// (<https://arxiv.org/abs/1606.08415>).
    Gelu,
    /// c * tanh(x / c).
    SoftCap(f32),
}

/// One weight of a [`Op::MatMul`] with what happens to its product.
#[derive(Clone, Debug)]
pub struct MatMulPart {
    /// The matrix, `[width of out, width of x]`.
    pub weight: WeightId,
    /// Added to each row, `[1, width of out]`.
    pub bias: Option<WeightId>,
    /// Added to the result, same shape as `out`.
    pub residual: Option<BufId>,
    /// Where the result goes.
    pub out: BufId,
}

/// Causal self-attention of one layer.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Index of the layer among those with a cache.
    pub layer: usize,
    /// Queries, `[n_tokens, n_heads * head_dim]`.
    pub q: BufId,
    /// Keys, `[n_tokens, n_kv_heads * head_dim]`.
    pub k: BufId,
    /// Values, `[n_tokens, n_kv_heads * head_dim]`.
    pub v: BufId,
    /// The result, `[n_tokens, n_heads * head_dim]`.
    pub out: BufId,
    /// Number of query heads; a multiple of `n_kv_heads`.
    pub n_heads: usize,
    /// Number of key and value heads; each serves `n_heads / n_kv_heads` query heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Factor on the product of a query and a key, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// How queries and keys are turned by their positions.
    pub rope: Option<RopeId>,
    /// See [`AttentionSpec::soft_cap`].
    pub soft_cap: Option<f32>,
    /// See [`AttentionSpec::window`].
    pub window: Option<usize>,
    /// See [`AttentionSpec::sinks`].
    pub sinks: Option<WeightId>,
}

impl Attention {
    /// The positions that a token at this one sees.
    pub fn seen(&self, position: usize) -> Range<usize> {
        let end = position + 1;
        self.window.map_or(0, |n| end.saturating_sub(n))..end
    }
}

/// A mixture of experts (<https://arxiv.org/abs/1701.06538>): each token goes through some of many
/// gated feed-forward blocks.
#[derive(Clone, Debug)]
pub struct Experts {
    /// Input.
    pub x: BufId,
    /// How well each expert suits each token, `[n_tokens, n_experts]`.
    pub scores: BufId,
    /// Of each expert: gate and up, `[inner, width]`, and down, `[width, inner]`.
    pub experts: Vec<[Biased; 3]>,
    /// How gate and up become one.
    pub activation: Activation,
    /// How many experts a token goes through.
    pub n_used: usize,
    /// Whether the shares of a token's experts are made to sum to 1.
    pub normalizes: bool,
    /// Output, same shape as `x`.
    pub out: BufId,
}

/// One operation. `x[t]` is row t of buffer x; every operation treats each row by itself, but for
/// attention, which also sees earlier positions of the same sequence.
#[derive(Clone, Debug)]
pub enum Op {
    /// `out[t] = input[t]`, the batch's rows: what the part before has answered of a program that
    /// was [cut](Program::cut). The first operation, if it is there.
    Input {
        /// Where the rows go.
        out: BufId,
    },
    /// `out[t] = table[token t]`.
    Embed {
        /// One row per token of the vocabulary.
        table: WeightId,
        /// Where the rows go.
        out: BufId,
    },
    /// Root-mean-square norm (<https://arxiv.org/abs/1910.07467>):
    /// `out[t] = x[t] / sqrt(mean(x[t]^2) + eps) * weight`; where the weight is shorter than the
    /// row, for each of the row's pieces of its length by itself.
    RmsNorm {
        /// Input.
        x: BufId,
        /// Factor of each element, `[1, width]`, or the length of a piece.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// Output, same shape.
        out: BufId,
    },
    /// Layer norm (<https://arxiv.org/abs/1607.06450>), with m the mean of `x[t]`:
    /// `out[t] = (x[t] - m) / sqrt(mean((x[t] - m)^2) + eps) * weight + bias`.
    LayerNorm {
        /// Input.
        x: BufId,
        /// Factor of each element, `[1, width]`.
        weight: WeightId,
        /// Added to each element, `[1, width]`.
        bias: WeightId,
        /// Added to the variance.
        eps: f32,
        /// Output, same shape.
        out: BufId,
    },
    /// `out[t] = function(x[t])`, element by element.
    Map {
        /// Input.
        x: BufId,
        /// What is done to each element.
        function: Function,
        /// Output, same shape.
        out: BufId,
    },
    /// `out[t] = a[t] + b[t]`.
    Add {
        /// One input.
        a: BufId,
        /// The other, same shape.
        b: BufId,
        /// Output, same shape.
        out: BufId,
    },
    /// For each part: `out[t] = weight * x[t] (+ bias) (+ residual[t])`.
    MatMul {
        /// Input of every part.
        x: BufId,
        /// The matrices that share the input.
        parts: Vec<MatMulPart>,
    },
    /// `out[t] = activation(gate * x[t] (+ bias), up * x[t] (+ bias))`, element by element.
    GatedMatMul {
        /// Input.
        x: BufId,
        /// The matrix of the activation's gate.
        gate: Biased,
        /// The other matrix, same shape.
        up: Biased,
        /// How the two products become one.
        activation: Activation,
        /// Output, `[n_tokens, rows of gate]`.
        out: BufId,
    },
    /// With `p = softmax(scores[t])` and E its `n_used` largest elements, the first of equals:
    /// `out[t] = sum over e in E of p[e] * down_e * activation(gate_e * x[t], up_e * x[t])`, each
    /// product with its bias, where `p` is divided by its sum over E if it `normalizes`.
    Experts(Experts),
    /// `out[t] = sigmoid(by[t]) * x[t]`.
    Gate {
        /// Input.
        x: BufId,
        /// One number for each row, `[n_tokens, 1]`.
        by: BufId,
        /// Output, same shape as `x`.
        out: BufId,
    },
    /// Turns q and k by their positions, puts k and v into the layer's cache, and for each token
    /// and head: `out = sum over p of softmax(cap(scale * q . k[p])) * v[p]`, over the positions p
    /// of the same sequence up to the token's own, the last `window` of them where there is one.
    /// A sink is one more score of its head in the softmax, and has no value
    /// (<https://arxiv.org/abs/2309.17453>). What the cache's types do to keys and values
    /// ([`KvType::hadamard_len`](crate::KvType::hadamard_len)) is undone in q and out. q, k and v are three
    /// buffers that no later operation reads (the builder checks): a backend may change them in their place.
    Attention(Attention),
    /// `out[i] = x[row of the i-th wanted output]`.
    Gather {
        /// Rows::Tokens.
        x: BufId,
        /// Rows::Outputs, same width.
        out: BufId,
    },
}

/// What one layer keeps in the KV cache for each position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    /// Number of key and value heads.
    pub n_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
}

/// A forward pass, or a part of one: made by a [`Builder`], run by a [`Backend`](crate::Backend).
#[derive(Clone, Debug)]
pub struct Program {
    pub(crate) weights: Vec<Weight>,
    pub(crate) buffers: Vec<BufShape>,
    pub(crate) ropes: Vec<Rope>,
    pub(crate) kv: Vec<KvShape>,
    pub(crate) ops: Vec<Op>,
    pub(crate) result: BufId,
    pub(crate) vocab_size: usize,
    /// The operation that each layer begins with.
    pub(crate) layers: Vec<usize>,
}

impl Program {
    /// The operations in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The weights that the operations name.
    pub fn weights(&self) -> &[Weight] {
        &self.weights
    }

    /// What each layer with a cache keeps.
    pub fn kv(&self) -> &[KvShape] {
        &self.kv
    }

    /// Number of tokens in the vocabulary: the width of the logits, in every part of a program.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// How many layers it has, of those that were [marked](Builder::begin_layer).
    pub fn n_layers(&self) -> usize {
        self.layers.len()
    }

    /// Cuts it before a layer. The first part answers rows for all tokens, which are the second
    /// part's [`Batch::input`](crate::Batch::input); each has the cache of its own layers.
    ///
    /// # Panics
    /// If there is no such layer, or if more than the rows of one buffer crosses the cut.
    pub fn cut(&self, layer: usize) -> (Program, Program) {
        let at = self.layers[layer];
        let (before, after) = self.ops.split_at(at);
        let is_written: Vec<BufId> = before.iter().flat_map(Op::writes).collect();
        let mut crossing: Vec<BufId> = after.iter().flat_map(Op::reads).collect();
        crossing.retain(|id| is_written.contains(id));
        crossing.sort();
        crossing.dedup();
        let &[stream] = &crossing[..] else {
            panic!("{} buffers cross from layer to layer", crossing.len());
        };
        assert_eq!(self.shape(stream).rows, Rows::Tokens, "rows of a layer");
        let is_attention = |op: &&Op| matches!(op, Op::Attention(_));
        let n_kv = before.iter().filter(is_attention).count();
        let (kv_before, kv_after) = self.kv.split_at(n_kv);
        let mut rest = vec![Op::Input { out: stream }];
        rest.extend(after.iter().cloned().map(|mut op| {
            if let Op::Attention(attention) = &mut op {
                attention.layer -= n_kv;
            }
            op
        }));
        let first = Program {
            kv: kv_before.into(),
            ops: before.into(),
            result: stream,
            layers: self.layers[..layer].into(),
            ..self.clone()
        };
        let second = Program {
            kv: kv_after.into(),
            ops: rest,
            layers: self.layers[layer..].iter().map(|l| l - at + 1).collect(),
            ..self.clone()
        };
        (first, second)
    }

    /// The rotary embeddings that the operations name.
    pub fn ropes(&self) -> &[Rope] {
        &self.ropes
    }

    /// The buffers that the operations name.
    pub fn buffers(&self) -> &[BufShape] {
        &self.buffers
    }

    /// The buffer that running it answers: logits, or what the next part begins with.
    pub fn result(&self) -> BufId {
        self.result
    }

    /// The buffer that the batch's input goes to, if it is not the first part.
    pub fn input(&self) -> Option<BufId> {
        match self.ops.first() {
            Some(Op::Input { out }) => Some(*out),
            _ => None,
        }
    }

    /// A weight.
    pub fn weight(&self, id: WeightId) -> &Weight {
        &self.weights[id.0 as usize]
    }

    /// The shape of a buffer.
    pub fn shape(&self, id: BufId) -> BufShape {
        self.buffers[id.0 as usize]
    }
}

impl Op {
    /// The buffers that it reads.
    pub fn reads(&self) -> Vec<BufId> {
        match self {
            Op::Input { .. } | Op::Embed { .. } => Vec::new(),
            Op::RmsNorm { x, .. }
            | Op::LayerNorm { x, .. }
            | Op::Map { x, .. }
            | Op::GatedMatMul { x, .. }
            | Op::Gather { x, .. } => vec![*x],
            Op::Add { a, b, .. } => vec![*a, *b],
            Op::MatMul { x, parts } => {
                let residuals = parts.iter().filter_map(|part| part.residual);
                std::iter::once(*x).chain(residuals).collect()
            }
            Op::Experts(e) => vec![e.x, e.scores],
            Op::Gate { x, by, .. } => vec![*x, *by],
            Op::Attention(a) => vec![a.q, a.k, a.v],
        }
    }

    /// The buffers that it writes.
    pub fn writes(&self) -> Vec<BufId> {
        match self {
            Op::Input { out }
            | Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::Map { out, .. }
            | Op::Add { out, .. }
            | Op::GatedMatMul { out, .. }
            | Op::Gate { out, .. }
            | Op::Gather { out, .. } => vec![*out],
            Op::Experts(e) => vec![e.out],
            Op::MatMul { parts, .. } => parts.iter().map(|part| part.out).collect(),
            Op::Attention(a) => vec![a.out],
        }
    }
}

/// Writes a [`Program`], one operation a call.
///
/// # Panics
/// Every method panics when shapes do not fit: the caller checks what comes from a file.
#[derive(Debug, Default)]
pub struct Builder {
    weights: Vec<Weight>,
    buffers: Vec<BufShape>,
    ropes: Vec<Rope>,
    kv: Vec<KvShape>,
    ops: Vec<Op>,
    layers: Vec<usize>,
}

impl Builder {
    /// An empty program.
    pub fn new() -> Builder {
        Builder::default()
    }

    /// Adds a weight; the same weight may be used by several operations.
    pub fn weight(&mut self, weight: Weight) -> WeightId {
        self.weights.push(weight);
        WeightId(self.weights.len() as u32 - 1)
    }

    /// Adds a rotary embedding.
    pub fn rope(&mut self, rope: Rope) -> RopeId {
        self.ropes.push(rope);
        RopeId(self.ropes.len() as u32 - 1)
    }

    fn buffer(&mut self, rows: Rows, width: usize) -> BufId {
        self.buffers.push(BufShape { rows, width });
        BufId(self.buffers.len() as u32 - 1)
    }

    fn shape(&self, id: BufId) -> BufShape {
        self.buffers[id.0 as usize]
    }

    fn matrix(&self, id: WeightId) -> (usize, usize) {
        let w = &self.weights[id.0 as usize];
        (w.n_rows(), w.row_len())
    }

    /// Says that the next operation is a layer's first: the program can be [cut](Program::cut) before it.
    /// Of what was written before, the layer and those behind it read one buffer.
    pub fn begin_layer(&mut self) {
        self.layers.push(self.ops.len());
    }

    /// [`Op::Embed`].
    pub fn embed(&mut self, table: WeightId) -> BufId {
        let out = self.buffer(Rows::Tokens, self.matrix(table).1);
        self.ops.push(Op::Embed { table, out });
        out
    }

    /// [`Op::RmsNorm`].
    pub fn rms_norm(&mut self, x: BufId, weight: WeightId, eps: f32) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        let (one, piece) = self.matrix(weight);
        assert!(one == 1 && piece > 0 && width % piece == 0, "norm weight");
        let out = self.buffer(rows, width);
        self.ops.push(Op::RmsNorm {
            x,
            weight,
            eps,
            out,
        });
        out
    }

    /// [`Op::LayerNorm`].
    pub fn layer_norm(&mut self, x: BufId, weight: WeightId, bias: WeightId, eps: f32) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        assert_eq!(self.matrix(weight), (1, width), "norm weight");
        assert_eq!(self.matrix(bias), (1, width), "norm bias");
        let out = self.buffer(rows, width);
        self.ops.push(Op::LayerNorm {
            x,
            weight,
            bias,
            eps,
            out,
        });
        out
    }

    /// [`Op::Map`].
    pub fn map(&mut self, x: BufId, function: Function) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        let out = self.buffer(rows, width);
        self.ops.push(Op::Map { x, function, out });
        out
    }

    /// [`Op::Add`].
    pub fn add(&mut self, a: BufId, b: BufId) -> BufId {
        let BufShape { rows, width } = self.shape(a);
        assert_eq!(self.shape(b).width, width, "widths of a sum");
        assert_eq!(self.shape(b).rows, rows, "rows of a sum");
        let out = self.buffer(rows, width);
        self.ops.push(Op::Add { a, b, out });
        out
    }

    /// [`Op::MatMul`] with several matrices over one input; biases stand beside their matrices.
    pub fn matmul_parts<const N: usize>(&mut self, x: BufId, weights: [Biased; N]) -> [BufId; N] {
        let parts = weights.map(|(weight, bias)| self.part(x, weight, bias, None));
        let outs = std::array::from_fn(|i| parts[i].out);
        self.ops.push(Op::MatMul {
            x,
            parts: parts.into(),
        });
        outs
    }

    /// [`Op::MatMul`] with one matrix: `weight * x`.
    pub fn matmul(&mut self, x: BufId, weight: WeightId) -> BufId {
        self.matmul_parts(x, [(weight, None)])[0]
    }

    /// [`Op::MatMul`] with one matrix and what is added to its product:
    /// `residual + weight * x (+ bias)`.
    pub fn matmul_add(
        &mut self,
        x: BufId,
        weight: WeightId,
        bias: Option<WeightId>,
        residual: BufId,
    ) -> BufId {
        let part = self.part(x, weight, bias, Some(residual));
        let out = part.out;
        self.ops.push(Op::MatMul {
            x,
            parts: vec![part],
        });
        out
    }

    fn part(
        &mut self,
        x: BufId,
        weight: WeightId,
        bias: Option<WeightId>,
        residual: Option<BufId>,
    ) -> MatMulPart {
        let BufShape { rows, width } = self.shape(x);
        let (n_rows, row_len) = self.matrix(weight);
        assert_eq!(row_len, width, "matrix input");
        if let Some(bias) = bias {
            assert_eq!(self.matrix(bias), (1, n_rows), "bias");
        }
        if let Some(residual) = residual {
            assert_eq!(self.shape(residual).width, n_rows, "residual");
            assert_eq!(self.shape(residual).rows, rows, "residual rows");
        }
        MatMulPart {
            weight,
            bias,
            residual,
            out: self.buffer(rows, n_rows),
        }
    }

    /// [`Op::GatedMatMul`].
    pub fn gated_matmul(
        &mut self,
        x: BufId,
        gate: Biased,
        up: Biased,
        activation: Activation,
    ) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        let inner = self.matrix(gate.0).0;
        self.check_biased(gate, (inner, width));
        self.check_biased(up, (inner, width));
        let out = self.buffer(rows, inner);
        self.ops.push(Op::GatedMatMul {
            x,
            gate,
            up,
            activation,
            out,
        });
        out
    }

    fn check_biased(&self, (weight, bias): Biased, shape: (usize, usize)) {
        assert_eq!(self.matrix(weight), shape, "matrix");
        if let Some(bias) = bias {
            assert_eq!(self.matrix(bias), (1, shape.0), "bias");
        }
    }

    /// [`Op::Experts`]; `experts` are `[gate, up, down]` of each.
    pub fn experts(
        &mut self,
        x: BufId,
        scores: BufId,
        experts: Vec<[Biased; 3]>,
        spec: &ExpertsSpec,
    ) -> BufId {
        let ExpertsSpec {
            activation,
            n_used,
            normalizes,
        } = *spec;
        let BufShape { rows, width } = self.shape(x);
        let n_experts = self.shape(scores).width;
        assert_eq!(self.shape(scores).rows, rows, "rows of scores");
        assert!((1..=n_experts).contains(&n_used), "number of experts");
        assert_eq!(experts.len(), n_experts, "experts");
        let inner = self.matrix(experts[0][0].0).0;
        for &[gate, up, down] in &experts {
            self.check_biased(gate, (inner, width));
            self.check_biased(up, (inner, width));
            self.check_biased(down, (width, inner));
        }
        let out = self.buffer(rows, width);
        self.ops.push(Op::Experts(Experts {
            x,
            scores,
            experts,
            activation,
            n_used,
            normalizes,
            out,
        }));
        out
    }

    /// [`Op::Gate`].
    pub fn gate(&mut self, x: BufId, by: BufId) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        assert_eq!(self.shape(by).rows, rows, "rows of a gate");
        assert_eq!(self.shape(by).width, 1, "one number for each row");
        let out = self.buffer(rows, width);
        self.ops.push(Op::Gate { x, by, out });
        out
    }

    /// [`Op::Attention`] over `[q, k, v]`, in a new layer of the cache.
    pub fn attention(&mut self, [q, k, v]: [BufId; 3], spec: &AttentionSpec) -> BufId {
        let AttentionSpec {
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            rope,
            soft_cap,
            window,
            sinks,
        } = *spec;
        if let Some(sinks) = sinks {
            assert_eq!(self.matrix(sinks), (1, n_heads), "sinks");
        }
        assert!(window != Some(0), "a window of no positions");
        assert!(
            n_kv_heads > 0 && n_heads % n_kv_heads == 0,
            "heads per key/value head"
        );
        assert!(q != k && k != v && v != q, "each is changed in its place");
        assert_eq!(self.shape(q).width, n_heads * head_dim, "queries");
        assert_eq!(self.shape(k).width, n_kv_heads * head_dim, "keys");
        assert_eq!(self.shape(v).width, n_kv_heads * head_dim, "values");
        if let Some(rope) = rope {
            assert!(
                self.ropes[rope.0 as usize].inv_freq.len() * 2 <= head_dim,
                "rotary dimensions"
            );
        }
        let layer = self.kv.len();
        self.kv.push(KvShape {
            n_kv_heads,
            head_dim,
        });
        let out = self.buffer(Rows::Tokens, n_heads * head_dim);
        self.ops.push(Op::Attention(Attention {
            layer,
            q,
            k,
            v,
            out,
            n_heads,
            n_kv_heads,
            head_dim,
            scale,
            rope,
            soft_cap,
            window,
            sinks,
        }));
        out
    }

    /// [`Op::Gather`]: the rows whose logits are wanted.
    pub fn outputs(&mut self, x: BufId) -> BufId {
        let BufShape { rows, width } = self.shape(x);
        assert_eq!(rows, Rows::Tokens);
        let out = self.buffer(Rows::Outputs, width);
        self.ops.push(Op::Gather { x, out });
        out
    }

    /// The finished program; `logits` is what running it answers, `[n_outputs, vocab_size]`.
    pub fn finish(self, logits: BufId) -> Program {
        let Builder {
            weights,
            buffers,
            ropes,
            kv,
            ops,
            layers,
        } = self;
        let BufShape { rows, width } = buffers[logits.0 as usize];
        assert_eq!(rows, Rows::Outputs);
        for (i, op) in ops.iter().enumerate() {
            let Op::Attention(spec) = op else { continue };
            let changed = [spec.q, spec.k, spec.v];
            let mut later = ops[i + 1..].iter().flat_map(Op::reads);
            assert!(
                !later.any(|id| changed.contains(&id)),
                "nothing reads what attention has changed"
            );
        }
        Program {
            weights,
            buffers,
            ropes,
            kv,
            ops,
            result: logits,
            vocab_size: width,
            layers,
        }
    }
}

/// The numbers of an [`Experts`] operation.
#[derive(Clone, Copy, Debug)]
pub struct ExpertsSpec {
    /// See [`Experts::activation`].
    pub activation: Activation,
    /// See [`Experts::n_used`].
    pub n_used: usize,
    /// See [`Experts::normalizes`].
    pub normalizes: bool,
}

/// The numbers of an [`Attention`] operation.
#[derive(Clone, Copy, Debug)]
pub struct AttentionSpec {
    /// See [`Attention::n_heads`].
    pub n_heads: usize,
    /// See [`Attention::n_kv_heads`].
    pub n_kv_heads: usize,
    /// See [`Attention::head_dim`].
    pub head_dim: usize,
    /// See [`Attention::scale`].
    pub scale: f32,
    /// See [`Attention::rope`].
    pub rope: Option<RopeId>,
    /// Scores go through [`Function::SoftCap`] before the softmax.
    pub soft_cap: Option<f32>,
    /// Positions that a token sees, its own included; `None` for all up to its own.
    pub window: Option<usize>,
    /// A score of each head, `[1, n_heads]`, that is in the softmax but has no value.
    pub sinks: Option<WeightId>,
}
