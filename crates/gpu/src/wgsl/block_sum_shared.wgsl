// The sum over the lanes of a norm's workgroup, through workgroup memory.
var<workgroup> block_values: array<f32, LANES>;
var<workgroup> block_parts: array<f32, 16>;

fn block_sum(value: f32, lid: u32) -> f32 {
    block_values[lid] = value;
    workgroupBarrier();
    if lid < 16u {
        var part = 0.0;
        for (var i = lid; i < LANES; i += 16u) {
            part += block_values[i];
        }
        block_parts[lid] = part;
    }
    workgroupBarrier();
    var sum = 0.0;
    for (var i = 0u; i < 16u; i += 1u) {
        sum += block_parts[i];
    }
    return sum;
}
