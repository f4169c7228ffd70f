enable f16;
enable wgpu_cooperative_matrix;
// Matrices times many tokens with matrix units that multiply 16 by 16 in f16 and add up in f32.
//
//   for each two groups of 32 elements of the rows:
//       TILE_ROWS rows of w and TILE_TOKENS tokens of x into workgroup memory, in f16
//       each subgroup: 16 TM rows times 16 TN tokens, in products of 16 by 16 by 16
//
// 1. A group of w is unpacked once for all tokens of the tile.
// 2. Rows in workgroup memory are 72 elements apart, so that eight of them meet all of its banks.
// 3. The sums stay in the matrix units' registers, and leave through workgroup memory.
#include product
#include tile

const STRIDE = 18u; // vec4 from row to row
var<workgroup> w_tile: array<vec4<f16>, TILE_ROWS * STRIDE>; // [TILE_ROWS][64 elements]
var<workgroup> x_tile: array<vec4<f16>, TILE_TOKENS * STRIDE>; // [TILE_TOKENS][64 elements]
var<workgroup> out_tile: array<f32, LANES * 8u>; // of each subgroup [16 tokens][16 rows]

#include pieces

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
#include own_tile
    let first_row = wid.x * TILE_ROWS;
    let lane = lid % 32u;
    let unit = lid / 32u; // subgroup
    let unit_row = unit * UNIT_ROWS % TILE_ROWS;
    let unit_token = unit * UNIT_ROWS / TILE_ROWS * UNIT_TOKENS;
    let n_groups = (p.row_len + 31u) / 32u;
    let own_piece = lid % PIECES;
#for u WU
    let row$u = ($uu * LANES + lid) / PIECES;
    let w_at$u = expert_at + w_row(min(first_row + row$u, p.n_rows - 1u));
#end
#for u XU
    let x_to$u = ($uu * LANES + lid) / 16u * STRIDE + lid % 16u;
    // What stands behind the tile's tokens is not stored.
    let token$u = token_at(first, n, min(($uu * LANES + lid) / 16u, n - 1u));
    let x_at$u = x_row(token$u) + lid % 16u;
#end
#for i TM
#for j TN
    var sum$i_$j = coop_mat16x16<f32, C>();
#end
#end
#for u WU
    var w$u = w_piece(w_at$u, 0u, own_piece);
#end
#for u XU
    var x$u = x[x_at$u];
#end
    for (var g = 0u; g < n_groups; g += 2u) {
        workgroupBarrier();
#for u WU
        write_w(row$u * STRIDE, own_piece, w$u);
#end
#for u XU
        x_tile[x_to$u] = x$u;
#end
        workgroupBarrier();
        // The next ones are on their way while these are multiplied; behind the last nobody reads them.
#for u WU
        w$u = w_piece(w_at$u, g + 2u, own_piece);
#end
#for u XU
        x$u = x[x_at$u + 8u * (g + 2u)];
#end
#for q 4
#for i TM
        let w$i_$q = coopLoadT<coop_mat16x16<f16, A>>(&w_tile[(unit_row + $iu * 16u) * STRIDE + $qu * 4u], STRIDE);
#end
#for j TN
        let x$j_$q = coopLoad<coop_mat16x16<f16, B>>(&x_tile[(unit_token + $ju * 16u) * STRIDE + $qu * 4u], STRIDE);
#end
#for i TM
#for j TN
        sum$i_$j = coopMultiplyAdd(w$i_$q, x$j_$q, sum$i_$j);
#end
#end
#end
    }
#for i TM
#for j TN
    workgroupBarrier();
    coopStore(sum$i_$j, &out_tile[unit * 256u], 16u);
    workgroupBarrier();
    for (var k = lane; k < 256u; k += 32u) {
        let i = unit_token + $ju * 16u + k / 16u;
        if i < n {
            let token = token_at(first, n, i);
            let sum = out_tile[unit * 256u + k] * divisor(token);
            store(first_row + unit_row + $iu * 16u + k % 16u, expert, token, sum);
        }
    }
#end
#end
}
