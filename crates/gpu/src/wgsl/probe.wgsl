// The size of each lane's subgroup, and its place there.
@group(0) @binding(0) var<storage, read_write> out: array<u32>;

@compute @workgroup_size(64)
fn main(
    @builtin(local_invocation_index) lid: u32,
    @builtin(subgroup_size) size: u32,
    @builtin(subgroup_invocation_id) lane: u32
) {
    out[2u * lid] = size;
    out[2u * lid + 1u] = lane;
}
