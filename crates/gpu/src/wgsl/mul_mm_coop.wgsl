enable wgpu_cooperative_matrix;
// Matrices times many tokens with the device's matrix units.
//
//   for each group of 32 elements of the rows:
//       64 rows of w and 32 tokens of x into workgroup memory, w as f32
//       each of two subgroups: 32 tokens times 32 rows, in products of 8 by 8 by 8
//
// 1. A group is unpacked once for 32 tokens, by one lane each.
// 2. The sums stay in the matrix units' registers, and leave through workgroup memory.
#include product
#include tile

var<workgroup> w_tile: array<f32, 2048>; // [32 elements][64 rows], and at the end [32 tokens][64 rows]
var<workgroup> x_tile: array<f32, 1024>; // [32 tokens][32 elements]

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
#include own_tile
    let first_row = wid.x * 64u;
    let w_at = expert_at + w_row(min(first_row + lid, p.n_rows - 1u));
    let half = lid / 32u * 32u; // rows of this subgroup
    let n_groups = (p.row_len + 31u) / 32u;
#for i 4
    let token$i = token_at(first, n, $iu * 8u + lid / 8u);
    let base$i = x_row(token$i);
#end
    // Nothing says that a matrix without a value is zero.
    x_tile[lid] = 0.0;
    workgroupBarrier();
#for i 4
    var sum0_$i = coopLoadT<coop_mat8x8<f32, C>>(&x_tile[0], 8u);
    var sum1_$i = coopLoadT<coop_mat8x8<f32, C>>(&x_tile[0], 8u);
    var sum2_$i = coopLoadT<coop_mat8x8<f32, C>>(&x_tile[0], 8u);
    var sum3_$i = coopLoadT<coop_mat8x8<f32, C>>(&x_tile[0], 8u);
#end
    workgroupBarrier();
    for (var g = 0u; g < n_groups; g += 1u) {
        let e = unpack(w_at, g);
#for k 8
        w_tile[($ku * 4u) * 64u + lid] = e.v$k.x;
        w_tile[($ku * 4u + 1u) * 64u + lid] = e.v$k.y;
        w_tile[($ku * 4u + 2u) * 64u + lid] = e.v$k.z;
        w_tile[($ku * 4u + 3u) * 64u + lid] = e.v$k.w;
#end
#for i 4
        {
            var v = vec4<f32>(0.0);
            if token$i != NO_TOKEN {
                v = x4(base$i, g, lid % 8u);
            }
            let to = ($iu * 8u + lid / 8u) * 32u + lid % 8u * 4u;
            x_tile[to] = v.x;
            x_tile[to + 1u] = v.y;
            x_tile[to + 2u] = v.z;
            x_tile[to + 3u] = v.w;
        }
#end
        workgroupBarrier();
        for (var k = 0u; k < 32u; k += 8u) {
#for i 4
            let x$i = coopLoadT<coop_mat8x8<f32, A>>(&x_tile[$iu * 256u + k], 32u);
            let w$i = coopLoadT<coop_mat8x8<f32, B>>(&w_tile[k * 64u + half + $iu * 8u], 64u);
#end
#for i 4
            sum0_$i = coopMultiplyAdd(x0, w$i, sum0_$i);
            sum1_$i = coopMultiplyAdd(x1, w$i, sum1_$i);
            sum2_$i = coopMultiplyAdd(x2, w$i, sum2_$i);
            sum3_$i = coopMultiplyAdd(x3, w$i, sum3_$i);
#end
        }
        workgroupBarrier();
    }
#for i 4
    coopStoreT(sum0_$i, &w_tile[half + $iu * 8u], 64u);
    coopStoreT(sum1_$i, &w_tile[512u + half + $iu * 8u], 64u);
    coopStoreT(sum2_$i, &w_tile[1024u + half + $iu * 8u], 64u);
    coopStoreT(sum3_$i, &w_tile[1536u + half + $iu * 8u], 64u);
#end
    workgroupBarrier();
    for (var i = 0u; i < n; i += 1u) {
        store(first_row + lid, expert, token_at(first, n, i), w_tile[i * 64u + lid]);
    }
}
