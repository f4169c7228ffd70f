// A matrix times many tokens: out[t] = w * x[t] (+ bias) (+ residual[t]).
//
//   for each group of 32 elements of the rows:
//       64 rows of w and 32 tokens of x into workgroup memory, w as f32
//       each lane: 8 rows times 4 tokens
//
// 1. A group is unpacked once for 32 tokens, by one lane each.
// 2. The sums stay in registers, in eight vectors over the tokens.
struct Params {
    n_rows: u32,
    row_len: u32,
    row_bytes: u32,
    first_row: u32,
    n_tokens: u32,
    x_stride: u32, // in vec4
    out_stride: u32,
    has_bias: u32,
    has_residual: u32,
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read> grid: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

var<workgroup> w_tile: array<vec4<f32>, 512>; // [8][64 rows]
var<workgroup> x_tile: array<vec4<f32>, 256>; // [8][32 tokens]

#include weight
#include unpack

fn store(row: u32, token: u32, sum: f32) {
    if row < p.n_rows && token < p.n_tokens {
        let at = token * p.out_stride + p.first_row + row;
        var y = sum;
        if p.has_bias != 0u {
            y += bias[p.first_row + row];
        }
        if p.has_residual != 0u {
            y += residual[at];
        }
        out[at] = y;
    }
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let first_row = wid.x * 64u;
    let first_token = wid.y * 32u;
    let row_at = min(first_row + lid, p.n_rows - 1u) * p.row_bytes;
    let tx = lid % 8u;
    let ty = lid / 8u;
    let n_groups = (p.row_len + 31u) / 32u;
#for r 8
    var sum$r = vec4<f32>(0.0);
#end
    for (var g = 0u; g < n_groups; g += 1u) {
        let e = unpack(row_at, g);
#for k 8
        w_tile[$k * 64 + lid] = e.v$k;
#end
#for i 4
        {
            let token = $iu * 8u + ty;
            let at = 8u * g + tx;
            var v = vec4<f32>(0.0);
            if first_token + token < p.n_tokens && (!IS_PLAIN || 4u * at < p.row_len) {
                v = x[(first_token + token) * p.x_stride + at];
            }
            x_tile[tx * 32u + token] = v;
        }
#end
        workgroupBarrier();
        for (var k = 0u; k < 8u; k += 1u) {
#for i 4
            let x$i = x_tile[k * 32u + ty + $iu * 8u];
#end
#for r 8
            {
                let a = w_tile[k * 64u + tx + $ru * 8u];
                sum$r += vec4<f32>(dot(a, x0), dot(a, x1), dot(a, x2), dot(a, x3));
            }
#end
        }
        workgroupBarrier();
    }
#for r 8
    store(first_row + tx + $ru * 8u, first_token + ty, sum$r.x);
    store(first_row + tx + $ru * 8u, first_token + ty + 8u, sum$r.y);
    store(first_row + tx + $ru * 8u, first_token + ty + 16u, sum$r.z);
    store(first_row + tx + $ru * 8u, first_token + ty + 24u, sum$r.w);
#end
}
