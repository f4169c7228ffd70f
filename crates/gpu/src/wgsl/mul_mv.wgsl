// Matrices times few tokens.
//
//   for each group of 32 elements of the row, GROUP lanes taking turns:
//       unpack it once for NT tokens, multiply, add up
//   sum over the lanes
//
// 1. GROUP lanes share a row; of gate and up a row of each, so that one of both can be made at once.
// 2. Bytes are read as they lie in the file; a lane reads whole words of neighbouring blocks, and of
//    numbers of their own the next four.
#include product
#include group_sum
#include gated

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let lane = lid % GROUP;
    let tile = wid.x + wid.z * 32768u;
    let row = tile * (64u / GROUP) + lid / GROUP;
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
    let row$r = expert_at + w_row(min(row + $ru * p.second_at, p.n_rows - 1u));
#end
#for t NT
    let x$t = x_row(min(token + $tu, p.n_tokens - 1u));
#end
#for r NR
#for t NT
    var sum$r_$t = 0.0;
#end
#end
#include terms
    let is_first = lane == 0u && is_mine;
#include answer
}
