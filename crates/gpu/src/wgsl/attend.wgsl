// Attention of up to ROWS query rows of one sequence over one key/value head and a span of positions.
//
//   for each 64 positions of the span:
//       WAYS lanes a position, each with a part of the elements: its key times the queries
//       a running maximum and sum of each row (online softmax)
//       a lane four elements: values times weights
//
// Keys and values are read eight at once, which do not wait for each other.
//
// 1. A query row is a token and one of the heads that share the keys: in decode the rows are heads,
//    in prefill also tokens, and keys are read once for all of them.
// 2. A long context is split into spans, whose parts another kernel joins.
// 3. Where keys and values lie multiplied by a Hadamard matrix, which is its own inverse, so are the
//    queries, and what is mixed.
struct Params {
    head_dim: u32,
    n_heads: u32,
    n_kv_heads: u32,
    x_stride: u32,
    out_stride: u32,
    n_pairs: u32, // that are turned
    pairs_halves: u32,
    turns_at: u32,
    tiles_at: u32,
    sequences_at: u32,
    n_splits: u32,
    span: u32, // positions, a multiple of 64
    k_head_words: u32, // of 16 positions
    v_head_words: u32,
    window: u32, // 0: none
    has_sinks: u32,
    scale: f32,
    soft_cap: f32, // 0: none
    is_interleaved: u32, // out, where it is no parts
    k_hadamard: u32, // size of the matrix that keys were multiplied by, a power of two; 1: none
    v_hadamard: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> k_cache: array<u32>;
@group(0) @binding(2) var<storage, read> v_cache: array<u32>;
@group(0) @binding(3) var<storage, read> batch: array<u32>;
@group(0) @binding(4) var<storage, read> sinks: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<Out>;

#include tile_rows
const LANES = 64u * WAYS;
const NEVER = -3.0e38; // below every score
const ROW_LANES = 64u / ROWS; // of a row in the softmax, which each way computes for itself
// The queries, [ROWS][head_dim / 4]; in the end each lane's sums, [ROWS][LANES].
var<workgroup> vectors: array<vec4<f32>, ROWS * LANES>;
var<workgroup> scores: array<f32, WAYS * ROWS * 64u>; // [WAYS][ROWS][64 positions]
var<workgroup> weights: array<f32, ROWS * 64u>; // [ROWS][64 positions]
var<workgroup> lane_max: array<f32, LANES>;
var<workgroup> lane_sum: array<f32, LANES>;
var<workgroup> corrections: array<f32, ROWS>;
var<workgroup> highest: array<f32, ROWS>;
var<workgroup> totals: array<f32, ROWS>;

#include interleave
#include turn
#include load_k
#include load_v
#include write_head

// Each `len` elements of rows of `dim4` vectors, `row_stride` apart, times a Hadamard matrix.
fn hadamard(len: u32, dim4: u32, row_stride: u32, lid: u32) {
    if len == 1u {
        return;
    }
    let factor = 1.0 / sqrt(f32(len));
    for (var i = lid; i < ROWS * dim4; i += LANES) {
        let at = i / dim4 * row_stride + i % dim4;
        let v = vectors[at] * factor;
        let both = vec4<f32>(v.x + v.y, v.x - v.y, v.z + v.w, v.z - v.w);
        vectors[at] = vec4<f32>(both.x + both.z, both.y + both.w, both.x - both.z, both.y - both.w);
    }
    workgroupBarrier();
    for (var half = 1u; 4u * half < len; half *= 2u) {
        for (var i = lid; i < ROWS * dim4 / 2u; i += LANES) {
            let pair = i % (dim4 / 2u);
            let at = i / (dim4 / 2u) * row_stride + pair / half * (2u * half) + pair % half;
            let a = vectors[at];
            let b = vectors[at + half];
            vectors[at] = a + b;
            vectors[at + half] = a - b;
        }
        workgroupBarrier();
    }
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let tile = p.tiles_at + 2u * wid.x;
    let sequence = p.sequences_at + 4u * batch[tile];
    let first = batch[tile + 1u]; // row of the sequence
    let first_token = batch[sequence];
    let start = batch[sequence + 1u];
    let n_tokens = batch[sequence + 2u];
    let table = batch[sequence + 3u];
    let gqa = p.n_heads / p.n_kv_heads;
    let n_rows = min(n_tokens * gqa - first, ROWS);
    let dim4 = (p.head_dim + 3u) / 4u;

    for (var i = lid; i < ROWS * dim4; i += LANES) {
        let row = first + i / dim4;
        var q = vec4<f32>(0.0);
        if i / dim4 < n_rows {
            let token = first_token + row / gqa;
            let at = token * p.x_stride + (wid.y * gqa + row % gqa) * p.head_dim;
            let turns = p.turns_at + token * 2u * p.n_pairs;
            let e = 4u * (i % dim4);
            // All at once; behind the end of a head stands the next one.
#for k 4
            let q$k = turned(at, min(e + $ku, p.head_dim - 1u), turns);
#end
            q = select(
                vec4<f32>(0.0), vec4<f32>(q0, q1, q2, q3),
                vec4<u32>(e, e + 1u, e + 2u, e + 3u) < vec4<u32>(p.head_dim)
            );
        }
        vectors[i] = q * p.scale;
    }
    workgroupBarrier();
    hadamard(p.k_hadamard, dim4, dim4, lid);

    // What the first row sees first and the last row sees last.
    var begin = 0u;
    let first_position = start + first / gqa;
    if p.window != 0u && first_position + 1u > p.window {
        begin = (first_position + 1u - p.window) / 64u * 64u;
    }
    let last_position = start + (first + n_rows - 1u) / gqa;
    begin = max(begin, wid.z * p.span);
    let end = min(last_position + 1u, (wid.z + 1u) * p.span);

    let lane = lid % 64u;
    let way = lid / 64u;
    let soft_row = lane / ROW_LANES;
    let row_lane = way * 64u + soft_row * ROW_LANES;
    let soft_position = start + (first + min(soft_row, n_rows - 1u)) / gqa;
    var running_max = NEVER;
    var running_sum = 0.0;
    let n_position_groups = LANES / dim4;
    let own4 = lid % dim4;
    let own_group = lid / dim4;
#for j ROWS
    var sum$j = vec4<f32>(0.0);
#end

    for (var chunk = begin; chunk < end; chunk += 64u) {
        let position = min(chunk + lane, last_position);
        let k_at = (batch[table + position / 16u] * p.n_kv_heads + wid.y) * p.k_head_words;
#for j ROWS
        var score$j = 0.0;
#end
        for (var i = 8u * way; i < dim4; i += 8u * WAYS) {
#for u 8
            let k$u = load_k(k_at, position % 16u, min(i + $uu, dim4 - 1u));
#end
#for u 8
            if i + $uu < dim4 {
#for j ROWS
                score$j += dot(vectors[$ju * dim4 + i + $uu], k$u);
#end
            }
#end
        }
#for j ROWS
        scores[(way * ROWS + $ju) * 64u + lane] = score$j;
#end
        workgroupBarrier();

        var chunk_max = NEVER;
#for u ROWS
        let i$u = lane % ROW_LANES + $uu * ROW_LANES;
        var s$u = scores[soft_row * 64u + i$u];
        for (var w = 1u; w < WAYS; w += 1u) {
            s$u += scores[(w * ROWS + soft_row) * 64u + i$u];
        }
        if p.soft_cap != 0.0 {
            s$u = p.soft_cap * tanh(clamp(s$u / p.soft_cap, -15.0, 15.0));
        }
        let at$u = chunk + i$u;
        let is_seen$u = at$u < end && at$u <= soft_position && (p.window == 0u || at$u + p.window > soft_position);
        chunk_max = max(chunk_max, select(NEVER, s$u, is_seen$u));
#end
        lane_max[lid] = chunk_max;
        workgroupBarrier();
#for i ROW_LANES
        chunk_max = max(chunk_max, lane_max[row_lane + $iu]);
#end
        let next_max = max(running_max, chunk_max);
        let correction = exp(max(running_max - next_max, -100.0));
        running_max = next_max;
        var chunk_sum = 0.0;
#for u ROWS
        let weight$u = select(0.0, exp(max(s$u - next_max, -100.0)), is_seen$u);
        chunk_sum += weight$u;
        if way == 0u {
            weights[soft_row * 64u + i$u] = weight$u;
        }
#end
        lane_sum[lid] = chunk_sum;
        if lane % ROW_LANES == 0u && way == 0u {
            corrections[soft_row] = correction;
        }
        workgroupBarrier();
        running_sum *= correction;
#for i ROW_LANES
        running_sum += lane_sum[row_lane + $iu];
#end
#for j ROWS
        sum$j *= corrections[$j];
#end
        if own_group < n_position_groups {
            let n = min(end - chunk, 64u);
            for (var i = own_group; i < n; i += 8u * n_position_groups) {
#for u 8
                let m$u = min(i + $uu * n_position_groups, n - 1u);
                let position$u = chunk + m$u;
                let v_at$u = (batch[table + position$u / 16u] * p.n_kv_heads + wid.y) * p.v_head_words;
                let v$u = load_v(v_at$u, position$u % 16u, own4);
#end
#for u 8
                if i + $uu * n_position_groups < n {
#for j ROWS
                    sum$j += weights[$ju * 64u + m$u] * v$u;
#end
                }
#end
            }
        }
        workgroupBarrier();
    }

    if lane % ROW_LANES == 0u && way == 0u {
        highest[soft_row] = running_max;
        totals[soft_row] = running_sum;
    }
#for j ROWS
    vectors[$ju * LANES + lid] = sum$j;
#end
    workgroupBarrier();
    // As many rows at once as there are groups of lanes. A lane's place is its own.
    for (var row = own_group; row < n_rows && own_group < n_position_groups; row += n_position_groups) {
        var sum = vectors[row * LANES + own4];
        for (var i = 1u; i < n_position_groups; i += 1u) {
            sum += vectors[row * LANES + own4 + i * dim4];
        }
        vectors[row * LANES + own4] = sum;
    }
    workgroupBarrier();
    hadamard(p.v_hadamard, dim4, LANES, lid);
    for (var first_row = 0u; first_row < n_rows; first_row += n_position_groups) {
        let own_row = min(first_row + own_group, n_rows - 1u);
        let is_mine = own_group < n_position_groups && first_row + own_group < n_rows;
        var sum = vectors[own_row * LANES + own4];
        let row = first + own_row;
        let token = first_token + row / gqa;
        let head = wid.y * gqa + row % gqa;
        if p.n_splits == 1u {
            var total = totals[own_row];
            if p.has_sinks != 0u {
                let top = max(highest[own_row], sinks[head]);
                let factor = exp(highest[own_row] - top);
                total = total * factor + exp(sinks[head] - top);
                sum *= factor;
            }
            write_head(token, head, own4, sum / total, is_mine, lid);
        } else if is_mine {
            // Two words are free.
            let at = ((token * p.n_heads + head) * p.n_splits + wid.z) * (4u * dim4 + 4u);
            out[at] = bitcast<Out>(highest[own_row]);
            out[at + 1u] = bitcast<Out>(totals[own_row]);
#for k 4
            out[at + 4u + 4u * own4 + $ku] = bitcast<Out>(sum[$k]);
#end
        }
    }
}
