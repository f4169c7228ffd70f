// The sum over the lanes of a norm's workgroup, by subgroups of GROUP.
var<workgroup> block_parts: array<f32, LANES / GROUP>;

fn block_sum(value: f32, lid: u32) -> f32 {
    let part = subgroupAdd(value);
    // Those of a sum before are read.
    workgroupBarrier();
    if lid % GROUP == 0u {
        block_parts[lid / GROUP] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < LANES / GROUP; i += 1u) {
        sum += block_parts[i];
    }
    return sum;
}
