// Matrices times few tokens.
//
//   for each group of 32 elements of the row, GROUP lanes taking turns:
//       unpack it once for NT tokens, multiply, add up
//   sum over the lanes
//
// 1. GROUP lanes share a row; of gate and up a row of each, so that one of both can be made at once.
// 2. Bytes are read as they lie in the file; a lane reads whole words of neighbouring blocks, and of
//    numbers of their own the next four.
// 3. A workgroup has the 32 rows that become a group of bytes, where it answers with them.
#include product
#include group_sum
#include gated
#include block

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) wid: vec3<u32>, @builtin(local_invocation_index) lid: u32) {
    let lane = lid % GROUP;
    let tile = wid.x + wid.z * 32768u;
    let token = wid.y * NT;
#include own_matrix
    let is_first = lane == 0u && is_mine;
#for turn TURNS
    {
        let row_of_tile = $turnu * (LANES / GROUP) + lid / GROUP;
        let row = tile * (TURNS * (LANES / GROUP)) + row_of_tile;
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
#include answer
    }
#end
#include write_block
}
