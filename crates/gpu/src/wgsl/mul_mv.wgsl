// Matrices times few tokens.
//
//   for each group of 32 elements of the row, GROUP lanes taking turns:
//       unpack it once for NT tokens, multiply, add up
//   sum over the lanes
//
// 1. GROUP lanes share NR rows, so that what is read of x serves NR rows; of gate and up they
//    share a row of each, so that one of both can be made at once.
// 2. Bytes are read as they lie in the file; a lane reads whole words of neighbouring blocks.
#include product
#include group_sum
#include gated

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let lane = lid % GROUP;
    let tile = wid.x + wid.z * 32768u;
    let row = (tile * (64u / GROUP) + lid / GROUP) * NA;
    let token = wid.y * NT;
    var expert_at = 0u;
    var expert = 0u;
    var is_mine = true;
    if HAS_EXPERTS {
        expert = experts[token];
        is_mine = expert >= p.first_expert && expert < p.first_expert + p.n_experts;
        expert_at = select(0u, (expert - p.first_expert) * p.expert_bytes, is_mine);
    }
#for r NR
    let row$r = expert_at + w_row(min(row + $ru * row_step(), p.n_rows - 1u));
#end
#for t NT
    let x$t = x_row(min(token + $tu, p.n_tokens - 1u));
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
    let is_first = lane == 0u && is_mine;
#include answer
}
