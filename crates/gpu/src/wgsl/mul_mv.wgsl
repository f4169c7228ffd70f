// A matrix times few tokens: out[t] = w * x[t] (+ bias) (+ residual[t]).
//
//   for each group of 32 elements of the row, GROUP lanes taking turns:
//       unpack it once for NT tokens, multiply, add up
//   sum over the lanes
//
// 1. GROUP lanes share NR rows, so that what is read of x serves NR rows.
// 2. Bytes are read as they lie in the file; a lane reads whole words of neighbouring blocks.
//
// With experts, a token is a pair of a row and one of its experts, whose matrices lie one behind
// the other.
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
    first_expert: u32,
    n_experts: u32,
    x_div: u32, // tokens for each row of x
    out_len: u32, // rows of the whole matrix
}

var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read> residual: array<f32>;
@group(0) @binding(4) var<storage, read> grid: array<u32>;
@group(0) @binding(5) var<storage, read> experts: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

#include weight
#include unpack
#include group_sum

fn x4(base: u32, i: u32) -> vec4<f32> {
    if IS_PLAIN && 4u * i >= p.row_len {
        return vec4<f32>(0.0);
    }
    return x[base + i];
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let lane = lid % GROUP;
    let tile = wid.x + wid.z * 32768u;
    let row = (tile * (64u / GROUP) + lid / GROUP) * NR;
    let token = wid.y * NT;
    var first_byte = 0u;
    var bias_at = p.first_row;
    var is_mine = true;
    if HAS_EXPERTS {
        let expert = experts[token];
        is_mine = expert >= p.first_expert && expert < p.first_expert + p.n_experts;
        first_byte = select(0u, (expert - p.first_expert) * p.n_rows * p.row_bytes, is_mine);
        bias_at = expert * p.out_len;
    }
#for r NR
    let row$r = first_byte + min(row + $ru, p.n_rows - 1u) * p.row_bytes;
#end
#for t NT
    let x$t = min(token + $tu, p.n_tokens - 1u) / p.x_div * p.x_stride;
#end
#for r NR
#for t NT
    var sum$r_$t = 0.0;
#end
#end
    let n_groups = select(0u, (p.row_len + 31u) / 32u, is_mine);
    for (var g = lane; g < n_groups; g += GROUP) {
#for t NT
#for k 8
        let x$t_$k = x4(x$t, 8u * g + $ku);
#end
#end
#for r NR
        {
            let e = unpack(row$r, g);
#for t NT
            sum$r_$t += dot(e.v0, x$t_0) + dot(e.v1, x$t_1) + dot(e.v2, x$t_2) + dot(e.v3, x$t_3)
                + dot(e.v4, x$t_4) + dot(e.v5, x$t_5) + dot(e.v6, x$t_6) + dot(e.v7, x$t_7);
#end
        }
#end
    }
#for r NR
#for t NT
    {
        let sum = group_sum(sum$r_$t, lid);
        if lane == 0u && is_mine && row + $ru < p.n_rows && token + $tu < p.n_tokens {
            let at = (token + $tu) * p.out_stride + p.first_row + row + $ru;
            var y = sum;
            if p.has_bias != 0u {
                y += bias[bias_at + row + $ru];
            }
            if p.has_residual != 0u {
                y += residual[at];
            }
            out[at] = y;
        }
    }
#end
#end
}
