// The size of each lane's subgroup, its place there, and the sum of the subgroup's lanes.
@group(0) @binding(0) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32
) {
    out[3u * lid] = size;
    out[3u * lid + 1u] = lane;
    out[3u * lid + 2u] = subgroupAdd(lid);
}
