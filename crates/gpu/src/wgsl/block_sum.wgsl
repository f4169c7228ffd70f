// The sum over the 64 lanes of a workgroup.
var<workgroup> block_values: array<f32, 64>;

fn block_sum(value: f32, lid: u32) -> f32 {
    block_values[lid] = value;
    workgroupBarrier();
    for (var n = 32u; n > 0u; n /= 2u) {
        if lid < n {
            block_values[lid] += block_values[lid + n];
        }
        workgroupBarrier();
    }
    let sum = block_values[0];
    workgroupBarrier();
    return sum;
}
