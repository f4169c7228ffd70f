// Matrices times many tokens.
//
//   for each group of 32 elements of the rows:
//       64 rows of w and 32 tokens of x into workgroup memory, w as f32
//       each lane: 8 rows times 4 tokens
//
// 1. A group is unpacked once for 32 tokens, by one lane each.
// 2. The sums stay in registers, in eight vectors over the tokens.
#include product
#include tile

var<workgroup> w_tile: array<vec4<f32>, 512>; // [8][64 rows]
var<workgroup> x_tile: array<vec4<f32>, 256>; // [8][32 tokens]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
#include own_tile
    let first_row = wid.x * 64u;
    let w_at = expert_at + w_row(min(first_row + lid, p.n_rows - 1u));
    let tx = lid % 8u;
    let ty = lid / 8u;
    let n_groups = (p.row_len + 31u) / 32u;
#for i 4
    let token$i = token_at(first, n, $iu * 8u + ty);
    let base$i = x_row(token$i);
#end
#for r 8
    var sum$r = vec4<f32>(0.0);
#end
    for (var g = 0u; g < n_groups; g += 1u) {
        let e = unpack(w_at, g);
#for k 8
        w_tile[$k * 64 + lid] = e.v$k;
#end
#for i 4
        {
            var v = vec4<f32>(0.0);
            if token$i != NO_TOKEN {
                v = x4(base$i, g, tx);
            }
            x_tile[tx * 32u + $iu * 8u + ty] = v;
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
    store(first_row + tx + $ru * 8u, expert, token0, sum$r.x);
    store(first_row + tx + $ru * 8u, expert, token1, sum$r.y);
    store(first_row + tx + $ru * 8u, expert, token2, sum$r.z);
    store(first_row + tx + $ru * 8u, expert, token3, sum$r.w);
#end
}
